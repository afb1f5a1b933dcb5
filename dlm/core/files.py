"""Whole files or none: what is written under another name, and renamed at the end, is never taken for whole while it is not.

And what a line of a file is, and JSON that every parser reads: RFC 8259 knows neither NaN nor Infinity, which Python writes if it may.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dlm.core.errors import UserError

PARTIAL = ".part"  # how the name of an unfinished file ends


@contextmanager
def whole(path: Path, mode: str = "w", sync: bool = False) -> Iterator[IO]:
    """A file that is at `path` once the block ends without an error, in place of the one before; with `sync`, on the disk by then."""
    partial = Path(path).with_name(f"{Path(path).name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is at `path` once the block ends without an error; there it may only replace an empty one."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def try_writing(path: Path, remedy: str) -> None:
    """Tries, before there is anything to write, whether a file at `path` can be written; leaves all as it was.

    Raises UserError with the `remedy`: hours of computing are not lost on a folder that may only be read."""
    path = Path(path)
    try:
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if path.exists():
            path.open("ab").close()
        elif not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        elif not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(
                errno.EROFS,
                os.strerror(
                    errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
                ),
            )
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {remedy}") from None


def write(path: Path, text: str, sync: bool = False) -> None:
    """The text, whole or not at all."""
    with whole(path, sync=sync) as file:
        file.write(text)


def lines(text: str) -> list[str]:
    """The lines of a text, without what ends them: \\n, \\r\\n or \\r. str.splitlines ends them at eight signs more, which are text."""
    found = re.split(r"\r\n|\n|\r", text)
    return found[:-1] if not found[-1] else found


def as_json(value: Any, indent: int | None = None, ascii: bool = True) -> str:
    """Strict JSON: a number that is not finite becomes null, and the object around it says `"finite": false`."""
    text = json.dumps(finite(value), indent=indent, ensure_ascii=ascii, allow_nan=False)
    return text.encode(
        "utf-8", "backslashreplace"
    ).decode()  # half of a pair of surrogates is no UTF-8: JSON's own escape is left


def finite(value: Any) -> Any:
    """The value as strict JSON holds it."""
    return _finite(value)[0]


def _finite(value: Any) -> tuple[Any, bool]:
    """(the value, whether all numbers in it that no object of its own holds are finite)."""
    if isinstance(value, float):
        return (value, True) if math.isfinite(value) else (None, False)
    if isinstance(value, dict):
        parts = {key: _finite(part) for key, part in value.items()}
        made = {key: part for key, (part, _) in parts.items()}
        return (
            made if all(whole for _, whole in parts.values()) else made | {"finite": False}
        ), True
    if isinstance(value, (list, tuple)):
        parts = [_finite(part) for part in value]
        return [part for part, _ in parts], all(whole for _, whole in parts)
    return value, True
