"""A hidden Markov chain: long-range dependence whose posteriors are still exact, by forward–backward in log space.

    s_1 ─> s_2 ─> … ─> s_L        forward  f_i(s) = log p(s_i = s, what is told before i)
     │      │           │         backward b_i(s) = log p(what is told after i | s_i = s)
    x_1    x_2         x_L        p(x_i = v | what is told of the others) ∝ Σ_s exp(f_i + b_i)(s) · emit(s, v)

S hidden states, V tokens.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from dlm.core import keys
from dlm.oracle.world import World


def random_rows(rng: np.random.Generator, *shape: int, spread: float = 1.0) -> np.ndarray:
    """Log-probabilities of random laws along the last axis."""
    logits = spread * rng.normal(size=shape)
    return (logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Hmm(World):
    """log start_S, log step_SS (from row to column), log emit_SV; rows are normalised laws, −inf allowed."""

    length: int
    start_S: np.ndarray
    step_SS: np.ndarray
    emit_SV: np.ndarray

    @classmethod
    def random(
        cls, states: int, size: int, length: int, seed: int = 0, spread: float = 1.0
    ) -> "Hmm":
        rng = np.random.default_rng(seed)
        shapes = (states,), (states, states), (states, size)
        return cls(length, *(random_rows(rng, *shape, spread=spread) for shape in shapes))

    @property
    def size(self) -> int:
        return self.emit_SV.shape[1]

    def posterior(self, evidence_BLV):
        evidence_LBS = self._emitted(evidence_BLV)

        def backward(after_BS, evidence_BS):
            before_BS = logsumexp(self.step_SS + (after_BS + evidence_BS)[:, None, :], -1)
            return before_BS, after_BS

        _, backward_LBS = jax.lax.scan(
            backward, jnp.zeros_like(evidence_LBS[0]), evidence_LBS, reverse=True
        )
        log_LBS = self._forward(evidence_LBS) + backward_LBS
        return logsumexp(log_LBS[..., None] + self.emit_SV, -2).swapaxes(0, 1)

    def log_prob(self, x_BL):
        evidence_LBS = jnp.asarray(self.emit_SV).T[x_BL].swapaxes(0, 1)
        return logsumexp(self._forward(evidence_LBS)[-1] + evidence_LBS[-1], -1)

    def sample(self, key, n):
        def draw(state_B, i):
            key_B = keys.per_sample(jax.random.fold_in(key, i), jnp.arange(n))
            token_B = _choose(key_B, jnp.asarray(self.emit_SV)[state_B])
            next_B = _choose(
                jax.vmap(jax.random.fold_in, (0, None))(key_B, 1),
                jnp.asarray(self.step_SS)[state_B],
            )
            return next_B, token_B

        key_B = keys.per_sample(jax.random.fold_in(key, self.length), jnp.arange(n))
        start_S = jax.lax.optimization_barrier(
            jnp.asarray(self.start_S)
        )  # else XLA folds n copies of it, for minutes
        first_B = _choose(key_B, jnp.broadcast_to(start_S, (n, len(start_S))))
        return jax.lax.scan(draw, first_B, jnp.arange(self.length))[1].T

    def _emitted(self, evidence_BLV):
        """log p(what is told of x_i | s_i), position first, for the scans."""
        return logsumexp(self.emit_SV + evidence_BLV[..., None, :], -1).swapaxes(0, 1)

    def _forward(self, evidence_LBS):
        """log p(s_i, what is told before i), position first."""

        def forward(before_BS, evidence_BS):
            here_BS = before_BS + evidence_BS
            return logsumexp(here_BS[:, :, None] + self.step_SS, 1), before_BS

        start_BS = jnp.broadcast_to(self.start_S, evidence_LBS.shape[1:])
        return jax.lax.scan(forward, start_BS, evidence_LBS)[1]


def _choose(key_B, logits_BV):
    return keys.categorical(key_B, logits_BV[:, None])[:, 0]
