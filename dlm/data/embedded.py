"""The corpus of every Python installation: the language reference and the standard library.

About 80 documents of prose (0.5 MB) and 700 of source (11 MB). The text differs between Python
versions, so results compare only within one. Source: the running Python,
https://docs.python.org.
"""

import functools
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlm.core.errors import UserError
from dlm.data.base import Source, Split, Splits, check_share, filtered, split_by_hash

# Packages that others installed, tests, and generated files.
_SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "pydoc_data",
}


@dataclass(frozen=True)
class Embedded(Source):
    """Prose and Python, split by hash of the document, without duplicates."""

    held_out: float = 0.02  # share of the documents
    parts: tuple[Literal["prose", "source"], ...] = ("prose", "source")

    def __post_init__(self):
        check_share(self.held_out)
        if not self.parts:
            raise ValueError("parts must name 'prose', 'source' or both")

    def documents(self, split: Split) -> list[str]:
        return self._all[0][split]

    @property
    def dropped(self) -> dict[str, int]:
        return self._all[1]

    @functools.cached_property
    def _all(self) -> tuple[Splits, dict[str, int]]:
        dropped: Counter = Counter()
        documents = filtered(self._read(), True, dropped)
        splits = split_by_hash(documents, self.held_out)
        if not all(splits.values()):
            raise UserError(
                f"no documents in one of the splits (parts={self.parts}, "
                f"held_out={self.held_out}); this Python may lack its sources"
            )
        return splits, dict(+dropped)

    def _read(self) -> Iterator[str]:
        for part in self.parts:
            yield from _prose() if part == "prose" else _source()


def _prose() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _source() -> Iterator[str]:
    """Yields .py files in the order of their paths, except those that are not UTF-8."""
    for folder, folders, files in os.walk(sysconfig.get_path("stdlib")):
        # os.walk enters the folders that this list contains, in its order.
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith("_sysconfigdata"):
                continue
            try:
                yield Path(folder, name).read_bytes().decode()
            except (UnicodeDecodeError, OSError):
                continue
