"""Held-out bits per byte: the objective's bound (or exact likelihood) over every held-out window, with its Monte-Carlo error.

bits/byte = Σ nats / (ln 2 · Σ bytes),        standard error from the variance over the noise drawn, not over the data
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.run import mesh


@dataclass(frozen=True)
class HeldOut:
    samples: int = 4  # noise draws per window, an even number; exact likelihoods need none
    windows: int = 0  # evenly spread held-out windows; 0: all

    claims: ClassVar[str | None] = None  # what the objective claims: 'exact' or 'bound'

    def __post_init__(self):
        if self.samples < 2 or self.samples % 2 or self.windows < 0:
            raise ValueError(f"samples={self.samples} must be even and at least 2, windows={self.windows} not negative")

    def run(self, subject, step):
        """Yields (name, value, standard error)."""
        bound = subject.experiment.bound(self.samples)
        nats = variance = size = tokens = 0.0
        for batch in subject.held_out(self.windows or None):
            found, read = mesh.fetch((bound(subject.params, batch, subject.key), batch))
            nats += float(found.nats_BL.astype(np.float64).sum())
            variance += float(found.variance_B.astype(np.float64).sum())
            size += float((subject.tokenizer.bytes_V[read.tokens_BL] * read.weights_BL).sum())
            tokens += float(read.weights_BL.sum())
        bits = 1 / (math.log(2) * size)
        yield "bits_per_byte", nats * bits, math.sqrt(variance) * bits
        yield "nats_per_token", nats / tokens, math.sqrt(variance) / tokens
