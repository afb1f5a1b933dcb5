"""The defaults that every evaluator inherits, and sums over held-out text.

An evaluator declares as ClassVars the claims of its scores, what their standard errors are over and
whether it reads held-out text (`core.contracts.Evaluator`). Uncertainties are those of
`core.intervals`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from dlm.core.contracts import Batch
from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.core.intervals import jackknife
from dlm.core.run import Run
from dlm.machine import mesh

Scores = Iterator[Score]


class Base(ABC):
    """An evaluator that reads held-out text and can score every run."""

    claims: ClassVar[str | None] = None
    over: ClassVar[str | None]
    reads: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ()

    def check(self, run: Run, tokenizer: Any) -> None:  # noqa: B027 — most score every run
        """Raises UserError for a run that it cannot score."""

    @abstractmethod
    def run(self, context: EvalContext, step: int) -> Scores:
        """Yields the scores of the parameters after update `step`."""


def over_batches(
    context: EvalContext, count: Callable, windows: int
) -> Iterator[tuple]:
    """Yields (count of a batch, the batch), both on the host, for held-out text.

    Args:
        context: whose held-out text is read
        count: `count(experiment, params, batch, key)`, which is compiled once
        windows: evenly spread windows; 0: all
    """
    # The experiment keeps what is compiled: an evaluator that runs again does not wait.
    compiled = context.experiment.counted(count)
    yield from fetched(context, compiled, windows)


def fetched(context: EvalContext, compiled: Callable, windows: int) -> Iterator[tuple]:
    """Yields (result, batch) of a compiled `compiled(params, batch, key)`, both on the host."""
    for batch in context.held_out(windows or None):
        result = compiled(context.params, batch, context.key)
        yield mesh.fetch((result, batch))


def total(numbers: np.ndarray) -> float:
    """Returns a sum in float64: a float32 sum over a corpus loses digits."""
    return float(numbers.astype(np.float64).sum())


def bytes_of(context: EvalContext, batch: Batch) -> float:
    """Returns the number of bytes that count in a batch."""
    # Padding and prompts have weight 0.
    size_BL = context.tokenizer.bytes_V[batch.tokens_BL] * batch.weights_BL
    return float(size_BL.sum())


def estimate(name: str, statistic: Callable, items_N: Any) -> Score:
    """Returns a statistic of items with its jackknife error."""
    value, error = jackknife(statistic, items_N)
    return Score(name, value, error)


def share(part: np.ndarray, whole: np.ndarray) -> float:
    """Returns Σ part / Σ whole, 0 where both are 0."""
    return part.sum() / max(whole.sum(), 1)
