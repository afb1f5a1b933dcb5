"""A world: a law over sequences that is known, so that a `denoise` can be exact and a number can be checked.

Ids 0 … size−1 are the tokens (the last one is eos, a token like any other), then come mask, bos and pad. A canvas tells which
tokens are known (those that are not the mask), the attention mask which of them position i may use; `denoise` answers with

    p(x_i | the known tokens that i may see)

A known token that i may see at i itself gives a point mass. Where what is seen has probability 0, as tokens drawn independently
of each other may, the answer is uniform over the tokens.

Under noise that leaves no masks nothing is known for certain: `under(process)` weighs every token by its likelihood q(z_j | x_j) and
answers with the leave-one-out posterior p(x_i | z_j, j ≠ i), the optimum of the bounds of uniform and hybrid noise.
"""

from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.contracts import Canvas, Logits, Output
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.nn import masks
from dlm.oracle.enumeration import all_sequences

_ENUMERABLE = 2**20  # sequences


class World(ABC):
    """What the worlds share; a world is static under `jit` (compared by identity)."""

    size: int  # V, tokens
    length: int  # L

    @abstractmethod
    def posterior(self, evidence_BLV: jax.Array) -> jax.Array:
        """Unnormalised log p(x_i = v | what is told of the other positions), BLV; evidence_BLV is log p(what is told of x_i | x_i = v)."""

    @abstractmethod
    def log_prob(self, x_BL: jax.Array) -> jax.Array:
        """log p(x), nats_B."""

    @abstractmethod
    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """n sequences, x_BL."""

    @property
    def vocab(self) -> Vocab:
        return Vocab(
            size=self.size + 3,
            bos=self.size + 1,
            eos=self.size - 1,
            pad=self.size + 2,
            mask=self.size,
        )

    def entropy(self) -> float:
        """Nats per sequence, by enumeration."""
        if self.size**self.length > _ENUMERABLE:
            raise UserError(
                f"entropy: {self.size}^{self.length} sequences are too many to enumerate; make the world shorter"
            )
        log_p_X = np.asarray(
            jax.jit(self.log_prob)(all_sequences(self.size, self.length)), np.float64
        )
        return -float(np.where(np.isfinite(log_p_X), np.exp(log_p_X) * log_p_X, 0.0).sum())

    def denoise(self, canvas: Canvas, *, mask: masks.Mask, cache=None, carry=None) -> Output:
        """The exact posterior of every position under the attention `mask`."""
        B, L = canvas.z_BL.shape
        if mask == masks.Mask():
            view_BL = canvas.z_BL
            logits_BLV = self.posterior(self._evidence(view_BL))
        else:  # one posterior per reader i, of which its own position is kept
            view_BLL = views(mask, canvas, self.vocab.mask)
            log_BLLV = self.posterior(self._evidence(view_BLL.reshape(B * L, L))).reshape(
                B, L, L, -1
            )
            logits_BLV, view_BL = (
                log_BLLV[:, np.arange(L), np.arange(L)],
                view_BLL[:, np.arange(L), np.arange(L)],
            )
        point_BLV = jnp.where(jax.nn.one_hot(view_BL, self.size, dtype=bool), 0.0, -jnp.inf)
        return self._output(
            jnp.where((view_BL != self.vocab.mask)[..., None], point_BLV, logits_BLV)
        )

    def under(self, process, own: bool = False):
        """A `denoise` that knows how `process` destroys tokens; with `own` z_i itself is taken as evidence on x_i, too."""

        def denoise(canvas: Canvas, *, mask: masks.Mask, cache=None, carry=None) -> Output:
            token_BL = jnp.broadcast_to(
                jnp.arange(self.size)[:, None, None], (self.size, *canvas.z_BL.shape)
            )
            log_q_BLV = jnp.moveaxis(
                jax.vmap(lambda x_BL: process.log_q(canvas.z_BL, canvas.t_BL, x_BL))(token_BL),
                0,
                -1,
            )
            evidence_BLV = jnp.where(
                canvas.frozen_BL[..., None], self._evidence(canvas.z_BL), log_q_BLV
            )
            logits_BLV = self.posterior(evidence_BLV)
            return self._output(logits_BLV + evidence_BLV if own else logits_BLV)

        return denoise

    def _evidence(self, view_BL):
        """Certainty of what is seen, nothing where a mask is."""
        point_BLV = jnp.where(jax.nn.one_hot(view_BL, self.size, dtype=bool), 0.0, -jnp.inf)
        return jnp.where((view_BL == self.vocab.mask)[..., None], 0.0, point_BLV)

    def _output(self, logits_BLV) -> Output:
        best_BL1 = logits_BLV.max(-1, keepdims=True)
        logits_BLV = jnp.where(jnp.isfinite(best_BL1), logits_BLV - best_BL1, 0.0)
        return Output(
            Logits(jnp.pad(logits_BLV, ((0, 0), (0, 0), (0, 3)), constant_values=-jnp.inf))
        )


def views(mask: masks.Mask, canvas: Canvas, blank: int) -> jax.Array:
    """views_BLL[b, i, j]: what position i sees at j when it predicts token i; `blank` where nothing.

    Under a shift it reads what stands before it. A clean stream shows the tokens of other blocks (`nn.masks`).
    """
    z_BL, L = canvas.z_BL, canvas.z_BL.shape[1]
    i_1L = jnp.arange(L)[None]
    z_BLL = z_BL[:, None, :]
    if mask.kind == "partition":
        block_BL, clean_BL = (
            canvas.fields.get("block_BL", z_BL == blank),
            canvas.fields.get("clean_BL", z_BL),
        )
        return jnp.where(block_BL[:, :, None] != block_BL[:, None, :], clean_BL[:, None, :], blank)
    if mask.kind == "block":
        block_BL = masks.blocks(mask.size, canvas.fields, i_1L)
        query, memory = block_BL[:, :, None], block_BL[:, None, :]
        clean_BLL = canvas.fields.get("clean_BL", z_BL)[:, None, :]
        return jnp.where(query == memory, z_BLL, jnp.where(query > memory, clean_BLL, blank))
    allowed_1LL = masks.dense(mask, masks.Side(i_1L), masks.Side(i_1L + mask.shift))
    return (
        jnp.broadcast_to(z_BLL, (len(z_BL), L, L))
        if allowed_1LL is None
        else jnp.where(allowed_1LL, z_BLL, blank)
    )
