"""Mutated data files: text and JSON under all sorts of names, packed, encoded, joined, cut and damaged.

A file is accepted only where its documents account for all of it: joined they are the text, or they are the fields of every object; what
is in none of them is in the source's count of what it dropped. What a file holds is found here a second time, in other words.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dlm.core.errors import UserError
from dlm.data import content
from dlm.data.local import Local
from dlm.drills.fuzzed import ACCEPTED, REFUSED

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
SIGNS = ("\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", " ", "\t", "\u3000")
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
UNITS, FORMS = ("auto", "file", "paragraph", "line"), ("auto", "text", "json")
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")
VALUES = (
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


class Case(NamedTuple):
    done: str  # what was done, for people
    raw: bytes
    name: str
    fields: dict  # of Local
    whole: bool  # nothing is wrong with it: it must be read


def cases(seed: int, count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (what was done, outcome) of `count` files, each read as a corpus and as rows."""
    for n in range(count):
        case = made(random.Random(f"{seed} {n}"))
        path = folder / case.name
        path.write_bytes(case.raw)
        try:
            yield case.done, judged(path, case)
        finally:
            path.unlink()


# ------------------------------------------------------------------------------------------------------------------ files


def made(rng: random.Random) -> Case:
    """One file: content, encoding, packing and damage, one drawn after the other."""
    kind = rng.choice(
        ("text", "text", "lines", "lines", "array", "pretty", "deep", "blank", "copies")
    )
    text, name = written(kind, rng), rng.choice(NAMES)
    fields = dict(
        unit=rng.choice(UNITS), form=rng.choices(FORMS, (4, 1, 1))[0], unique=rng.random() < 0.2
    )
    done = [
        f"{kind} as {name}, unit={fields['unit']}, form={fields['form']}, unique={fields['unique']}"
    ]
    encoding = rng.choice(ENCODINGS) if rng.random() < 0.2 else "utf-8"
    raw = text.encode(encoding, "replace")
    done += [encoding] if encoding != "utf-8" else []
    if rng.random() < 0.3:
        raw, how = packed(raw, rng)
        name, done = name + rng.choice((".gz", ".GZ", "")), [*done, how]
    plain = len(done) == 1
    if rng.random() < 0.3:
        raw, how = damaged(raw, rng)
        done.append(how)
    whole = (
        plain
        and len(done) == 1
        and kind == "copies"
        and name in ("a.txt", "b.md", "c", "l [1].txt")
        and fields["form"] != "json"
    )
    return Case("; ".join(done), raw, name, fields, whole)


