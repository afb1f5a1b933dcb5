"""A Markov chain of tokens: the hidden chain that shows its state, so its entropy has a closed form at any length.

H(x) = H(x_1) + Σ_i Σ_s p(x_i = s) H(x_{i+1} | s)
"""

import numpy as np

from dlm.core.errors import UserError
from dlm.oracle.hmm import Hmm, random_rows


class Markov(Hmm):
    """log start_V, log step_VV; −inf forbids a start or a bigram."""

    def __init__(self, length: int, start_V: np.ndarray, step_VV: np.ndarray):
        with np.errstate(divide="ignore"):
            super().__init__(
                length, start_V, step_VV, np.log(np.eye(len(start_V), dtype=np.float32))
            )

    @classmethod
    def random(cls, size: int, length: int, seed: int = 0, spread: float = 1.0) -> "Markov":
        rng = np.random.default_rng(seed)
        return cls(
            length,
            random_rows(rng, size, spread=spread),
            random_rows(rng, size, size, spread=spread),
        )

    @classmethod
    def sparse(
        cls, size: int, length: int, ways: int = 4, seed: int = 0, slip: float = 1e-6
    ) -> "Markov":
        """Each token has `ways` successors, drawn at random with random weights; all others together have probability `slip`.

        They are as good as impossible, and yet a denoiser has a posterior whatever it is shown: after two tokens that do not fit it
        still sees what follows. It starts in its stationary law, so that every position is alike.
        """
        if not 1 <= ways < size or not 0 < slip < 1:
            raise UserError(f"ways={ways} must be from 1 to {size - 1} and slip={slip} in (0, 1)")
        rng = np.random.default_rng(seed)
        chosen_VV = rng.random((size, size)).argsort(-1) < ways  # of the next token, in each row
        weight_VV = np.where(chosen_VV, rng.exponential(size=(size, size)), 0.0)
        step_VV = (1 - slip) * weight_VV / weight_VV.sum(-1, keepdims=True) + np.where(
            chosen_VV, 0.0, slip / (size - ways)
        )
        start_V = np.linalg.matrix_power(step_VV, 2**20)[0]  # where a long chain stands
        return cls(
            length,
            np.log(start_V / start_V.sum()).astype(np.float32),
            np.log(step_VV).astype(np.float32),
        )

    def bigrams(self) -> np.ndarray:
        """p(x_i = u, x_{i+1} = v), the mean over i, as _VV."""
        p_V, step_VV = (np.exp(a.astype(np.float64)) for a in (self.start_S, self.step_SS))
        mean_V = np.mean(
            [p_V @ np.linalg.matrix_power(step_VV, i) for i in range(self.length - 1)], 0
        )
        return mean_V[:, None] * step_VV

    def entropy(self) -> float:
        p_V, step_VV = (np.exp(a.astype(np.float64)) for a in (self.start_S, self.step_SS))
        nats, nats_V = _entropy(p_V), _entropy(step_VV)
        for _ in range(self.length - 1):
            nats, p_V = nats + p_V @ nats_V, p_V @ step_VV
        return float(nats)


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)
