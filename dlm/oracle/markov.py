"""A Markov chain of tokens: the hidden chain that shows its state, so its entropy has a closed form at any length.

H(x) = H(x_1) + Σ_i Σ_s p(x_i = s) H(x_{i+1} | s)
"""

import numpy as np

from dlm.oracle.hmm import Hmm, random_rows


class Markov(Hmm):
    """log start_V, log step_VV; −inf forbids a start or a bigram."""

    def __init__(self, length: int, start_V: np.ndarray, step_VV: np.ndarray):
        with np.errstate(divide="ignore"):
            super().__init__(length, start_V, step_VV, np.log(np.eye(len(start_V), dtype=np.float32)))

    @classmethod
    def random(cls, size: int, length: int, seed: int = 0, spread: float = 1.0) -> "Markov":
        rng = np.random.default_rng(seed)
        return cls(length, random_rows(rng, size, spread=spread), random_rows(rng, size, size, spread=spread))

    def entropy(self) -> float:
        p_V, step_VV = (np.exp(a.astype(np.float64)) for a in (self.start_S, self.step_SS))
        nats, nats_V = _entropy(p_V), _entropy(step_VV)
        for _ in range(self.length - 1):
            nats, p_V = nats + p_V @ nats_V, p_V @ step_VV
        return float(nats)


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)
