"""A Markov chain of tokens: the hidden chain that shows its state.

    H(x) = H(x_1) + Σ_i Σ_s p(x_i = s) H(x_{i+1} | s)

So its entropy has a closed form at any length.
"""

import numpy as np

from dlm.core.errors import UserError
from dlm.oracle.hmm import Hmm, random_rows

_LONG = 2**20  # steps after which a chain has its stationary law


class Markov(Hmm):
    """log start_V, log step_VV; −inf forbids a start or a bigram."""

    def __init__(
        self,
        length: int,
        start_V: np.ndarray,
        step_VV: np.ndarray,
    ):
        # Each state emits its own token.
        with np.errstate(divide="ignore"):
            emit_VV = np.log(np.eye(len(start_V), dtype=np.float32))
        super().__init__(length, start_V, step_VV, emit_VV)

    @classmethod
    def random(  # type: ignore[override]  # a chain has no hidden states
        cls,
        size: int,
        length: int,
        seed: int = 0,
        spread: float = 1.0,
    ) -> "Markov":
        """Draws random laws; `spread` is the standard deviation of the logits."""
        rng = np.random.default_rng(seed)
        start_V = random_rows(rng, size, spread=spread)
        step_VV = random_rows(rng, size, size, spread=spread)
        return cls(length, start_V, step_VV)

    @classmethod
    def sparse(
        cls,
        size: int,
        length: int,
        ways: int = 4,
        seed: int = 0,
        slip: float = 1e-6,
    ) -> "Markov":
        """Gives each token `ways` random successors with random weights.

        All other successors together have probability `slip`. They are as good as impossible, and
        yet a network has a posterior for every canvas: after two tokens that do not fit it can
        still predict. The chain starts in its stationary law, so that all positions are alike.

        Args:
          size: number of tokens.
          length: of a sequence.
          ways: likely successors of each token.
          seed: of the draw.
          slip: probability of all others.
        """
        if not 1 <= ways < size or not 0 < slip < 1:
            limits = f"ways={ways} must be from 1 to {size - 1}"
            raise UserError(f"{limits} and slip={slip} in (0, 1)")
        rng = np.random.default_rng(seed)
        # In each row the likely next tokens.
        chosen_VV = rng.random((size, size)).argsort(-1) < ways
        weight_VV = rng.exponential(size=(size, size))
        weight_VV = np.where(chosen_VV, weight_VV, 0.0)
        total_V1 = weight_VV.sum(-1, keepdims=True)
        likely_VV = (1 - slip) * weight_VV / total_V1
        # All others have equal shares of what is left.
        slip_VV = np.where(chosen_VV, 0.0, slip / (size - ways))
        step_VV = likely_VV + slip_VV
        # The law of a long chain, whatever its start.
        start_V = np.linalg.matrix_power(step_VV, _LONG)[0]
        start_V = start_V / start_V.sum()
        log_start_V = np.log(start_V).astype(np.float32)
        log_step_VV = np.log(step_VV).astype(np.float32)
        return cls(length, log_start_V, log_step_VV)

    # ------------------------------------------------------------------------ closed forms

    def bigrams(self) -> np.ndarray:
        """Returns p(x_i = u, x_{i+1} = v), the mean over i, as _VV."""
        p_V, step_VV = self._laws()
        laws = []
        for i in range(self.length - 1):
            power_VV = np.linalg.matrix_power(step_VV, i)
            laws.append(p_V @ power_VV)
        # The mean law of a token that has a successor.
        mean_V = np.mean(laws, 0)
        return mean_V[:, None] * step_VV

    def entropy(self) -> float:
        """Returns the nats per sequence, by the closed form."""
        p_V, step_VV = self._laws()
        # The law of the i-th token follows from the previous one.
        nats = _entropy(p_V)
        nats_V = _entropy(step_VV)
        for _ in range(self.length - 1):
            nats = nats + p_V @ nats_V
            p_V = p_V @ step_VV
        return float(nats)

    def _laws(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the probabilities of start and step, in float64."""
        log_start_V = self.start_S.astype(np.float64)
        log_step_VV = self.step_SS.astype(np.float64)
        return np.exp(log_start_V), np.exp(log_step_VV)


def _entropy(p: np.ndarray) -> np.ndarray:
    """Returns the nats of laws along the last axis."""
    # 0 log 0 is 0.
    log_p = np.log(np.where(p > 0, p, 1.0))
    return -np.sum(p * log_p, -1)
