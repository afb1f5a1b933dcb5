"""Accuracy on masked tokens: held-out text with a share of its tokens masked, each at random, and the likeliest token put in their place.

The masks are the same for every objective, whatever it trained with, so this compares models that were taught by different ones. Where the
data mark tokens (`data.marked_characters`), marked and unmarked ones are scored apart. A block model reads what is before a block in clean and nothing
after it, as it does when it writes, so that its score is not comparable with those of models that see both sides masked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.errors import UserError
from dlm.core.intervals import jackknife
from dlm.machine import mesh
from dlm.noise.mask import MaskNoise


@dataclass(frozen=True)
class MaskedTokens:
    windows: int = 128  # evenly spread held-out windows; 0: all
    rate: float = 0.5  # of masks

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "windows"

    def __post_init__(self):
        if self.windows < 0 or not 0 < self.rate <= 1:
            raise ValueError(
                f"windows={self.windows} must not be negative and rate={self.rate} must be in (0, 1]"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the windows."""
        if not hasattr(context.objective, "read"):
            raise UserError(
                "evals.tokens asks for masked tokens, and this run's objective predicts none: it needs objectives.masked or its kin"
            )
        counted = context.experiment.counted(self.count)
        rows = [
            mesh.fetch(counted(context.params, batch, context.key))
            for batch in context.held_out(self.windows or None)
        ]
        rows_NK2 = np.concatenate(rows).astype(np.float64)
        for k, name in enumerate(("token", "marked_token", "unmarked_token")):
            if rows_NK2[:, k, 0].sum() and (k != 2 or rows_NK2[:, 1, 0].sum()):
                asked_N2 = rows_NK2[rows_NK2[:, k, 0] > 0, k]
                context.details["trials"] = len(asked_N2)
                yield f"{name}_accuracy", *jackknife(_share, asked_N2)

    def count(self, experiment, params, batch, key):
        """[B, 3, 2]: masked tokens and right ones among all, the marked and the unmarked ones of each window."""
        objective = experiment.objective
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        z_BL = MaskNoise(vocab=objective.vocab).corrupt(
            key_B, batch.tokens_BL, jnp.full((1, 1), self.rate), batch.noisable_BL
        )
        read = objective.read(
            experiment.net(params),
            batch,
            z_BL,
            jnp.full(z_BL.shape, self.rate),
        )
        asked_BL = (z_BL == objective.vocab.mask) & (batch.weights_BL > 0)
        right_BL = read.prediction.argmax() == batch.tokens_BL
        marked_BL = jnp.zeros(z_BL.shape, bool) if batch.marked_BL is None else batch.marked_BL > 0
        kinds = [asked_BL, asked_BL & marked_BL, asked_BL & ~marked_BL]
        return jnp.stack([jnp.stack([k.sum(1), (k & right_BL).sum(1)], -1) for k in kinds], 1)


def _share(rows_N2: np.ndarray) -> float:
    return rows_N2[:, 1].sum() / max(rows_N2[:, 0].sum(), 1)
