"""Held-out bits per byte: the objective's bound (or exact likelihood) over every held-out window, with its Monte-Carlo error.

bits/byte = Σ nats / (ln 2 · Σ bytes),        standard error from the variance over the noise drawn, not over the data

`pattern="count"` masks a fixed number of positions, n/k times the nats of k of n. That is the value of independent masks under any schedule
in continuous time, without their tail: next to t = 0 one mask is rare and weighs 1/t, so that the variance grows as the logarithm of the
smallest time (1e-6), few rows carry it and most runs read low. At 128 positions it is about five times less. It holds for objectives.masked
and block, and for those that report masked's bound (adapted, prism, priority, proseco, span), unless the network is told the time or the
bound has `steps`; all others, and everything with `pattern="own"`, are scored under the noise that they are trained with.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.core.contracts import Pattern
from dlm.machine import mesh


@dataclass(frozen=True)
class HeldOut:
    samples: int = 4  # noise draws per window, an even number; exact likelihoods need none
    windows: int = 0  # evenly spread held-out windows; 0: all
    pattern: Pattern = (
        "count"  # a fixed number of masks wherever that is the same bound, or the objective's own
    )

    claims: ClassVar[str | None] = None  # what the objective claims: 'exact' or 'bound'
    over: ClassVar[str] = "noise"

    def __post_init__(self):
        if self.samples < 2 or self.samples % 2 or self.windows < 0:
            raise ValueError(
                f"samples={self.samples} must be even and at least 2, windows={self.windows} not negative"
            )

    def run(self, context, step):
        """Yields (name, value, standard error)."""
        bound = context.experiment.bound(self.samples, self.pattern)
        context.details.update(claims=context.experiment.reported(self.pattern).claims)
        nats = variance = size = tokens = 0.0
        for batch in context.held_out(self.windows or None):
            estimate, read = mesh.fetch((bound(context.params, batch, context.key), batch))
            nats += float(estimate.nats_BL.astype(np.float64).sum())
            variance += float(estimate.variance_B.astype(np.float64).sum())
            size += float((context.tokenizer.bytes_V[read.tokens_BL] * read.weights_BL).sum())
            tokens += float(read.weights_BL.sum())
        bits = 1 / (math.log(2) * size)
        yield "bits_per_byte", nats * bits, math.sqrt(variance) * bits
        yield "nats_per_token", nats / tokens, math.sqrt(variance) / tokens
