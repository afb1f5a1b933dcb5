"""Local files as a corpus: text, or JSON lines with a named field, plain or gzipped.

    paths=('book.txt', 'notes/**/*.md', 'news.jsonl.gz')

A suffix .jsonl or .ndjson means one document per line, in `field`; everything else is text, and `unit` says what one document is.
Documents are split by the hash of their text, or `held_out_paths` names the held-out files.
"""

import functools
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlm import data
from dlm.run import files
from dlm.run.spec import UserError, nearest

_WHOLE = 65_536  # characters up to which a file of text is one document under unit='auto'
_PART = 8_192  # characters after which a longer one is cut at the next blank line


@dataclass(frozen=True)
class Local:
    """Files and globs, in sorted order."""

    paths: tuple[str, ...]  # '~' and '**' work
    field: str = "text"  # of a JSON line
    held_out: float = 0.02  # share of the documents; not read where held_out_paths is given
    unit: Literal["auto", "file", "paragraph", "line"] = "auto"  # a document of text; auto: a file, cut at blank lines where it is long
    held_out_paths: tuple[str, ...] | None = None

    def __post_init__(self):
        data.check_share(self.held_out)
        if not self.paths:
            raise ValueError("paths must name at least one file")

    def documents(self, split: data.Split) -> list[str]:
        found = self._splits[split]
        if not found:
            total = sum(map(len, self._splits.values()))
            raise UserError(
                f"none of {total} documents of {', '.join(self.paths)} is in the split {split!r}: "
                f"change held_out={self.held_out:g} or unit={self.unit!r}, or name held_out_paths"
            )
        return found

    @functools.cached_property
    def _splits(self) -> dict[data.Split, list[str]]:
        train = self._read(self.paths)
        if self.held_out_paths is None:
            return data.by_hash(train, self.held_out)
        # What is held out is never trained on, whichever files it stands in.
        held_out = dict.fromkeys(self._read(self.held_out_paths))
        return dict(train=[d for d in dict.fromkeys(train) if d not in held_out], held_out=list(held_out))

    def _read(self, patterns: tuple[str, ...]) -> list[str]:
        named = dict.fromkeys(file for pattern in patterns for file in _files(pattern))
        return [document for file in named for document in self._documents(file)]

    def _documents(self, file: Path) -> Iterator[str]:
        content = _content(file)
        if file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            yield from _json_lines(content, file, self.field)
        else:
            yield from _units(content, self.unit)


def _files(pattern: str) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        raise UserError(f"{pattern} is a folder: name its files, such as {os.path.join(pattern, '**', '*.txt')}")
    if os.path.isfile(pattern):
        return [Path(pattern)]
    found = sorted(Path(path) for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise UserError(f"no file matches {pattern}" if glob.has_magic(pattern) else f"no file {pattern}")
    return found


def _content(file: Path) -> str:
    try:
        raw = file.read_bytes()
        raw = gzip.decompress(raw) if file.suffix == ".gz" else raw
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: not UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}, line {_last_line(raw)}: cannot be unpacked further ({error})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not content.strip():
        raise UserError(f"{file} is empty")
    return content


def _last_line(packed: bytes) -> int:
    """The number of the line up to which a broken gzip file can be unpacked."""
    unpacked, stream = 0, zlib.decompressobj(wbits=31)
    for begin in range(0, len(packed), 512):
        try:
            unpacked += stream.decompress(packed[begin : begin + 512]).count(b"\n")
        except zlib.error:
            break
    return unpacked + 1


def _json_lines(content: str, file: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(files.lines(content), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: broken JSON ({error})") from None
        if not isinstance(row, dict) or field not in row:
            has = f"; it has {', '.join(row)}{nearest(field, row)}" if isinstance(row, dict) else ""
            raise UserError(f"{file}, line {number}: no field {field!r}{has}")
        if not isinstance(row[field], str):
            raise UserError(f"{file}, line {number}: field {field!r} is not text but {row[field]!r:.40}")
        yield row[field].encode("utf-8", "replace").decode()  # JSON can spell lone surrogates


def _units(content: str, unit: str) -> Iterator[str]:
    """Nothing is lost under 'auto' and 'file'; the other units drop the blank lines or line ends between them."""
    if unit == "line":
        yield from (line for line in files.lines(content) if line.strip())
    elif unit == "paragraph":
        yield from (part.strip("\r\n") for part in re.split(r"\r?\n[ \t]*\r?\n", content) if part.strip())
    elif unit == "file" or len(content) <= _WHOLE:
        yield content
    else:
        yield from _parts(content)


def _parts(content: str) -> Iterator[str]:
    """Cut at the first blank line, else line end, else anywhere, between one and two parts' length on."""
    begin = 0
    while len(content) - begin > 2 * _PART:
        near, far = begin + _PART, begin + 2 * _PART
        borders = [content.find(mark, near, far) + len(mark) for mark in ("\n\n", "\r\n\r\n", "\n") if content.find(mark, near, far) >= 0]
        end = borders[0] if borders else far
        yield content[begin:end]
        begin = end
    yield content[begin:]
