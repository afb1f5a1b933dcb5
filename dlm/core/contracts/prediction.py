"""What a network predicts: a distribution over the vocabulary at each position.

Shapes: B rows, L positions, R of them for each row, V ids. Probabilities are in nats (float32).
"""

from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.pytree import pytree

# Nats: logits are not accurate to more, so a lower temperature takes the most likely id.
COLDEST = 1e-6

Confidence = Literal["top", "margin", "entropy"]


class Prediction(Protocol):
    """p(x_i | canvas) at each position; excluded ids (bos, pad, mask) have probability 0."""

    def log_prob(self, ids_BL: jax.Array) -> jax.Array:
        """Returns log p(ids_i | canvas), float32_BL."""

    def probs(self) -> jax.Array:
        """Returns all probabilities, float32_BLV."""

    def sample(
        self,
        key_B: jax.Array,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> jax.Array:
        """Samples ids_BL from the sharpened distribution."""

    def tempered(
        self, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
    ) -> "Prediction":
        """Returns the distribution that `sample` samples from."""

    def confidence(self, kind: Confidence = "top") -> jax.Array:
        """Returns a score for each position, float32_BL; higher is more confident."""

    def argmax(self) -> jax.Array:
        """Returns the most likely id at each position, int32_BL."""

    def gather(self, position_BR: jax.Array) -> "Prediction":
        """Returns the prediction at these positions of each row alone."""


@pytree
class Dense:
    """The Prediction given by float32 logits_BLV; −inf excludes an id."""

    logits_BLV: jax.Array

    def log_prob(self, ids_BL: jax.Array) -> jax.Array:
        """Returns log p(ids_i | canvas), nats."""
        ids_BL1 = ids_BL[..., None]
        chosen_BL1 = jnp.take_along_axis(self.logits_BLV, ids_BL1, -1)
        total_BL = jax.nn.logsumexp(self.logits_BLV, -1)
        return chosen_BL1[..., 0] - total_BL

    def probs(self) -> jax.Array:
        """Returns all probabilities."""
        return jax.nn.softmax(self.logits_BLV, -1)

    def sample(
        self,
        key_B: jax.Array,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> jax.Array:
        """Samples from p^(1/temperature), cut to its top k and its nucleus.

        At temperature 0 (below `COLDEST`) the mode is taken.
        """
        if temperature < COLDEST:
            return self.argmax()
        sharpened = self.tempered(temperature, top_p, top_k)
        return keys.categorical(key_B, sharpened.logits_BLV)

    def tempered(
        self,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> "Dense":
        """Returns the distribution that `sample` samples from."""
        logits_BLV = self.logits_BLV
        # The mode alone has probability 1.
        if temperature < COLDEST:
            V = logits_BLV.shape[-1]
            best_BL = logits_BLV.argmax(-1)
            best_BLV = jax.nn.one_hot(best_BL, V, dtype=bool)
            return Dense(jnp.where(best_BLV, 0.0, -jnp.inf))
        # Relative to the largest: a compiler rounds a large quotient differently
        # where it computes it twice.
        if temperature != 1:
            highest_BL1 = logits_BLV.max(-1, keepdims=True)
            some_BL1 = jnp.isfinite(highest_BL1)
            highest_BL1 = jnp.where(some_BL1, highest_BL1, 0.0)
            logits_BLV = (logits_BLV - highest_BL1) / temperature
        logits_BLV = keep_top_k(logits_BLV, top_k)
        return Dense(keep_top_p(logits_BLV, top_p))

    def confidence(self, kind: Confidence = "top") -> jax.Array:
        """Scores each position; higher is more confident.

        'top': the largest probability; 'margin': its lead over the second;
        'entropy': minus the entropy, in nats.
        """
        if kind == "entropy":
            log_BLV = jax.nn.log_softmax(self.logits_BLV, -1)
            terms_BLV = jnp.exp(log_BLV) * log_BLV
            # p log p → 0 for excluded ids.
            possible_BLV = jnp.isfinite(log_BLV)
            terms_BLV = jnp.where(possible_BLV, terms_BLV, 0.0)
            return terms_BLV.sum(-1)
        if kind == "margin":
            probs_BLV = self.probs()
            two_BL2, _ = jax.lax.top_k(probs_BLV, 2)
            lead_BL1 = -jnp.diff(two_BL2, axis=-1)
            return lead_BL1[..., 0]
        probs_BLV = self.probs()
        return probs_BLV.max(-1)

    def argmax(self) -> jax.Array:
        """Returns the most likely id at each position, ids_BL."""
        best_BL = self.logits_BLV.argmax(-1)
        return best_BL.astype(jnp.int32)

    def gather(self, position_BR: jax.Array) -> "Dense":
        """Returns the prediction at these positions of each row alone, [B, R, V]."""
        position_BR1 = position_BR[..., None]
        return Dense(jnp.take_along_axis(self.logits_BLV, position_BR1, 1))


def keep_top_k(logits_BLV: jax.Array, top_k: int) -> jax.Array:
    """Sets all logits below the k-th largest to −inf (ties with it stay); k = 0 keeps all."""
    V = logits_BLV.shape[-1]
    if not 0 < top_k < V:
        return logits_BLV
    largest_BLK, _ = jax.lax.top_k(logits_BLV, top_k)
    floor_BL1 = largest_BLK[..., -1:]
    return jnp.where(logits_BLV >= floor_BL1, logits_BLV, -jnp.inf)


def keep_top_p(logits_BLV: jax.Array, top_p: float) -> jax.Array:
    """Sets all logits outside the smallest set of probability ≥ top_p to −inf.

    Ties with the last member of that set stay.
    """
    if top_p >= 1.0:
        return logits_BLV
    probs_BLV = jax.nn.softmax(logits_BLV, -1)
    ordered_BLV = -jnp.sort(-probs_BLV, -1)
    # An id belongs to the set if the more likely ones together do not reach top_p.
    up_to_BLV = jnp.cumsum(ordered_BLV, -1)
    before_BLV = up_to_BLV - ordered_BLV
    inside_BLV = jnp.where(before_BLV < top_p, ordered_BLV, jnp.inf)
    floor_BL1 = inside_BLV.min(-1, keepdims=True)
    return jnp.where(probs_BLV >= floor_BL1, logits_BLV, -jnp.inf)
