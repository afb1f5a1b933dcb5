"""The content of untrusted files: text, or rows of JSON; anything else is one error with a remedy.

Text is UTF-8, plain or gzipped. Rows are JSON objects: one a line, or the entries of one array, or
a single one over several lines.
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
# The first bytes of files that are no text, or text in another encoding: their kind, the remedy.
_FORMATS = {
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
_NUL_SHARE = (
    1 / 3
)  # with more zero bytes, a file is UTF-16 without a byte order mark, or no text
_BEGINNING = 4096  # bytes in which zero bytes are counted
_BLOCK = 512  # bytes that are unpacked at a time, to find where a file is broken
# Characters that may surround a JSON value; a byte order mark is left where files were joined.
_BLANK = " \t\r\n\ufeff"
_BLANKS = re.compile(f"[{_BLANK}]*")
_TRIED = 5  # values that decide whether a text is rows

# --------------------------------------------------------------------------------------- text


def text(file: Path, look: bool = True) -> str:
    """Read the text of a UTF-8 file, unpacked and without its byte order mark.

    `look` compares its first bytes with other formats. Raises UserError, which names the file and
    its kind.
    """
    raw = b""
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
        line = _last_line(raw)
        raise UserError(
            f"{file}, line {line}: cannot be unpacked further ({error})"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not content.strip():
        raise UserError(f"{file} is empty")
    return content


def _refuse_other_formats(raw: bytes, file: Path) -> None:
    for beginning, (kind, remedy) in _FORMATS.items():
        if re.match(beginning, raw, re.DOTALL):
            raise UserError(f"{file} is {kind}: {remedy}")
    first = raw[:_BEGINNING]
    zeros = first.count(0)
    if zeros > _NUL_SHARE * len(first):
        raise UserError(
            f"{file} is no text, or in UTF-16: {zeros} of its first {len(first)} bytes are 0; "
            "convert it to UTF-8"
        )


def _last_line(packed: bytes) -> int:
    """The number of the line up to which a broken gzip file can be unpacked."""
    lines = 0
    stream = zlib.decompressobj(wbits=31)
    for begin in range(0, len(packed), _BLOCK):
        block = packed[begin : begin + _BLOCK]
        try:
            lines += stream.decompress(block).count(b"\n")
        except zlib.error:
            break
    return lines + 1


# --------------------------------------------------------------------------------------- rows


def rows(content: str, file: Path) -> Iterator[tuple[str, dict]]:
    """Yield (its place, the object) of every JSON object in a text.

    The place is 'line 3' of lines, 'entry 3' of an array. Raises UserError with the file and the
    place for anything that is no object.
    """
    for where, row in _values(content, file):
        if not isinstance(row, dict):
            raise UserError(
                f"{file}, {where}: not a JSON object but {json.dumps(row):.40}"
            )
        if isinstance(row, _Twice):
            raise UserError(f"{file}, {where}: a name occurs twice in this object")
        yield where, row


def _values(content: str, file: Path) -> Iterator[tuple[str, Any]]:
    entries = _array(content, file)
    if entries is not None:
        for n, entry in enumerate(entries, 1):
            yield f"entry {n}", entry
        return
    for n, line in enumerate(files.lines(content), 1):
        if line.strip(_BLANK):
            yield f"line {n}", _parsed(line, file, n)


def _array(content: str, file: Path) -> list | None:
    """The entries of a text that is one JSON array or object; None: each line is a value."""
    lines = [*_first_lines(content, 2), "", ""]
    first, second = lines[:2]
    alone = _value(first)
    if isinstance(alone, dict) or (alone is not None and second):
        return None
    # An object in the second line: these are lines, and the first of them is broken.
    if isinstance(_value(second), dict) and not first.startswith("["):
        return None
    if content.strip(_BLANK)[:1] not in ("[", "{"):
        return None
    whole = _parsed(content, file)
    return [whole] if isinstance(whole, dict) else whole


def _first_lines(content: str, number: int) -> list[str]:
    """The first lines that are not blank, without splitting all of the text."""
    matches = re.finditer(r"[^\r\n]+", content)
    lines = (match.group().strip(_BLANK) for match in matches)
    return list(itertools.islice(filter(None, lines), number))


class _Twice(dict):
    """An object with a name that occurs twice, so that the first value is lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict:
    by_name = dict(pairs)
    return by_name if len(by_name) == len(pairs) else _Twice(by_name)


def _parsed(value: str, file: Path, line: int = 1) -> Any:
    """Parses a JSON value that begins in this line of a file."""
    try:
        return json.loads(value.strip(_BLANK), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        # The error counts from the first character that is not blank.
        blanks = len(value) - len(value.lstrip(_BLANK))
        before = files.lines(value[: blanks + error.pos] + "x")
        column = len(before[-1])
        line += len(before) - 1
        problem = f"{error.msg}, column {column}"
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:  # a number of thousands of digits
        problem = str(error).partition(";")[0]
    raise UserError(f"{file}, line {line}: broken JSON ({problem})")


def _value(line: str) -> Any:
    """The JSON value of a line, or None."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def looks_like_rows(content: str) -> bool:
    """Whether a text is JSON objects: its first values are, or all of it is an array of them."""
    values, at_end = _first_values(content, _TRIED)
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    else:
        at_end = at_end or len(values) == _TRIED
    return at_end and bool(values) and all(isinstance(value, dict) for value in values)


def _first_values(content: str, number: int) -> tuple[list, bool]:
    """(The first JSON objects and arrays of a text, whether the text ends with them).

    Only blanks may be between them.
    """
    decoder = json.JSONDecoder()
    values: list = []
    at = _skip_blanks(content, 0)
    while len(values) < number and content[at : at + 1] in ("{", "["):
        try:
            value, end = decoder.raw_decode(content, at)
        except (ValueError, RecursionError):
            break
        values.append(value)
        at = _skip_blanks(content, end)
    return values, at == len(content)


def _skip_blanks(content: str, at: int) -> int:
    match = _BLANKS.match(content, at)
    assert match is not None  # the pattern matches the empty text too
    return match.end()
