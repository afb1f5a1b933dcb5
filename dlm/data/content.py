"""What a stranger's file holds: its text, or the rows of JSON in it. What is neither is named in one line, with what to do.

Text is UTF-8, plain or gzipped. Rows are JSON objects: one a line, or the entries of one array, or a single one over several lines.
"""

import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm.core import files
from dlm.core.errors import UserError

_UNPACK = "unpack it, or pack it with gzip"
_ROWS = "write it as JSON lines"
_ENCODE = "convert it to UTF-8, such as with iconv -f {0} -t UTF-8"
_GZIP = b"\x1f\x8b"
_KNOWN = {  # how the bytes of a file begin that is no text, or in another encoding: what it is, and the remedy
    rb"\x28\xb5\x2f\xfd": ("packed with zstd", _UNPACK),
    rb"\xfd7zXZ\0": ("packed with xz", _UNPACK),
    rb"BZh[1-9]1AY&SY": ("packed with bzip2", _UNPACK),
    rb"\x04\x22\x4d\x18": ("packed with lz4", _UNPACK),
    rb"PK\x03\x04": ("a zip archive", _UNPACK),
    rb"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    rb".{257}ustar": ("a tar archive", "unpack it, and name the files in it"),
    _GZIP: ("packed with gzip twice", "unpack it once"),
    rb"PAR1.*PAR1\Z": ("a parquet file", _ROWS),
    rb"ARROW1\0\0": ("an Arrow file", _ROWS),
    rb"Obj\x01": ("an Avro file", _ROWS),
    rb"SQLite format 3\0": ("an SQLite database", _ROWS),
    rb"\x89HDF\r\n": ("an HDF5 file", _ROWS),
    rb"\x93NUMPY": ("a NumPy array", _ROWS),
    rb"%PDF-": ("a PDF document", "take its text out"),
    rb"\xff\xfe\0\0|\0\0\xfe\xff": ("text in UTF-32", _ENCODE.format("UTF-32")),
    rb"\xff\xfe|\xfe\xff": ("text in UTF-16", _ENCODE.format("UTF-16")),
}
_NUL = 1 / 3  # share of zero bytes from which on a file is text in UTF-16 without a mark, or none
_BLANK = (
    " \t\r\n\ufeff"  # what may surround a JSON value; a byte order mark, where files were joined
)
_LOOKED_AT = 5  # values that are looked at to tell rows from text


def text(file: Path, look: bool = True) -> str:
    """The text of a UTF-8 file without its byte order mark, unpacked; its first bytes are held against other formats unless told not to.

    Raises UserError, which names the file and what it is.
    """
    try:
        raw = file.read_bytes()
        if raw.startswith(_GZIP) or file.name.lower().endswith(".gz"):
            raw = gzip.decompress(raw)
        if look:
            _refuse_other_formats(raw, file)
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: not UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{file}, line {_last_line(raw)}: cannot be unpacked further ({error})"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not content.strip():
        raise UserError(f"{file} is empty")
    return content


def _refuse_other_formats(raw: bytes, file: Path) -> None:
    for begin, (what, remedy) in _KNOWN.items():
        if re.match(begin, raw, re.DOTALL):
            raise UserError(f"{file} is {what}: {remedy}")
    first = raw[:4096]
    if first.count(0) > _NUL * len(first):
        raise UserError(
            f"{file} is no text, or in UTF-16: {first.count(0)} of its first {len(first)} bytes are 0; convert it to UTF-8"
        )


def _last_line(packed: bytes) -> int:
    """The number of the line up to which a broken gzip file can be unpacked."""
    unpacked, stream = 0, zlib.decompressobj(wbits=31)
    for begin in range(0, len(packed), 512):
        try:
            unpacked += stream.decompress(packed[begin : begin + 512]).count(b"\n")
        except zlib.error:
            break
    return unpacked + 1


def rows(content: str, file: Path) -> Iterator[tuple[str, dict]]:
    """(where it stands, the object) of every JSON object in a text: 'line 3' of lines, 'entry 3' of an array.

    Raises UserError for what is no object, with the file and the place.
    """
    entries = _array(content, file)
    if entries is None:
        numbered = (
            (f"line {n}", _parsed(line, file, n))
            for n, line in enumerate(files.lines(content), 1)
            if line.strip(_BLANK)
        )
    else:
        numbered = ((f"entry {n}", entry) for n, entry in enumerate(entries, 1))
    for where, row in numbered:
        if not isinstance(row, dict):
            raise UserError(f"{file}, {where}: not a JSON object but {json.dumps(row):.40}")
        if isinstance(row, _Twice):
            raise UserError(f"{file}, {where}: a name stands twice in this object")
        yield where, row


def _array(content: str, file: Path) -> list | None:
    """The entries of a text that is one JSON value, an array or an object; None where each line is to be read on its own."""
    first, second = (*_first_lines(content, 2), "", "")[:2]
    alone = _value(first)
    if isinstance(alone, dict) or (alone is not None and second):
        return None
    if isinstance(_value(second), dict) and not first.startswith("["):
        return None  # lines, of which the first is broken
    whole = _parsed(content, file) if content.strip(_BLANK)[:1] in ("[", "{") else None
    return [whole] if isinstance(whole, dict) else whole


def _first_lines(content: str, number: int) -> list[str]:
    """The first lines that are not blank, found without cutting all of the text."""
    lines = (match.group().strip(_BLANK) for match in re.finditer(r"[^\r\n]+", content))
    return list(itertools.islice(filter(None, lines), number))


class _Twice(dict):
    """An object in which a name stands twice, and what stood there first is gone."""


def _object(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(found)


def _parsed(value: str, file: Path, line: int = 1) -> Any:
    """A JSON value that begins in this line of a file."""
    try:
        return json.loads(value.strip(_BLANK), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        before = files.lines(value[: len(value) - len(value.lstrip(_BLANK)) + error.pos] + "x")
        where = (
            f"line {line + len(before) - 1}: broken JSON ({error.msg}, column {len(before[-1])})"
        )
    except RecursionError:
        where = f"line {line}: broken JSON (nested too deeply)"
    except ValueError as error:  # a number of thousands of digits
        where = f"line {line}: broken JSON ({str(error).partition(';')[0]})"
    raise UserError(f"{file}, {where}")


def _value(line: str) -> Any:
    """The JSON value that a line is on its own; None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def looks_like_rows(content: str) -> bool:
    """Whether a text is JSON objects: the first values in it all are, or all of it is an array of them."""
    values, end = _first_values(content, _LOOKED_AT)
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    else:
        end = end or len(values) == _LOOKED_AT
    return end and bool(values) and all(isinstance(value, dict) for value in values)


def _first_values(content: str, number: int) -> tuple[list, bool]:
    """The first JSON objects and arrays of a text, with nothing but blanks between them, and whether they end with it."""
    decoder, blank, found, at = json.JSONDecoder(), re.compile(f"[{_BLANK}]*"), [], 0
    while len(found) < number:
        at = blank.match(content, at).end()
        if content[at : at + 1] not in ("{", "["):
            break
        try:
            value, at = decoder.raw_decode(content, at)
        except (ValueError, RecursionError):
            break
        found.append(value)
    return found, blank.match(content, at).end() == len(content)
