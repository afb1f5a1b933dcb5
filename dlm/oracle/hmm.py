"""A hidden Markov chain: long-range dependence whose posteriors are still exact.

    s_1 ─> s_2 ─> … ─> s_L        forward  f_i(s) = log p(s_i = s, evidence before i)
     │      │           │         backward b_i(s) = log p(evidence after i | s_i = s)
    x_1    x_2         x_L

    p(x_i = v | evidence on the others) ∝ Σ_s exp(f_i + b_i)(s) · emit(s, v)

Forward–backward runs in log space. S hidden states, V tokens.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import logsumexp

from dlm.core import keys
from dlm.oracle.world import World


def random_rows(
    rng: np.random.Generator, *shape: int, spread: float = 1.0
) -> np.ndarray:
    """Returns log-probabilities of random laws along the last axis."""
    # Normalised in float64.
    logits = spread * rng.normal(size=shape)
    total = np.logaddexp.reduce(logits, -1, keepdims=True)
    return (logits - total).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Hmm(World):
    """Log-probabilities of start, step (from row to column) and emission; −inf is allowed."""

    length: int
    start_S: np.ndarray
    step_SS: np.ndarray
    emit_SV: np.ndarray

    @classmethod
    def random(
        cls,
        states: int,
        size: int,
        length: int,
        seed: int = 0,
        spread: float = 1.0,
    ) -> "Hmm":
        """Draws random laws for everything.

        Args:
          states: number of hidden states.
          size: number of tokens.
          length: of a sequence.
          seed: of the draw.
          spread: standard deviation of the logits.
        """
        rng = np.random.default_rng(seed)
        # Drawn in this order, which the seed depends on.
        start_S = random_rows(rng, states, spread=spread)
        step_SS = random_rows(rng, states, states, spread=spread)
        emit_SV = random_rows(rng, states, size, spread=spread)
        return cls(length, start_S, step_SS, emit_SV)

    @property
    def size(self) -> int:  # type: ignore[override]  # of a frozen dataclass nothing is written
        """The number of tokens."""
        return self.emit_SV.shape[1]

    def posterior(self, evidence_BLV: Array) -> Array:
        """Returns log p(x_i = v | evidence on the other positions), unnormalised."""
        evidence_LBS = self._emitted(evidence_BLV)

        def backward(
            after_BS,
            evidence_BS,
        ):
            following_BS = after_BS + evidence_BS
            step_BSS = self.step_SS + following_BS[:, None, :]
            # Over all states at i + 1.
            before_BS = logsumexp(step_BSS, -1)
            return before_BS, after_BS

        # Nothing is behind the last position.
        last_BS = jnp.zeros_like(evidence_LBS[0])
        _, backward_LBS = jax.lax.scan(backward, last_BS, evidence_LBS, reverse=True)
        # Both directions leave out the evidence on i itself.
        log_LBS = self._forward(evidence_LBS) + backward_LBS
        # From states to tokens.
        log_LBSV = log_LBS[..., None] + self.emit_SV
        log_LBV = logsumexp(log_LBSV, -2)
        return log_LBV.swapaxes(0, 1)

    def log_prob(self, x_BL: Array) -> Array:
        """Returns log p(x), nats_B."""
        # The evidence of a known token is its emission by each state.
        emit_VS = jnp.asarray(self.emit_SV).T
        evidence_LBS = emit_VS[x_BL].swapaxes(0, 1)
        last_BS = self._forward(evidence_LBS)[-1]
        return logsumexp(last_BS + evidence_LBS[-1], -1)

    def sample(
        self,
        key: Array,
        n: int,
    ) -> Array:
        """Draws n sequences, x_BL."""
        emit_SV = jnp.asarray(self.emit_SV)
        step_SS = jnp.asarray(self.step_SS)
        row_B = jnp.arange(n)

        def draw(
            state_B,
            i,
        ):
            position_key = jax.random.fold_in(key, i)
            key_B = keys.per_sample(position_key, row_B)
            step_key_B = jax.vmap(jax.random.fold_in, (0, None))(key_B, 1)
            # The state emits a token and is followed by another state.
            token_B = _choose(key_B, emit_SV[state_B])
            next_B = _choose(step_key_B, step_SS[state_B])
            return next_B, token_B

        start_key = jax.random.fold_in(key, self.length)
        key_B = keys.per_sample(start_key, row_B)
        # Without the barrier XLA folds n copies of the law, for minutes.
        start_S = jax.lax.optimization_barrier(jnp.asarray(self.start_S))
        start_BS = jnp.broadcast_to(start_S, (n, len(start_S)))
        first_B = _choose(key_B, start_BS)
        _, x_LB = jax.lax.scan(draw, first_B, jnp.arange(self.length))
        return x_LB.T

    def _emitted(self, evidence_BLV: Array) -> Array:
        """Returns log p(evidence on x_i | s_i), position first, for the scans."""
        log_BLSV = self.emit_SV + evidence_BLV[..., None, :]
        log_BLS = logsumexp(log_BLSV, -1)
        return log_BLS.swapaxes(0, 1)

    def _forward(self, evidence_LBS: Array) -> Array:
        """Returns log p(s_i, evidence before i), position first."""

        def forward(
            before_BS,
            evidence_BS,
        ):
            here_BS = before_BS + evidence_BS
            # Over all states at i.
            step_BSS = here_BS[:, :, None] + self.step_SS
            next_BS = logsumexp(step_BSS, 1)
            return next_BS, before_BS

        # Nothing is before the first position.
        start_BS = jnp.broadcast_to(self.start_S, evidence_LBS.shape[1:])
        _, forward_LBS = jax.lax.scan(forward, start_BS, evidence_LBS)
        return forward_LBS


def _choose(
    key_B: Array,
    logits_BV: Array,
) -> Array:
    """Draws one index for each row."""
    index_B1 = keys.categorical(key_B, logits_BV[:, None])
    return index_B1[:, 0]
