"""A law over V^L given as a table of log-probabilities; every posterior is a sum over the table."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.oracle.enumeration import all_sequences
from dlm.oracle.world import World


@dataclass(frozen=True, eq=False)
class Tabular(World):
    """p(x) for every x, normalised here; `log_p_X` in the order of `exact.all_sequences`, −inf where x cannot happen."""

    size: int
    length: int
    log_p_X: np.ndarray

    def __post_init__(self):
        log_p_X = np.asarray(self.log_p_X, np.float64)
        if log_p_X.shape != (self.size**self.length,):
            raise ValueError(
                f"a table over {self.size}^{self.length} sequences has shape ({self.size**self.length},), not {log_p_X.shape}"
            )
        object.__setattr__(
            self, "log_p_X", (log_p_X - np.logaddexp.reduce(log_p_X)).astype(np.float32)
        )

    @classmethod
    def random(cls, size: int, length: int, seed: int = 0, spread: float = 1.0) -> "Tabular":
        """Log-probabilities drawn from a normal law of standard deviation `spread`, then normalised."""
        return cls(size, length, spread * np.random.default_rng(seed).normal(size=size**length))

    def posterior(self, evidence_BLV):
        x_XL = all_sequences(self.size, self.length)
        log_evidence_BLX = jnp.stack(
            [evidence_BLV[:, i, x_XL[:, i]] for i in range(self.length)], 1
        )

        def without(i):
            log_BX = self.log_p_X + jnp.where(
                jnp.arange(self.length)[:, None] == i, 0.0, log_evidence_BLX
            ).sum(1)
            best_B1 = log_BX.max(-1, keepdims=True)
            mass_BX = jnp.where(jnp.isfinite(best_B1), jnp.exp(log_BX - best_B1), 0.0)
            return jnp.log(mass_BX @ jax.nn.one_hot(x_XL, self.size)[:, i]) + jnp.where(
                jnp.isfinite(best_B1), best_B1, 0.0
            )

        with jax.default_matmul_precision("highest"):
            return jax.lax.map(without, jnp.arange(self.length)).swapaxes(0, 1)

    def log_prob(self, x_BL):
        return jnp.asarray(self.log_p_X)[
            (x_BL * self.size ** np.arange(self.length - 1, -1, -1)).sum(-1)
        ]

    def sample(self, key, n):
        key_B = keys.per_sample(key, jnp.arange(n))
        log_p_X = jax.lax.optimization_barrier(
            jnp.asarray(self.log_p_X)
        )  # else XLA folds n copies of it, for minutes
        drawn_B1 = keys.categorical(key_B, jnp.broadcast_to(log_p_X, (n, 1, len(log_p_X))))
        return jnp.asarray(all_sequences(self.size, self.length))[drawn_B1[:, 0]]
