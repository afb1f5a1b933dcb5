"""The corpus that every Python installation carries: the language reference's prose and the standard library's source.

About 80 documents of prose (0.5 MB) and 700 of source (11 MB). The text differs with the Python version, so figures compare only
within one.
"""

import functools
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlm import data
from dlm.core.errors import UserError

# Packages installed by others, tests, and what machines wrote.
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
class Embedded:
    """Prose and Python, split by hash of the document; equal documents are kept once."""

    held_out: float = 0.02  # share of the documents
    parts: tuple[Literal["prose", "source"], ...] = ("prose", "source")

    def __post_init__(self):
        data.check_share(self.held_out)
        if not self.parts:
            raise ValueError("parts must name 'prose', 'source' or both")

    def documents(self, split: data.Split) -> list[str]:
        return self._all[0][split]

    @property
    def dropped(self) -> dict[str, int]:
        return self._all[1]

    @functools.cached_property
    def _all(self) -> tuple[dict[data.Split, list[str]], dict[str, int]]:
        read, dropped = dict(prose=_prose, source=_source), Counter()
        found = data.kept(
            (document for part in self.parts for document in read[part]()), True, dropped
        )
        splits = data.by_hash(found, self.held_out)
        if not all(splits.values()):
            raise UserError(
                f"no documents in one of the splits (parts={self.parts}, held_out={self.held_out}); this Python may lack its sources"
            )
        return splits, dict(+dropped)


def _prose() -> Iterator[str]:
    from pydoc_data.topics import topics

    return (topics[name] for name in sorted(topics))


def _source() -> Iterator[str]:
    """The .py files in order of their paths; those that are not UTF-8 are left out."""
    for folder, folders, files in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                try:
                    yield Path(folder, name).read_bytes().decode()
                except (UnicodeDecodeError, OSError):
                    continue
