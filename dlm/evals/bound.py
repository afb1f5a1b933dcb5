"""Held-out bits per byte: the objective's bound or exact likelihood over every held-out window.

    bits/byte = Σ nats / (ln 2 · Σ bytes)

The standard error is that of the noise drawn, not of the data.

`pattern="count"` masks a fixed number of positions and charges n/k times the nats of k of n. Its
mean is that of independent masks under any schedule in continuous time, without their tail: next
to t = 0 one mask is rare and weighs 1/t, so the variance grows as the logarithm of the smallest
time (1e-6), few rows carry it and most runs read low. At 128 positions it is about five times
smaller. It is valid for objectives.masked and block, and for those that report masked's bound
(adapted, prism, priority, proseco, span), unless the network is given the time or the bound has
`steps`. All others, and everything with `pattern="own"`, are scored under the noise that they are
trained with.

Source: the bounds are the objectives' own; fixed counts as in arXiv:2502.09992 (LLaDA).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from dlm.core.contracts import Pattern
from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.evals.base import Base, Scores, bytes_of, fetched, total


@dataclass(frozen=True)
class HeldOut(Base):
    samples: int = (
        4  # noise draws per window, an even number; exact likelihoods need none
    )
    windows: int = 0  # evenly spread held-out windows; 0: all
    pattern: Pattern = (
        "count"  # a fixed number of masks where that is the same bound; or "own"
    )

    claims: ClassVar[str | None] = None
    over: ClassVar[str] = "noise"

    def __post_init__(self):
        if self.samples < 2 or self.samples % 2 or self.windows < 0:
            raise ValueError(
                f"samples={self.samples} must be even and at least 2, "
                f"windows={self.windows} not negative"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        experiment = context.experiment
        context.details.update(claims=experiment.reported(self.pattern).claims)
        bound = experiment.bound(self.samples, self.pattern)

        # The mean over text is a ratio of sums, so that every byte counts the same.
        nats = variance = size = tokens = 0.0
        for estimate, batch in fetched(context, bound, self.windows):
            nats += total(estimate.nats_BL)
            variance += total(estimate.variance_B)
            size += bytes_of(context, batch)
            tokens += float(batch.weights_BL.sum())
        error = math.sqrt(variance)
        bits = 1 / (math.log(2) * size)
        yield Score("bits_per_byte", nats * bits, error * bits)
        yield Score("nats_per_token", nats / tokens, error / tokens)
