"""Where text comes from and how it becomes ids."""

from collections.abc import Sequence
from typing import Any, Protocol

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
        """A hash of all that decides how texts are encoded."""

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32."""

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids."""


class Source(Protocol):
    """Documents in two splits."""

    @property
    def fingerprint(self) -> str:
        """A hash of the documents' content."""

    def documents(self, split: str) -> Sequence[str]:
        """Returns the documents of 'train' or 'held_out', by random access."""


class Task(Protocol):
    """Endless problems with an exact grader."""

    @property
    def longest(self) -> int:
        """Characters of the longest answer."""

    def __getitem__(self, i: int) -> Any:
        """Returns problem i, the same in every process."""

    def grade(self, problem: Any, answer: str) -> bool:
        """Checks an answer; it need not be the one that is known."""
