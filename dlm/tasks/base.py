"""Task: the base class of generated problems."""

import random
from abc import ABC, abstractmethod
from typing import NamedTuple

from dlm.core.named import Seed

# Of a problem's answer: text as given, and how many characters are to be filled in between.
Parts = tuple[str | int, ...]


class Problem(NamedTuple):
    """A prompt and one right answer."""

    prompt: str
    answer: str


class Task(ABC):
    """An endless sequence of problems, the same in every process."""

    seed: Seed

    @property
    @abstractmethod
    def longest(self) -> int:
        """Characters of the longest answer."""

    @abstractmethod
    def __getitem__(self, i: int) -> Problem:
        """Generate problem i; it does not depend on which problems were generated before."""

    @abstractmethod
    def grade(self, problem: Problem, answer: str) -> bool:
        """Check an answer."""

    def template(self, problem: Problem) -> Parts | None:
        """Return the answer as the parts that the prompt contains and the lengths of its holes.

        None: the prompt is no part of the answer.
        """
        return None

    def _random(self, i: int) -> random.Random:
        """The random numbers of problem i."""
        # Seeded by text, so that no two tasks, seeds or numbers share their draws.
        return random.Random(f"{type(self).__name__} {self.seed} {i}")
