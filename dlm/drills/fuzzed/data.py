"""Mutated data files: text and JSON under many names, packed, encoded, joined, cut and damaged.

A file is accepted only where its documents account for all of it: joined they are the text, or they
are the fields of every object; anything else is in the source's count of what it dropped. What a
file contains is computed here a second time, by other code than the reader's.
"""

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.data import content
from dlm.data.local import Local
from dlm.drills.data_files import Case, draw
from dlm.drills.fuzzed import ACCEPTED, GOOD, REFUSED, Cases

Dropped = dict[str, int]  # reason → how many
_JSON_NAME = re.compile(r"\.(jsonl|ndjson|json)(\.gz)?$", re.IGNORECASE)
_HALVES = re.compile("[\ud800-\udfff]")


def cases(seed: int, count: int, folder: Path) -> Cases:
    """Yields (mutation, outcome) of `count` files, each read as a corpus and as rows."""
    for n in range(count):
        case = draw(random.Random(f"{seed} {n}"))
        path = folder / case.name
        path.write_bytes(case.raw)
        try:
            yield case.mutation, judged(path, case)
        finally:
            path.unlink()


def judged(path: Path, case: Case) -> str:
    """Returns the outcome of a file, read as a corpus and as rows."""
    # The same file must be right in both ways to read it.
    as_corpus = _outcome("as a corpus", lambda: corpus(path, case), path)
    as_rows = _outcome("as rows", lambda: rows(path), path)
    faults = []
    for outcome in (as_corpus, as_rows):
        if outcome not in GOOD:
            faults.append(outcome)
    if case.intact and as_corpus == REFUSED:
        faults.append("refused, though nothing is wrong with it")
    return "; ".join(faults) or as_corpus


def _outcome(way: str, read: Callable[[], str], path: Path) -> str:
    try:
        return read()
    except UserError as error:
        if "\n" not in str(error) and str(path) in str(error):
            return REFUSED
        return f"refused {way} without its name or in several lines: {error}"
    except Exception as error:
        return f"read {way}: {type(error).__name__}: {str(error)[:200]}"


# ------------------------------------------------------------------------------------------ corpus


def corpus(path: Path, case: Case) -> str:
    """Whether the documents of a file are all of it; raises UserError where it is refused."""
    documents, dropped = _documents(path, case.fields)
    if case.fields["unique"]:
        # Duplicates are judged against the reading without `unique`.
        every, _ = _documents(path, case.fields | dict(unique=False))
        duplicates = len(every) - len(documents)
        same = list(dict.fromkeys(every)) == documents
        if not same or duplicates != dropped.get("duplicates", 0):
            return "unique documents are not those of the file, or the duplicates are not counted"
        documents = every
    form, unit = case.fields["form"], case.fields["unit"]
    # The documents must account for all of it.
    text = unpacked(case.raw)
    if form == "json" or (form == "auto" and _JSON_NAME.search(path.name)):
        return fields(documents, text, dropped)
    # Without a name that says JSON, the reader goes by the content.
    if form == unit == "auto" and looks_like_json(text):
        return "objects are documents with all their braces"
    if unit in ("auto", "file"):
        same = "".join(documents) == text
        return ACCEPTED if same else "text is lost or changed"
    return between(documents, text, dropped, unit)


def _documents(path: Path, options: dict) -> tuple[list[str], Dropped]:
    source = Local((Place(str(path)),), held_out=1.0, **options)
    return source.documents("held_out"), source.dropped


def fields(documents: list[str], text: str, dropped: Dropped) -> str:
    """Whether the documents are the field 'text' of every object."""
    entries = objects(text)
    if entries is None:
        return "accepted as JSON, which it is not"
    halves, empty = 0, 0
    expected = []
    for entry in entries:
        # Half a character cannot be written as UTF-8.
        field, number = _HALVES.subn("?", entry["text"])
        halves += number
        empty += not field
        if field:
            expected.append(field)
    if documents != expected:
        return "fields are lost or changed"
    counted_halves = dropped.get("halves of characters, now '?'", 0)
    counted_empty = dropped.get("empty documents", 0)
    if (counted_halves, counted_empty) != (halves, empty):
        return "fields are lost or changed"
    return ACCEPTED


def between(
    documents: list[str],
    text: str,
    dropped: Dropped,
    unit: str,
) -> str:
    """Whether only blanks separate the documents, and all blank lines are counted as dropped."""
    at = 0
    # Every document is in the text, in the same order.
    for document in documents:
        begin = text.find(document, at)
        if begin < 0 or text[at:begin].strip():
            return "text is lost between documents"
        if unit == "line" and re.search(r"[\r\n]", document):
            return "a line has an end in it"
        at = begin + len(document)
    if text[at:].strip():
        return "text is lost at the end"
    lines = re.sub("\r\n?", "\n", text).removesuffix("\n").split("\n")
    # Line ends of all kinds count as one.
    blank = sum(not line.strip() for line in lines)
    counted = dropped.get("empty lines", 0)
    if unit == "line" and blank != counted:
        return f"{blank} blank lines, of which {counted} are counted"
    return ACCEPTED


def rows(path: Path) -> str:
    """Whether the rows that the harness reads are all of a file; UserError where it is refused."""
    rows = [row for _, row in content.rows(content.text(path), path)]
    expected = objects(unpacked(path.read_bytes()))
    # Compared as text: NaN is not equal to itself.
    return ACCEPTED if repr(rows) == repr(expected) else "rows are lost or changed"


# ------------------------------------------------------------------------------ a second reader


def unpacked(raw: bytes) -> str:
    """Returns the text of an accepted file."""
    if raw.startswith(b"\x1f\x8b"):
        raw = gzip.decompress(raw)
    return raw.decode().removeprefix("\ufeff")


def looks_like_json(text: str) -> bool:
    """Whether a text consists of objects, or begins with five lines of them."""
    return bool(objects(text)) or len(lines_of_objects(text)) >= 5


def objects(text: str) -> list[dict] | None:
    """Returns the objects of a text: an array's, or one after the other with blanks between.

    Returns None where the text is anything else.
    """
    # Python takes the last of two names; ours must not lose one.
    decoder = json.JSONDecoder(object_pairs_hook=unique_names)
    values: list = []
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n\ufeff":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        values.append(value)
    # An array, rather than objects one after the other.
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not all(isinstance(value, dict) for value in values):
        return None
    return values


def unique_names(pairs: list[tuple]) -> dict:
    """Returns an object; ValueError where two of its names are the same."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands twice")
    return value


def lines_of_objects(text: str) -> list[dict]:
    """Returns the objects of a text's first lines, up to the first line that is none."""
    results: list[dict] = []
    for line in re.split(r"[\r\n]+", text):
        line = line.strip(" \t\ufeff")
        if not line:
            continue
        values = objects(line) if line.startswith("{") else None
        if not values or len(values) > 1:
            break
        results += values
    return results
