"""Calibration: is the model right as often as its probabilities say?

Expected calibration error (Guo et al., arXiv:1706.04599, eq. 3):

    ECE = Σ_b n_b/n |accuracy_b − confidence_b|

b: bins of equal width over the probability of the most likely token.

Every held-out token that the objective has the model predict counts once: the masked ones of one
draw of time and noise, or all of them for an autoregressive model.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.contracts import Canvas, Output
from dlm.core.contracts.evaluation import EvalContext
from dlm.evals.base import Base, Scores, estimate, over_batches, share


@dataclass(frozen=True)
class Calibration(Base):
    windows: int = 128  # evenly spread held-out windows; 0: all
    bins: int = 15

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "windows"

    def __post_init__(self):
        if self.windows < 0 or self.bins < 1:
            raise ValueError(
                f"windows={self.windows} must not be negative and bins={self.bins} at least 1"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        rows = []
        batches = over_batches(context, self.count, self.windows)
        for sums_BS3, batch in batches:
            # The last batch is filled up with rows of padding.
            real_B = batch.weights_BL.sum(1) > 0
            rows.append(sums_BS3[real_B])
        rows_NS3 = np.concatenate(rows)
        rows_NS3 = rows_NS3.astype(np.float64)
        yield estimate("ece", _calibration_error, rows_NS3)

        # Only an accuracy is a share of right answers.
        details = context.details
        details["trials"] = len(rows_NS3)
        yield estimate("accuracy", _accuracy, rows_NS3)
        del details["trials"]
        yield estimate("confidence", _confidence, rows_NS3)

    def count(self, experiment, params, batch, key):
        """Counts the tokens, the right ones and the sum of confidence in each bin, [B, S, 3]."""
        student = experiment.net(params)
        calls = []

        # The loss decides which tokens are predicted; its first call is the one that is scored.
        def net(canvas: Canvas) -> Output:
            output = student(canvas)
            calls.append((canvas.z_BL, output.prediction))
            return output

        models = replace(experiment.models(params), student=net)
        experiment.objective.loss(models, batch, key)
        z_BL, prediction = calls[0]
        counted_BL = batch.weights_BL > 0
        process = experiment.objective.process
        if process is not None:
            counted_BL &= process.undecided(z_BL, batch.layout)

        confidence_BL = prediction.confidence("top")
        right_BL = prediction.argmax() == batch.tokens_BL

        # A confidence of 1 belongs to the last bin.
        bin_BL = (confidence_BL * self.bins).astype(int)
        bin_BL = jnp.minimum(bin_BL, self.bins - 1)
        bin_BLS = jax.nn.one_hot(bin_BL, self.bins)
        bin_BLS = bin_BLS * counted_BL[..., None]
        sums = [bin_BLS.sum(1)]
        for part_BL in (right_BL, confidence_BL):
            part_BLS = bin_BLS * part_BL[..., None]
            sums.append(part_BLS.sum(1))
        return jnp.stack(sums, -1)


def _calibration_error(rows_NS3: np.ndarray) -> float:
    count_S, right_S, confidence_S = rows_NS3.sum(0).T
    gap_S = np.abs(right_S - confidence_S)
    return float(share(gap_S, count_S))


def _accuracy(rows_NS3: np.ndarray) -> float:
    count_NS, right_NS, _ = _columns(rows_NS3)
    return share(right_NS, count_NS)


def _confidence(rows_NS3: np.ndarray) -> float:
    count_NS, _, confidence_NS = _columns(rows_NS3)
    return share(confidence_NS, count_NS)


def _columns(rows_NS3: np.ndarray) -> np.ndarray:
    return np.moveaxis(rows_NS3, -1, 0)
