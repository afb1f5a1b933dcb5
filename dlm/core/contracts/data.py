"""Tokenizer, Source and Task: text becomes ids, documents come from a corpus, problems are graded.

Base classes with defaults: text/base.py, data/base.py, tasks/base.py; they load no JAX.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from dlm.core.vocab import Vocab


class Tokenizer(Protocol):
    """Strings to ids and back."""

    @property
    def vocab(self) -> Vocab:
        """The ids of specials and the number of ids."""

    @property
    def bytes_V(self) -> np.ndarray:
        """How many bytes each id stands for."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides how texts are encoded."""

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32, without bos or eos."""

    def encode_prompt(self, text: str) -> np.ndarray:
        """Returns the ids of a user's prompt, int32; names of special tokens in it are text."""

    def opening(
        self,
        text: str | np.ndarray,
        shift: int,
    ) -> tuple[np.ndarray, int]:
        """Returns the ids of a row that begins with a text, and the token before the row."""

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """Returns the text of ids."""

    def save(self, folder: Path) -> None:
        """Writes into a run directory everything that rebuilds the tokenizer."""


class TokenizerConfig(Protocol):
    """How a tokenizer is built: the member of the family `text` that a config names."""

    @property
    def vocab(self) -> Vocab:
        """The ids of specials and the number of ids, known before any text is read."""

    def fit(self, documents: Iterable[str]) -> Tokenizer:
        """Builds the tokenizer, from the training documents if it learns."""

    def restore(self, folder: Path) -> Tokenizer:
        """Builds it from the files that `Tokenizer.save` wrote."""


class Source(Protocol):
    """Documents in two splits."""

    @property
    def dropped(self) -> dict[str, int]:
        """How much the source left out, by kind."""

    def documents(self, split: Literal["train", "held_out"]) -> Sequence[str]:
        """Returns the documents of a split, by random access."""

    def fingerprint(self, split: Literal["train", "held_out"]) -> str | None:
        """Identifies the documents without reading them; None: by their content."""


class Task(Protocol):
    """Endless problems with an exact grader."""

    @property
    def longest(self) -> int:
        """Characters of the longest answer."""

    # A problem is a NamedTuple (prompt, answer); Any, so that a task may extend it.
    def __getitem__(self, i: int) -> Any:
        """Returns problem i, the same in every process."""

    def grade(self, problem: Any, answer: str) -> bool:
        """Checks an answer; it need not be the known one."""

    def template(self, problem: Any) -> tuple[str | int, ...] | None:
        """Returns the answer as known text and lengths of holes; None: the prompt is no part."""
