"""Draws data files for the fuzzer: text and JSON, encoded, packed with gzip and damaged."""

import gzip
import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

WORDS = (
    "a",
    "the cat",
    "é",
    "\U0001f600",
    "{",
    "[",
    '"',
    "text",
    "\\u0041",
    "\ufeff",
    "\0",
    "\x1b[31m",
    "1e999",
    "",
)
# Signs at which some readers end a line, and ours must not.
SIGNS = (
    "\v",
    "\f",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x85",
    "\u2028",
    "\u2029",
    " ",
    "\t",
    "\u3000",
)
ENDS = ("\n", "\r\n", "\r")
NAMES = (
    "a.txt",
    "b.md",
    "c",
    "d.jsonl",
    "e.JSONL",
    "f.ndjson",
    "g.json",
    "h.Json",
    "i.csv",
    "j.TSV",
    "k.parquet",
    "l [1].txt",
    "m é?.txt",
)
PLAIN_NAMES = ("a.txt", "b.md", "c", "l [1].txt")
UNITS, FORMS = ("auto", "file", "paragraph", "line"), ("auto", "text", "json")
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")
VALUES: tuple[Any, ...] = (
    "text",
    "",
    1,
    None,
    float("nan"),
    float("inf"),
    10**400,
    [],
    {},
    {"text": "deep"},
    True,
    "\ud800",
    "x\udfffy",
    "\u2028",
)
# Twice where more cases of a kind are wanted.
KINDS = ("text", "text", "lines", "lines", "array", "pretty", "deep", "blank", "copies")
PACKINGS = ("gzip", "gzip", "gzip twice", "two members of gzip")
DAMAGES = (
    "cut",
    "a bit turned",
    "a mark inside",
    "rubbish inside",
    "joined with itself",
)
MARK = b"\xef\xbb\xbf"  # byte order mark of UTF-8


class Case(NamedTuple):
    mutation: str  # a description for people
    raw: bytes
    name: str
    fields: dict  # of data.local
    intact: bool  # nothing is wrong with it: it must be read


def draw(rng: random.Random) -> Case:
    """Draws one file: content, name, options, encoding, packing and damage, in this order."""
    # The order of the draws is fixed: a seed must give the same file in every version.
    kind = rng.choice(KINDS)
    text = written(kind, rng)
    name = rng.choice(NAMES)
    unit = rng.choice(UNITS)
    form = rng.choices(FORMS, (4, 1, 1))[0]
    unique = rng.random() < 0.2
    mutations = [f"{kind} as {name}, {unit=!s}, {form=!s}, {unique=}"]

    # Most files are what they should be.
    encoding = rng.choice(ENCODINGS) if rng.random() < 0.2 else "utf-8"
    raw = text.encode(encoding, "replace")
    if encoding != "utf-8":
        mutations.append(encoding)
    if rng.random() < 0.3:
        raw, packing = packed(raw, rng)
        name += rng.choice((".gz", ".GZ", ""))
        mutations.append(packing)
    if rng.random() < 0.3:
        raw, damage = damaged(raw, rng)
        mutations.append(damage)

    # Only such a file is known to be acceptable.
    as_it_was = len(mutations) == 1 and name in PLAIN_NAMES
    intact = as_it_was and kind == "copies" and form != "json"
    fields = dict(unit=unit, form=form, unique=unique)
    return Case("; ".join(mutations), raw, name, fields, intact)


def written(kind: str, rng: random.Random) -> str:
    """Returns text of a kind, with line ends of one or of all kinds."""
    # A file of one system, or one joined from several.
    ends = (rng.choice(ENDS),) if rng.random() < 0.7 else ENDS
    match kind:
        case "text":
            return _text(ends, rng)
        case "copies":
            return _copies(ends, rng)
        case "blank":
            number = rng.randint(0, 5)
            return _some((*ends, " ", "\ufeff"), number, rng)
        case "deep":
            # Deeper than Python's parser can go.
            depth = rng.choice((3, 3, 500, 100_000))
            closed = rng.choice((depth, depth, 0))
            return '{"text": "a", "n": ' + "[" * depth + "]" * closed + "}"
    return _json(kind, ends, rng)


