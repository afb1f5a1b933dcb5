"""A law over V^L as a table of log-probabilities; every posterior is a sum over the table."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core import keys
from dlm.oracle.enumeration import all_sequences
from dlm.oracle.world import World


@dataclass(frozen=True, eq=False)
class Tabular(World):
    """p(x) for every x, normalised here, in the order of `enumeration.all_sequences`."""

    size: int
    length: int
    log_p_X: np.ndarray  # −inf where x cannot happen

    def __post_init__(self):
        log_p_X = np.asarray(self.log_p_X, np.float64)
        shape = (self.size**self.length,)
        if log_p_X.shape != shape:
            table = f"a table over {self.size}^{self.length} sequences"
            raise ValueError(f"{table} has shape {shape}, not {log_p_X.shape}")
        log_p_X = log_p_X - np.logaddexp.reduce(log_p_X)
        object.__setattr__(self, "log_p_X", log_p_X.astype(np.float32))

    @classmethod
    def random(
        cls,
        size: int,
        length: int,
        seed: int = 0,
        spread: float = 1.0,
    ) -> "Tabular":
        """Returns normalised log-probabilities from a normal law with this standard deviation."""
        rng = np.random.default_rng(seed)
        logits_X = rng.normal(size=size**length)
        return cls(size, length, spread * logits_X)

    def posterior(self, evidence_BLV: Array) -> Array:
        """Returns log p(x_i = v | evidence on the other positions), unnormalised."""
        # The evidence on each position of every sequence.
        x_XL = all_sequences(self.size, self.length)
        columns = []
        for i in range(self.length):
            token_X = x_XL[:, i]
            columns.append(evidence_BLV[:, i, token_X])
        log_evidence_BLX = jnp.stack(columns, 1)
        position_L1 = jnp.arange(self.length)[:, None]

        def without(i):
            # The sum over all x of p(x) × evidence, without that of position i.
            others_BLX = jnp.where(position_L1 == i, 0.0, log_evidence_BLX)
            log_BX = self.log_p_X + others_BLX.sum(1)
            # Relative to the largest, which may be −inf.
            best_B1 = log_BX.max(-1, keepdims=True)
            finite_B1 = jnp.isfinite(best_B1)
            relative_BX = jnp.exp(log_BX - best_B1)
            mass_BX = jnp.where(finite_B1, relative_BX, 0.0)
            # Added up by the token at i.
            here_XLV = jax.nn.one_hot(x_XL, self.size)
            mass_BV = mass_BX @ here_XLV[:, i]
            return jnp.log(mass_BV) + jnp.where(finite_B1, best_B1, 0.0)

        # One position after the other: memory is that of one.
        with jax.default_matmul_precision("highest"):
            log_LBV = jax.lax.map(without, jnp.arange(self.length))
        return log_LBV.swapaxes(0, 1)

    def log_prob(self, x_BL: Array) -> Array:
        """Returns log p(x), nats_B."""
        # The number of a sequence in the table.
        exponent_L = np.arange(self.length - 1, -1, -1)
        place_L = self.size**exponent_L
        number_B = (x_BL * place_L).sum(-1)
        return jnp.asarray(self.log_p_X)[number_B]

    def sample(
        self,
        key: Array,
        n: int,
    ) -> Array:
        """Draws n sequences, x_BL."""
        key_B = keys.per_sample(key, jnp.arange(n))
        # Without the barrier XLA folds n copies of the table, for minutes.
        log_p_X = jax.lax.optimization_barrier(jnp.asarray(self.log_p_X))
        log_p_B1X = jnp.broadcast_to(log_p_X, (n, 1, len(log_p_X)))
        number_B1 = keys.categorical(key_B, log_p_B1X)
        x_XL = jnp.asarray(all_sequences(self.size, self.length))
        return x_XL[number_B1[:, 0]]
