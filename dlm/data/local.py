"""Local files as a corpus: text, or JSON objects with a named field, plain or gzipped.

    paths=('book.txt', 'notes/**/*.md', 'news.jsonl.gz')

A suffix .jsonl, .ndjson or .json means one document per object, in `field`; everything else is text, and `unit` says what one document
is. Documents are split by the hash of their text, or `held_out_paths` names the held-out files.
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

from dlm import data
from dlm.core import files
from dlm.core.config import located
from dlm.core.errors import UserError
from dlm.core.named import Place, nearest
from dlm.data import content

_WHOLE = 65_536  # characters up to which a file of text is one document under unit='auto'
_PART = 8_192  # characters after which a longer one is cut at the next blank line
_ROWS = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv", ".parquet")
_END = r"(?:\r\n|\n|\r(?!\n))"  # of a line


class _Read(NamedTuple):
    splits: dict[data.Split, list[str]]
    dropped: dict[str, int]


@dataclass(frozen=True)
class Local:
    """Files and globs, in sorted order."""

    paths: tuple[Place, ...] = located()  # '~' and '**' work
    field: str = "text"  # of a JSON object
    held_out: float = 0.02  # share of the documents; not read where held_out_paths is given
    unit: Literal["auto", "file", "paragraph", "line"] = (
        "auto"  # a document of text; auto: a file, cut at blank lines where it is long
    )
    held_out_paths: tuple[Place, ...] | None = located(None)
    unique: bool = False  # equal documents are kept once
    form: Literal["auto", "text", "json", "suffix"] = (
        "auto"  # of the files; auto: by name and content; suffix: only .jsonl, .ndjson are JSON
    )

    def __post_init__(self):
        data.check_share(self.held_out)
        if not self.paths:
            raise ValueError("paths must name at least one file")

    def documents(self, split: data.Split) -> list[str]:
        of_split = self._all.splits[split]
        if not of_split:
            total = sum(map(len, self._all.splits.values()))
            raise UserError(
                f"none of {total} documents of {', '.join(self.paths)} is in the split {split!r}: "
                f"change held_out={self.held_out:g} or unit={self.unit!r}, or name held_out_paths"
            )
        return of_split

    @property
    def dropped(self) -> dict[str, int]:
        """How much of the files is in no document."""
        return self._all.dropped

    @functools.cached_property
    def _all(self) -> _Read:
        dropped: Counter = Counter()
        train = data.kept(self._read(self.paths, dropped), self.unique, dropped)
        if self.held_out_paths is None:
            return _Read(data.by_hash(train, self.held_out), dict(+dropped))
        # What is held out is never trained on, whichever files it stands in.
        held_out = data.kept(self._read(self.held_out_paths, dropped), self.unique, dropped)
        known = set(held_out)
        rest = [document for document in train if document not in known]
        dropped["training documents that are held out as well"] += len(train) - len(rest)
        return _Read(dict(train=rest, held_out=held_out), dict(+dropped))

    def _read(self, patterns: tuple[str, ...], dropped: Counter) -> list[str]:
        found: dict[str, Path] = {}  # each file once, however many patterns and links name it
        for file in itertools.chain.from_iterable(map(_files, patterns)):
            found.setdefault(os.path.realpath(file), file)
        return [document for file in found.values() for document in self._documents(file, dropped)]

    def _documents(self, file: Path, dropped: Counter) -> Iterator[str]:
        if self.form == "suffix":
            is_rows = file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
        else:
            name = file.name.lower().removesuffix(".gz")
            is_rows = self.form == "json" or (self.form == "auto" and name.endswith(_ROWS))
            if self.form == "auto" and name.endswith(_TABLES):
                raise UserError(
                    f"{file} is a table: write it as JSON lines, or say form='text' to take it as it stands"
                )
        text = content.text(file, look=self.form in ("auto", "json"))
        if is_rows:
            yield from _fields(text, file, self.field, dropped)
            return
        if self.form == "auto" and self.unit == "auto" and content.looks_like_rows(text):
            raise UserError(
                f"{file} holds JSON objects: say form='json' to read their field {self.field!r}, or form='text' for text"
            )
        yield from _units(text, self.unit, dropped)


def _files(pattern: str) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        raise UserError(
            f"{pattern} is a folder: name its files, such as {os.path.join(glob.escape(pattern), '**', '*.txt')}"
        )
    if os.path.isfile(pattern):
        return [Path(pattern)]
    matches = sorted(
        Path(path) for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)
    )
    for path in matches:
        if not path.is_file():
            raise UserError(
                f"{path} is no file, but {'a device' if path.exists() else 'a link that leads nowhere'}"
            )
    if matches:
        return matches
    if not glob.has_magic(pattern):
        raise UserError(f"no file {pattern}")
    literal = pattern.replace("[", "[[]")
    if glob.glob(literal, recursive=True):
        raise UserError(
            f"no file matches {pattern}, in which [ begins a pattern: a [ of a name is written [[], here {literal}"
        )
    raise UserError(f"no file matches {pattern}")


def _fields(text: str, file: Path, field: str, dropped: Counter) -> Iterator[str]:
    for where, row in content.rows(text, file):
        if field not in row:
            raise UserError(
                f"{file}, {where}: no field {field!r}; it has {', '.join(row)}{nearest(field, row)}"
            )
        if not isinstance(row[field], str):
            raise UserError(f"{file}, {where}: field {field!r} is not text but {row[field]!r:.40}")
        yield _whole(row[field], dropped)


def _whole(text: str, dropped: Counter) -> str:
    """The text with a '?' for every half of a character: JSON can spell lone surrogates, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        dropped["halves of characters, now '?'"] += sum(
            "\ud800" <= sign <= "\udfff" for sign in text
        )
    return text.encode("utf-8", "replace").decode()


def _units(text: str, unit: str, dropped: Counter) -> Iterator[str]:
    """Nothing is lost under 'auto' and 'file'; the other units drop the blank lines or line ends between them."""
    if unit == "line":
        lines = files.lines(text)
        full = [line for line in lines if line.strip()]
        dropped["empty lines"] += len(lines) - len(full)
        yield from full
    elif unit == "paragraph":
        parts = [part.strip("\r\n") for part in re.split(rf"{_END}[ \t]*{_END}", text)]
        full = [part for part in parts if part.strip()]
        dropped["empty paragraphs"] += len(list(filter(None, parts))) - len(full)
        yield from full
    elif unit == "file" or len(text) <= _WHOLE:
        yield text
    else:
        yield from _parts(text)


def _parts(text: str) -> Iterator[str]:
    """Cut at the first blank line, else line end, else anywhere, between one and two parts' length on."""
    begin = 0
    while len(text) - begin > 2 * _PART:
        near, far = begin + _PART, begin + 2 * _PART
        found = (
            (text.find(mark, near, far), mark) for mark in ("\n\n", "\r\n\r\n", "\n", "\r\r", "\r")
        )
        end = next((at + len(mark) for at, mark in found if at >= 0), far)
        yield text[begin:end]
        begin = end
    yield text[begin:]
