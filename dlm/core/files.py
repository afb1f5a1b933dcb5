"""Write files whole or not at all; split lines; write strict JSON.

An unfinished file has another name, and is renamed at the end, so that it is never mistaken for a
whole one. JSON follows RFC 8259, which has neither NaN nor Infinity, both of which Python writes.
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

PARTIAL = ".part"  # last part of the name of an unfinished file


@contextmanager
def whole(path: Path, mode: str = "w", sync: bool = False) -> Iterator[IO]:
    """Open a file that replaces `path` once the block ends without an error.

    With `sync` its content is on the disk by then.
    """
    partial = _partial(path)
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
    """Fill a folder that is at `path` once the block ends without an error.

    There it may only replace an empty folder.
    """
    path = Path(path)
    partial = _partial(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _partial(path: Path) -> Path:
    # The process id keeps two writers apart.
    return Path(path).with_name(f"{Path(path).name}.{os.getpid()}{PARTIAL}")


def try_writing(path: Path, remedy: str) -> None:
    """Check, before hours of computing, that a file at `path` can be written; change nothing.

    Raises UserError with the `remedy`.
    """
    path = Path(path)
    try:
        if path.exists():
            path.open("ab").close()
        else:
            _check_parent(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): {remedy}"
        ) from None


def _check_parent(path: Path) -> None:
    """Raise OSError where the nearest existing folder above `path` does not take files."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise PermissionError(code, os.strerror(code))


def write(path: Path, text: str, sync: bool = False) -> None:
    """Write the text, whole or not at all."""
    with whole(path, sync=sync) as file:
        file.write(text)


def lines(text: str) -> list[str]:
    """Split a text into lines at \\n, \\r\\n and \\r.

    str.splitlines also splits at eight other characters, which may be part of a text.
    """
    parts = re.split(r"\r\n|\n|\r", text)
    return parts if parts[-1] else parts[:-1]


def as_json(value: Any, indent: int | None = None, ascii: bool = True) -> str:
    """Write strict JSON: a number that is not finite becomes null.

    The object around such a number gets `"finite": false`.
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=ascii, allow_nan=False)
    # A lone surrogate is no UTF-8: it is written as JSON's own escape.
    return text.encode("utf-8", "backslashreplace").decode()


def finite(value: Any) -> Any:
    """Replace numbers that strict JSON does not have."""
    return _finite(value)[0]


def _finite(value: Any) -> tuple[Any, bool]:
    """Return (value, whether all its numbers outside of inner objects are finite)."""
    if isinstance(value, float):
        return (value, True) if math.isfinite(value) else (None, False)
    if isinstance(value, dict):
        parts = {key: _finite(part) for key, part in value.items()}
        clean = {key: part for key, (part, _) in parts.items()}
        if not all(is_finite for _, is_finite in parts.values()):
            clean["finite"] = False
        return clean, True
    if isinstance(value, (list, tuple)):
        items = [_finite(part) for part in value]
        return [part for part, _ in items], all(is_finite for _, is_finite in items)
    return value, True
