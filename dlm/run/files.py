"""Whole files or none: what is written under another name, and renamed at the end, is never taken for whole while it is not.

And what a line of a file is.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


def write(path: Path, text: str, sync: bool = False) -> None:
    """The text, whole or not at all."""
    with whole(path, sync=sync) as file:
        file.write(text)


def lines(text: str) -> list[str]:
    """The lines of a text, without what ends them: \\n, \\r\\n or \\r. str.splitlines ends them at eight signs more, which are text."""
    found = re.split(r"\r\n|\n|\r", text)
    return found[:-1] if not found[-1] else found
