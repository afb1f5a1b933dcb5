"""Local files as a corpus: text, or JSON objects with a named field, plain or gzipped.

    paths=('book.txt', 'notes/**/*.md', 'news.jsonl.gz')

A suffix .jsonl, .ndjson or .json means one document per object, in `field`. Everything else is
text, and `unit` defines a document of it. Documents are split by the hash of their text, or
`held_out_paths` names the held-out files. Ours.
"""

import functools
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dlm.core import files
from dlm.core.config import located
from dlm.core.errors import UserError
from dlm.core.named import Place, nearest
from dlm.data import content
from dlm.data.base import Source, Split, Splits, check_share, filtered, split_by_hash

_WHOLE = (
    65_536  # characters up to which a file of text is one document under unit='auto'
)
_PART = 8_192  # characters after which a longer one is cut at the next blank line
_ROWS = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv", ".parquet")
_LINE_END = r"(?:\r\n|\n|\r(?!\n))"
_PARAGRAPH_END = re.compile(rf"{_LINE_END}[ \t]*{_LINE_END}")
# Where a long text is cut, best place first.
_CUTS = ("\n\n", "\r\n\r\n", "\n", "\r\r", "\r")
_HALVES = "halves of characters, now '?'"
_IN_BOTH = "training documents that are held out as well"


class _Read(NamedTuple):
    splits: Splits
    dropped: dict[str, int]


@dataclass(frozen=True)
class Local(Source):
    """Read files and globs, in sorted order."""

    paths: tuple[Place, ...] = located()  # '~' and '**' work
    field: str = "text"  # of a JSON object
    held_out: float = (
        0.02  # share of the documents; ignored where held_out_paths is set
    )
    # A document of text; auto: a file, cut at blank lines where it is long.
    unit: Literal["auto", "file", "paragraph", "line"] = "auto"
    held_out_paths: tuple[Place, ...] | None = located(None)
    unique: bool = False  # drop equal documents
    # Of the files; auto: by name and content; suffix: only .jsonl and .ndjson are JSON.
    form: Literal["auto", "text", "json", "suffix"] = "auto"

    def __post_init__(self):
        check_share(self.held_out)
        if not self.paths:
            raise ValueError("paths must name at least one file")

    def documents(self, split: Split) -> list[str]:
        documents = self._all.splits[split]
        if not documents:
            total = sum(map(len, self._all.splits.values()))
            raise UserError(
                f"none of {total} documents of {', '.join(self.paths)} is in the split {split!r}: "
                f"change held_out={self.held_out:g} or unit={self.unit!r}, or name held_out_paths"
            )
        return documents

    @property
    def dropped(self) -> dict[str, int]:
        return self._all.dropped

    @functools.cached_property
    def _all(self) -> _Read:
        dropped: Counter = Counter()
        train = filtered(self._read(self.paths, dropped), self.unique, dropped)
        if self.held_out_paths is None:
            return _Read(split_by_hash(train, self.held_out), dict(+dropped))
        held_out = filtered(
            self._read(self.held_out_paths, dropped), self.unique, dropped
        )
        # Held-out documents are never trained on, even if a training file contains them too.
        known = set(held_out)
        rest = [document for document in train if document not in known]
        dropped[_IN_BOTH] += len(train) - len(rest)
        return _Read(dict(train=rest, held_out=held_out), dict(+dropped))

    def _read(self, patterns: tuple[str, ...], dropped: Counter) -> list[str]:
        # Each file is read once, however many patterns and links name it.
        by_target: dict[str, Path] = {}
        for file in itertools.chain.from_iterable(map(_files, patterns)):
            by_target.setdefault(os.path.realpath(file), file)
        documents: list[str] = []
        for file in by_target.values():
            documents += self._documents(file, dropped)
        return documents

    def _documents(self, file: Path, dropped: Counter) -> Iterator[str]:
        has_rows = self._has_rows(file)
        text = content.text(file, look=self.form in ("auto", "json"))
        if has_rows:
            yield from _fields(text, file, self.field, dropped)
            return
        is_guess = self.form == "auto" and self.unit == "auto"
        if is_guess and content.looks_like_rows(text):
            raise UserError(
                f"{file} holds JSON objects: say form='json' to read their field {self.field!r}, "
                "or form='text' for text"
            )
        yield from _units(text, self.unit, dropped)

    def _has_rows(self, file: Path) -> bool:
        """Whether a file consists of JSON objects, by its name and `form`."""
        if self.form == "suffix":
            return file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
        if self.form != "auto":
            return self.form == "json"
        name = file.name.lower().removesuffix(".gz")
        if name.endswith(_TABLES):
            raise UserError(
                f"{file} is a table: write it as JSON lines, or say form='text' to read it as it is"
            )
        return name.endswith(_ROWS)


