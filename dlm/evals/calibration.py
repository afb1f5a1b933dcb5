"""Calibration: is the model right as often as it is sure? Expected calibration error (Guo et al., arXiv:1706.04599, eq. 3).

    ECE = Σ_b n_b/n |accuracy_b − confidence_b|      b: bins of equal width over the probability of the likeliest token

Every held-out token that the objective has the model predict counts once: the masked ones of a draw of time and noise, or all of them
for an autoregressive model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.contracts import Canvas, Output
from dlm.core.intervals import jackknife
from dlm.machine import mesh


@dataclass(frozen=True)
class Calibration:
    windows: int = 128  # evenly spread held-out windows; 0: all
    bins: int = 15

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "windows"

    def __post_init__(self):
        if self.windows < 0 or self.bins < 1:
            raise ValueError(
                f"windows={self.windows} must not be negative and bins={self.bins} at least 1"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the windows."""
        counted = context.experiment.counted(self.count)
        rows = []
        for batch in context.held_out(self.windows or None):
            sums_BS3, real_B = mesh.fetch(
                (counted(context.params, batch, context.key), batch.weights_BL.sum(1) > 0)
            )
            rows.append(sums_BS3[real_B])
        rows_NS3 = np.concatenate(rows).astype(np.float64)
        yield "ece", *jackknife(_error, rows_NS3)
        context.details["trials"] = len(rows_NS3)
        yield (
            "accuracy",
            *jackknife(lambda rows: rows[..., 1].sum() / max(rows[..., 0].sum(), 1), rows_NS3),
        )
        del context.details["trials"]
        yield (
            "confidence",
            *jackknife(lambda rows: rows[..., 2].sum() / max(rows[..., 0].sum(), 1), rows_NS3),
        )

    def count(self, experiment, params, batch, key):
        """[B, S, 3]: tokens, right ones and the sum of confidence in each of S bins of each window."""
        seen, student = [], experiment.net(params)

        def net(canvas: Canvas) -> Output:
            output = student(canvas)
            seen.append((canvas.z_BL, output.prediction))
            return output

        experiment.held(params).loss(net, batch, key)
        z_BL, prediction = seen[0]
        asked_BL = batch.weights_BL > 0
        if experiment.objective.process is not None and experiment.objective.process.final:
            asked_BL &= z_BL == experiment.run.nn.vocab.mask
        sure_BL, right_BL = (
            prediction.confidence("top"),
            prediction.argmax() == batch.tokens_BL,
        )
        bin_BLS = (
            jax.nn.one_hot(jnp.minimum((sure_BL * self.bins).astype(int), self.bins - 1), self.bins)
            * asked_BL[..., None]
        )
        return jnp.stack(
            [
                bin_BLS.sum(1),
                (bin_BLS * right_BL[..., None]).sum(1),
                (bin_BLS * sure_BL[..., None]).sum(1),
            ],
            -1,
        )


def _error(rows_NS3: np.ndarray) -> float:
    sums_S3 = rows_NS3.sum(0)
    return float(np.abs(sums_S3[:, 1] - sums_S3[:, 2]).sum() / max(sums_S3[:, 0].sum(), 1))