def written(kind: str, rng: random.Random) -> str:
    """Text of a kind, with line ends of one or of all kinds."""
    ends = [rng.choice(ENDS)] if rng.random() < 0.7 else ENDS
    if kind == "text":
        return "".join(
            rng.choice(WORDS) + rng.choice((*SIGNS, *ends)) for _ in range(rng.randint(0, 40))
        )
    if kind == "copies":
        return "".join(
            rng.choice(("one", "two", "three")) + rng.choice(ends) * rng.choice((1, 1, 2))
            for _ in range(rng.randint(1, 9))
        )
    if kind == "blank":
        return "".join(rng.choice((*ends, " ", "\ufeff")) for _ in range(rng.randint(0, 5)))
    if kind == "deep":
        depth = rng.choice((3, 3, 500, 100_000))
        return '{"text": "a", "n": ' + "[" * depth + "]" * rng.choice((depth, depth, 0)) + "}"
    rows = [row(rng) for _ in range(rng.randint(1, 6))]
    if kind == "array":
        return json.dumps(rows, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace").decode()
    if kind == "pretty":
        told = json.dumps(rng.choice((rows, rows[0])), indent=1).replace("\n", rng.choice(ends))
        return told
    lines = (spelled(row, rng) + rng.choice(ends) * rng.choice((1, 1, 1, 2)) for row in rows)
    return "".join(lines)


def row(rng: random.Random) -> dict:
    """An object, most often with text under 'text'."""
    text = "".join(
        rng.choice((*WORDS, *SIGNS, *ENDS, *["\ud83d"] * 5)) for _ in range(rng.randint(0, 4))
    )
    made = {"id": rng.choice(VALUES), "text": text} if rng.random() < 0.9 else {"txet": text}
    if rng.random() < 0.1:
        made["text"] = rng.choice(VALUES)
    return made


def spelled(row: dict, rng: random.Random) -> str:
    """An object as JSON, now and then with a name twice."""
    told = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace").decode()
    return told[:-1] + ', "text": "again"}' if rng.random() < 0.1 else told


def packed(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Packed with gzip: once, twice, or as several members."""
    at, how = (
        rng.randint(0, len(raw)),
        rng.choice(("gzip", "gzip", "gzip twice", "two members of gzip")),
    )
    once = gzip.compress(raw, mtime=0)
    results = {
        "gzip twice": gzip.compress(once, mtime=0),
        "two members of gzip": gzip.compress(raw[:at], mtime=0) + gzip.compress(raw[at:]),
    }
    return results.get(how, once), how


def damaged(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Cut short, one bit turned, a byte order mark or rubbish put in, or twice in a row."""
    at, how = (
        rng.randrange(len(raw) + 1),
        rng.choice(
            ("cut", "a bit turned", "a mark inside", "rubbish inside", "joined with itself")
        ),
    )
    if how == "cut":
        return raw[:at], f"cut at {at}"
    if how == "a bit turned" and raw:
        at = min(at, len(raw) - 1)
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[
            at + 1 :
        ], f"a bit turned in byte {at}"
    if how == "joined with itself":
        return raw + raw, how
    put = b"\xef\xbb\xbf" if how == "a mark inside" else rng.randbytes(rng.randint(1, 9))
    return raw[:at] + put + raw[at:], f"{how}, at {at}"


# --------------------------------------------------------------------------------------------------------------- judgement


def judged(path: Path, case: Case) -> str:
    """What is said of a file, read as a corpus and as rows."""
    read = {"as a corpus": lambda: corpus(path, case), "as rows": lambda: rows(path)}
    outcomes = {}
    for how, reader in read.items():
        try:
            outcomes[how] = reader()
        except UserError as error:
            one_line = "\n" not in str(error) and str(path) in str(error)
            outcomes[how] = (
                REFUSED
                if one_line
                else f"refused {how} without its name or in several lines: {error}"
            )
        except Exception as error:
            outcomes[how] = f"read {how}: {type(error).__name__}: {str(error)[:200]}"
    faults = [outcome for outcome in outcomes.values() if outcome not in (ACCEPTED, REFUSED)]
    if case.whole and outcomes["as a corpus"] == REFUSED:
        faults.append("refused, though nothing is wrong with it")
    return "; ".join(faults) or outcomes["as a corpus"]


def corpus(path: Path, case: Case) -> str:
    """Whether the documents of a file are all of it; raises UserError where it is refused."""
    source = Local((str(path),), held_out=1.0, **case.fields)
    documents, dropped = source.documents("held_out"), source.dropped
    if case.fields["unique"]:
        every = Local((str(path),), held_out=1.0, **case.fields | dict(unique=False)).documents(
            "held_out"
        )
        if list(dict.fromkeys(every)) != documents or len(every) - len(documents) != dropped.get(
            "duplicates", 0
        ):
            return "unique documents are not those of the file, or the duplicates are not counted"
        documents = every
    text, form, unit = unpacked(case.raw), case.fields["form"], case.fields["unit"]
    if form == "json" or (
        form == "auto" and re.search(r"\.(jsonl|ndjson|json)(\.gz)?$", path.name, re.IGNORECASE)
    ):
        given = objects(text)
        if given is None:
            return "accepted as JSON, which it is not"
        texts = [entry["text"] for entry in given]
        halves = sum("\ud800" <= sign <= "\udfff" for entry in texts for sign in entry)
        said = dropped.get("halves of characters, now '?'", 0), dropped.get("empty documents", 0)
        texts = [re.sub("[\ud800-\udfff]", "?", entry) for entry in texts]
        return (
            ACCEPTED
            if documents == list(filter(None, texts)) and said == (halves, texts.count(""))
            else "fields are lost or changed"
        )
    if form == unit == "auto" and (objects(text) or len(lines_of_objects(text)) >= 5):
        return "objects are documents with all their braces"
    if unit in ("auto", "file"):
        return ACCEPTED if "".join(documents) == text else "text is lost or changed"
    return between(documents, text, dropped, unit)


def rows(path: Path) -> str:
    """Whether the rows of a file, as the harness reads them, are all of it; raises UserError where it is refused."""
    results = [row for _, row in content.rows(content.text(path), path)]
    same = repr(results) == repr(objects(unpacked(path.read_bytes())))  # NaN is not equal to itself
    return ACCEPTED if same else "rows are lost or changed"


def unpacked(raw: bytes) -> str:
    """The text of an accepted file."""
    raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    return raw.decode().removeprefix("\ufeff")


def objects(text: str) -> list[dict] | None:
    """The objects that a text consists of, an array's or one after the other with blanks between; None where it is anything else."""
    decoder, results, at = json.JSONDecoder(object_pairs_hook=once), [], 0
    while at < len(text):
        if text[at] in " \t\r\n\ufeff":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        results.append(value)
    results = results[0] if len(results) == 1 and isinstance(results[0], list) else results
    return results if all(isinstance(value, dict) for value in results) else None


def once(pairs: list[tuple]) -> dict:
    """An object whose names differ."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def lines_of_objects(text: str) -> list[dict]:
    """The objects of a text's first lines, up to the first line that is none."""
    results = []
    for line in filter(None, (line.strip(" \t\ufeff") for line in re.split(r"[\r\n]+", text))):
        alone = objects(line) if line.startswith("{") else None
        if not alone or len(alone) > 1:
            break
        results += alone
    return results


def between(documents: list[str], text: str, dropped: dict[str, int], unit: str) -> str:
    """Whether only blanks stand between the documents of a text, and as many blank lines were dropped as there are."""
    at = 0
    for document in documents:
        begin = text.find(document, at)
        if begin < 0 or text[at:begin].strip():
            return "text is lost between documents"
        if unit == "line" and re.search(r"[\r\n]", document):
            return "a line has an end in it"
        at = begin + len(document)
    if text[at:].strip():
        return "text is lost at the end"
    blank = [
        line
        for line in re.sub("\r\n?", "\n", text).removesuffix("\n").split("\n")
        if not line.strip()
    ]
    if unit == "line" and len(blank) != dropped.get("empty lines", 0):
        return f"{len(blank)} blank lines, of which {dropped.get('empty lines', 0)} are counted"
    return ACCEPTED
