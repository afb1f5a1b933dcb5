"""What an evaluator reports."""

from collections.abc import Iterator
from typing import Any, Protocol


class Evaluator(Protocol):
    """Scores of a trained model, each with its standard error."""

    @property
    def claims(self) -> str:
        """What the scores are: exact, a bound, or statistics of samples."""

    @property
    def over(self) -> str:
        """What the standard error is taken over."""

    def run(self, subject: Any, step: int) -> Iterator[tuple[str, float, float]]:
        """Yields (name, value, standard error)."""