def _files(pattern: str) -> list[Path]:
    """The files that a path or a glob names."""
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        example = os.path.join(glob.escape(pattern), "**", "*.txt")
        raise UserError(f"{pattern} is a folder: name its files, such as {example}")
    if os.path.isfile(pattern):
        return [Path(pattern)]
    # Not a file itself, so a pattern.
    matches = glob.glob(pattern, recursive=True)
    files_matched = sorted(Path(path) for path in matches if not os.path.isdir(path))
    for path in files_matched:
        if not path.is_file():
            kind = "a device" if path.exists() else "a link that leads nowhere"
            raise UserError(f"{path} is no file, but {kind}")
    if not files_matched:
        raise UserError(_no_match(pattern))
    return files_matched


def _no_match(pattern: str) -> str:
    if not glob.has_magic(pattern):
        return f"no file {pattern}"
    # A name may contain '[', which begins a set of characters in a pattern.
    literal = pattern.replace("[", "[[]")
    if glob.glob(literal, recursive=True):
        return (
            f"no file matches {pattern}, in which [ begins a pattern: "
            f"a [ of a name is written [[], here {literal}"
        )
    return f"no file matches {pattern}"


def _fields(text: str, file: Path, field: str, dropped: Counter) -> Iterator[str]:
    for where, row in content.rows(text, file):
        if field not in row:
            names = ", ".join(row)
            raise UserError(
                f"{file}, {where}: no field {field!r}; it has {names}{nearest(field, row)}"
            )
        value = row[field]
        if not isinstance(value, str):
            raise UserError(
                f"{file}, {where}: field {field!r} is not text but {value!r:.40}"
            )
        yield _whole(value, dropped)


def _whole(text: str, dropped: Counter) -> str:
    """Replaces each half of a character by '?': JSON can spell lone surrogates, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        dropped[_HALVES] += sum("\ud800" <= character <= "\udfff" for character in text)
    return text.encode("utf-8", "replace").decode()


def _units(text: str, unit: str, dropped: Counter) -> Iterator[str]:
    """Cuts a text into documents.

    Nothing is lost under 'auto' and 'file'; the other units drop the blank lines or line ends
    between documents.
    """
    if unit == "line":
        lines = files.lines(text)
        yield from _full(lines, "empty lines", dropped)
    elif unit == "paragraph":
        paragraphs = [part.strip("\r\n") for part in _PARAGRAPH_END.split(text)]
        yield from _full(list(filter(None, paragraphs)), "empty paragraphs", dropped)
    elif unit == "file" or len(text) <= _WHOLE:
        yield text
    else:
        yield from _parts(text)


def _full(parts: list[str], kind: str, dropped: Counter) -> list[str]:
    full = [part for part in parts if part.strip()]
    dropped[kind] += len(parts) - len(full)
    return full


def _parts(text: str) -> Iterator[str]:
    """Cuts at the first blank line, else line end, else anywhere, after one to two parts."""
    begin = 0
    while len(text) - begin > 2 * _PART:
        near = begin + _PART
        far = near + _PART
        end = _cut(text, near, far)
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _cut(text: str, near: int, far: int) -> int:
    for mark in _CUTS:
        at = text.find(mark, near, far)
        if at >= 0:
            return at + len(mark)
    return far
