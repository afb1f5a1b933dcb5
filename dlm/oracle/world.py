"""A world: a law over sequences that is known, so that a `denoise` can be exact and a number can be checked.

Ids 0 … size−1 are the tokens (the last one is eos, a token like any other), then come mask, bos and pad. A canvas tells which
tokens are known (those that are not the mask), the attention mask which of them position i may use; `denoise` answers with

    p(x_i | the known tokens that i may see)

A known token that i may see at i itself gives a point mass. Where what is seen has probability 0, as tokens drawn independently
of each other may, the answer is uniform over the tokens.
"""

from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp
import numpy as np

from dlm.nn import masks
from dlm.oracle.exact import all_sequences
from dlm.run.contracts import Canvas, Logits, Output
from dlm.run.spec import UserError, Vocab

_ENUMERABLE = 2**20  # sequences


class World(ABC):
    """What the worlds share; a world is static under `jit` (compared by identity)."""

    size: int  # V, tokens
    length: int  # L

    @abstractmethod
    def posterior(self, z_BL: jax.Array, known_BL: jax.Array) -> jax.Array:
        """Unnormalised log p(x_i = v | z where known), BLV; only where position i itself is unknown does it matter."""

    @abstractmethod
    def log_prob(self, x_BL: jax.Array) -> jax.Array:
        """log p(x), nats_B."""

    @abstractmethod
    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """n sequences, x_BL."""

    @property
    def vocab(self) -> Vocab:
        return Vocab(size=self.size + 3, bos=self.size + 1, eos=self.size - 1, pad=self.size + 2, mask=self.size)

    def entropy(self) -> float:
        """Nats per sequence, by enumeration."""
        if self.size**self.length > _ENUMERABLE:
            raise UserError(f"entropy: {self.size}^{self.length} sequences are too many to enumerate; make the world shorter")
        log_p_X = np.asarray(jax.jit(self.log_prob)(all_sequences(self.size, self.length)), np.float64)
        return -float(np.where(np.isfinite(log_p_X), np.exp(log_p_X) * log_p_X, 0.0).sum())

    def denoise(self, canvas: Canvas, *, mask: masks.Mask, cache=None, carry=None) -> Output:
        """The exact posterior of every position under the attention `mask`."""
        z_BL = canvas.z_BL
        B, L = z_BL.shape
        known_BL = z_BL != self.vocab.mask
        seen_LL = seen(mask, L)
        if seen_LL.all():
            logits_BLV = self.posterior(z_BL, known_BL)
        else:  # one posterior per reader i, of which its own position is kept
            known_BLL = known_BL[:, None, :] & seen_LL
            log_BLLV = self.posterior(jnp.repeat(z_BL, L, 0), known_BLL.reshape(B * L, L)).reshape(B, L, L, -1)
            logits_BLV = log_BLLV[:, np.arange(L), np.arange(L)]
        best_BL1 = logits_BLV.max(-1, keepdims=True)
        logits_BLV = jnp.where(jnp.isfinite(best_BL1), logits_BLV - best_BL1, 0.0)
        point_BLV = jnp.where(jax.nn.one_hot(z_BL, self.size, dtype=bool), 0.0, -jnp.inf)
        told_BL = known_BL & seen_LL.diagonal()
        logits_BLV = jnp.where(told_BL[..., None], point_BLV, logits_BLV)
        return Output(Logits(jnp.pad(logits_BLV, ((0, 0), (0, 0), (0, 3)), constant_values=-jnp.inf)))


def seen(mask: masks.Mask, length: int) -> np.ndarray:
    """seen_LL[i, j]: may position i use token j? Under a shift it reads what stands before it."""
    i_L = np.arange(length)
    allowed_1LL = masks.dense(mask, i_L, i_L + mask.shift)
    return np.ones((length, length), bool) if allowed_1LL is None else allowed_1LL[0]
