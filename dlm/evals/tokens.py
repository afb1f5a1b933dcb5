"""Accuracy on masked tokens: held-out text with tokens masked at random, and the most likely one.

The masks are the same for every objective, whatever it was trained with, so this compares models of
different objectives. Where the data mark tokens (`data.marked_characters`), marked and unmarked
ones are scored separately as well. A block model reads the clean text before a block and nothing
after it, as it does in sampling, so that its score is not comparable with those of models that see
both sides masked.

Source: ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts.evaluation import EvalContext
from dlm.core.errors import UserError
from dlm.evals.base import Base, Scores, estimate, over_batches, share
from dlm.noise.mask import MaskNoise

ALL, MARKED, UNMARKED = range(3)
_NAMES = ("token_accuracy", "marked_token_accuracy", "unmarked_token_accuracy")


@dataclass(frozen=True)
class MaskedTokens(Base):
    windows: int = 128  # evenly spread held-out windows; 0: all
    rate: float = 0.5  # share of the tokens that are masked

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "windows"

    def __post_init__(self):
        if self.windows < 0 or not 0 < self.rate <= 1:
            raise ValueError(
                f"windows={self.windows} must not be negative and rate={self.rate} "
                "must be in (0, 1]"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        if not context.objective.fills_masks:
            raise UserError(
                "evals.tokens asks for masked tokens, and this run's objective predicts none: "
                "it needs objectives.masked or its kin"
            )
        batches = over_batches(context, self.count, self.windows)
        rows = [counts for counts, _ in batches]
        counts_NK2 = np.concatenate(rows).astype(np.float64)
        masked_K = counts_NK2[:, :, 0].sum(0)
        for kind, name in enumerate(_NAMES):
            counts_N2 = counts_NK2[:, kind]
            # Where nothing is marked, the unmarked tokens are all tokens.
            if kind == UNMARKED and not masked_K[MARKED]:
                continue
            if masked_K[kind]:
                # A window without masks of this kind is no trial.
                counts_N2 = counts_N2[counts_N2[:, 0] > 0]
                context.details["trials"] = len(counts_N2)
                yield estimate(name, _share_right, counts_N2)

    def count(self, experiment, params, batch, key):
        """Counts the masked tokens and the right ones of each window, [B, 3, 2].

        They are counted among all tokens, the marked and the unmarked ones.
        """
        objective = experiment.objective
        key = keys.key(key, "corrupt")
        key_B = keys.per_sample(key, batch.index_B)
        # Independent masks, whatever the objective's own process is.
        noise = MaskNoise(vocab=objective.vocab)
        rate_11 = jnp.full((1, 1), self.rate)
        z_BL = noise.corrupt(key_B, batch.tokens_BL, rate_11, batch.noisable_BL)

        models = experiment.models(params)
        t_BL = jnp.full(z_BL.shape, self.rate)
        output = objective.read(models, batch, z_BL, t_BL)
        masked_BL = noise.undecided(z_BL, batch.layout)
        masked_BL &= batch.weights_BL > 0
        right_BL = output.prediction.argmax() == batch.tokens_BL
        marked_BL = jnp.zeros(z_BL.shape, bool)
        if batch.marked_BL is not None:
            marked_BL = batch.marked_BL > 0

        # In the order of `_NAMES`.
        counts = []
        for kind_BL in (masked_BL, masked_BL & marked_BL, masked_BL & ~marked_BL):
            number_B = kind_BL.sum(1)
            right_B = (kind_BL & right_BL).sum(1)
            count_B2 = jnp.stack([number_B, right_B], -1)
            counts.append(count_B2)
        return jnp.stack(counts, 1)


def _share_right(counts_N2: np.ndarray) -> float:
    masked_N, right_N = counts_N2.T
    return share(right_N, masked_N)