def _some(signs: Sequence[str], number: int, rng: random.Random) -> str:
    return "".join(rng.choice(signs) for _ in range(number))


def _text(ends: tuple[str, ...], rng: random.Random) -> str:
    text = ""
    for _ in range(rng.randint(0, 40)):
        text += rng.choice(WORDS)
        text += rng.choice((*SIGNS, *ends))
    return text


def _copies(ends: tuple[str, ...], rng: random.Random) -> str:
    """Returns lines and paragraphs of which some are the same."""
    text = ""
    for _ in range(rng.randint(1, 9)):
        text += rng.choice(("one", "two", "three"))
        text += rng.choice(ends) * rng.choice((1, 1, 2))
    return text


def _json(kind: str, ends: Sequence[str], rng: random.Random) -> str:
    rows = [row(rng) for _ in range(rng.randint(1, 6))]
    if kind == "array":
        return _dumps(rows, rng)
    if kind == "pretty":
        text = json.dumps(rng.choice((rows, rows[0])), indent=1)
        return text.replace("\n", rng.choice(ends))
    text = ""
    for one in rows:
        text += spelled(one, rng)
        text += rng.choice(ends) * rng.choice((1, 1, 1, 2))
    return text


def _dumps(value: Any, rng: random.Random) -> str:
    """Returns JSON with or without escapes; half characters become '?'."""
    # ASCII with escapes, or the signs themselves.
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "replace").decode()


def row(rng: random.Random) -> dict:
    """Returns an object, most often with text under 'text'."""
    signs = (*WORDS, *SIGNS, *ENDS, *["\ud83d"] * 5)
    # Several halves of a character in a row, which UTF-8 cannot express.
    text = _some(signs, rng.randint(0, 4), rng)
    if rng.random() < 0.9:
        fields: dict[str, Any] = {"id": rng.choice(VALUES), "text": text}
    else:
        fields = {"txet": text}
    if rng.random() < 0.1:
        fields["text"] = rng.choice(VALUES)
    return fields


def spelled(row: dict, rng: random.Random) -> str:
    """Returns an object as JSON, now and then with a name twice."""
    text = _dumps(row, rng)
    if rng.random() < 0.1:
        return text[:-1] + ', "text": "again"}'
    return text


def packed(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Packs with gzip: once, twice, or as several members."""
    # Members may be divided inside a character.
    at = rng.randint(0, len(raw))
    packing = rng.choice(PACKINGS)
    once = gzip.compress(raw, mtime=0)
    if packing == "gzip twice":
        return gzip.compress(once, mtime=0), packing
    if packing == "two members of gzip":
        # The second member has the current time, so packed bytes differ; their content does not.
        first = gzip.compress(raw[:at], mtime=0)
        return first + gzip.compress(raw[at:]), packing
    return once, packing


def damaged(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Cuts, turns one bit, inserts a byte order mark or rubbish, or doubles the file."""
    at = rng.randrange(len(raw) + 1)
    damage = rng.choice(DAMAGES)
    if damage == "cut":
        return raw[:at], f"cut at {at}"
    if damage == "a bit turned" and raw:
        at = min(at, len(raw) - 1)
        # One bit, as a disk or a network might do it.
        turned = raw[at] ^ 1 << rng.randrange(8)
        return raw[:at] + bytes([turned]) + raw[at + 1 :], f"a bit turned in byte {at}"
    if damage == "joined with itself":
        return raw + raw, damage
    inserted = MARK
    if damage != "a mark inside":
        inserted = rng.randbytes(rng.randint(1, 9))
    return raw[:at] + inserted + raw[at:], f"{damage}, at {at}"
