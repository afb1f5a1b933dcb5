"""A world: a law over sequences that is known, so that a network can be exact and a number can be checked.

Ids 0 … size−1 are the tokens (the last one is eos, a token like any other), then come mask, bos and pad. A canvas tells which
tokens are known (those that are not the mask), its visibility which of them position i may use; `net` returns

    p(x_i | the known tokens that i may see)

A known token that i may see at i itself gives a point mass. Where what is seen has probability 0, as tokens drawn independently
of each other may, the answer is uniform over the tokens.

Under noise that leaves no masks nothing is known for certain: `under(process)` weighs every token by its likelihood q(z_j | x_j) and
answers with the leave-one-out posterior p(x_i | z_j, j ≠ i), the optimum of the bounds of uniform and hybrid noise.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.contracts import Canvas, Dense, Layout, Net, Output
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.nn.visibility import in_one_stream, two_streams
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

    def net(self, canvas: Canvas) -> Output:
        """Returns the exact posterior of every position under the canvas's visibility."""
        B, L = canvas.z_BL.shape
        if _is_open(canvas):
            view_BL = canvas.z_BL
            logits_BLV = self.posterior(self._evidence(view_BL))
        else:
            # One posterior for each reader i, of which its own position is kept.
            seen_BLL = views(canvas, self.vocab.mask)
            evidence_NLV = self._evidence(seen_BLL.reshape(B * L, L))
            log_BLLV = self.posterior(evidence_NLV).reshape(B, L, L, -1)
            i_L = np.arange(L)
            logits_BLV, view_BL = log_BLLV[:, i_L, i_L], seen_BLL[:, i_L, i_L]
        point_BLV = jnp.where(jax.nn.one_hot(view_BL, self.size, dtype=bool), 0.0, -jnp.inf)
        known_BL1 = (view_BL != self.vocab.mask)[..., None]
        return self._output(jnp.where(known_BL1, point_BLV, logits_BLV))

    def under(self, process, own: bool = False) -> Net:
        """Returns a network that knows how `process` destroys tokens.

        With `own`, z_i itself is taken as evidence on x_i too.
        """

        def net(canvas: Canvas) -> Output:
            shape = (self.size, *canvas.z_BL.shape)
            token_VBL = jnp.broadcast_to(jnp.arange(self.size)[:, None, None], shape)

            def log_q(x_BL):
                return process.log_q(canvas.z_BL, canvas.t_BL, x_BL)

            log_q_BLV = jnp.moveaxis(jax.vmap(log_q)(token_VBL), 0, -1)
            certain_BLV = self._evidence(canvas.z_BL)
            evidence_BLV = jnp.where(canvas.frozen_BL[..., None], certain_BLV, log_q_BLV)
            logits_BLV = self.posterior(evidence_BLV)
            return self._output(logits_BLV + evidence_BLV if own else logits_BLV)

        return net

    def _evidence(self, view_BL):
        """Certainty of what is seen, nothing where a mask is."""
        point_BLV = jnp.where(jax.nn.one_hot(view_BL, self.size, dtype=bool), 0.0, -jnp.inf)
        return jnp.where((view_BL == self.vocab.mask)[..., None], 0.0, point_BLV)

    def _output(self, logits_BLV) -> Output:
        best_BL1 = logits_BLV.max(-1, keepdims=True)
        logits_BLV = jnp.where(jnp.isfinite(best_BL1), logits_BLV - best_BL1, 0.0)
        return Output(
            Dense(jnp.pad(logits_BLV, ((0, 0), (0, 0), (0, 3)), constant_values=-jnp.inf))
        )


def _is_open(canvas: Canvas) -> bool:
    """Says whether every position sees the canvas as it is."""
    layout = Layout().complete(canvas.z_BL.shape[1])
    one_stream = canvas.visibility.streams == 1
    return one_stream and in_one_stream(canvas.visibility, layout, layout) is None


def views(canvas: Canvas, mask: int) -> jax.Array:
    """Returns views_BLL[b, i, j], what position i sees at j when it predicts token i.

    It is `mask` where i sees nothing, and the token of the clean stream where i sees that.
    """
    visibility, L = canvas.visibility, canvas.z_BL.shape[1]
    key = Layout().complete(L)
    if visibility.streams == 1:
        query = key
        # With shifted input, what is read at j is token j − 1.
        if visibility.shift == "input":
            key = replace(key, index_BL=1 + jnp.arange(L)[None])
        allowed_1LL = in_one_stream(visibility, query, key)
        if allowed_1LL is None:
            return jnp.broadcast_to(canvas.z_BL[:, None, :], (len(canvas.z_BL), L, L))
        return jnp.where(allowed_1LL, canvas.z_BL[:, None, :], mask)
    both = two_streams(canvas, mask)
    layout, clean_BL = both.layout.complete(L), both.clean_BL
    sees_noised_BLL = visibility.allowed(layout, layout, "zz")
    sees_clean_BLL = visibility.allowed(layout, layout, "zx")
    assert sees_noised_BLL is not None and sees_clean_BLL is not None and clean_BL is not None
    clean_BLL = jnp.where(sees_clean_BLL, clean_BL[:, None, :], mask)
    return jnp.where(sees_noised_BLL, both.z_BL[:, None, :], clean_BLL)
