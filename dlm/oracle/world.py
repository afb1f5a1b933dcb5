"""A world: a law over sequences that is known, so that a network can be exact and a number checked.

Ids 0 … size − 1 are the tokens (the last one is eos, a token like any other), then come mask, bos
and pad. The known tokens of a canvas are those that are not masks; its visibility says which of
them position i may use. `net` returns

    p(x_i | the known tokens that i may attend to)

A known token that i may attend to at i itself gives a point mass. Where the known tokens have
probability 0, as tokens drawn independently of each other may, the answer is uniform.

Under noise that leaves no masks nothing is known for certain. `under(process)` weights every token
by its likelihood q(z_j | x_j) and returns the leave-one-out posterior p(x_i | z_j, j ≠ i), the
optimum of the bounds of uniform and hybrid noise.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core.contracts import (
    Canvas,
    Dense,
    Layout,
    Net,
    Output,
)
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.nn.visibility import in_one_stream, two_streams
from dlm.noise.mask import MaskNoise
from dlm.oracle.enumeration import all_sequences

_ENUMERABLE = 2**20  # sequences
_SPECIAL = 3  # ids behind the tokens: mask, bos, pad


class World(ABC):
    """The base of all worlds; a world is static under `jit` (compared by identity)."""

    size: int  # V, tokens
    length: int  # L

    @abstractmethod
    def posterior(self, evidence_BLV: Array) -> Array:
        """Returns log p(x_i = v | evidence on the other positions), unnormalised, BLV.

        evidence_BLV is log p(what is observed of x_i | x_i = v).
        """

    @abstractmethod
    def log_prob(self, x_BL: Array) -> Array:
        """Returns log p(x), nats_B."""

    @abstractmethod
    def sample(
        self,
        key: Array,
        n: int,
    ) -> Array:
        """Draws n sequences, x_BL."""

    @property
    def vocab(self) -> Vocab:
        """The ids of the tokens, and of mask, bos and pad behind them."""
        # eos is a token of the world like any other.
        V = self.size
        mask, bos, pad = V, V + 1, V + 2
        return Vocab(size=V + _SPECIAL, eos=V - 1, mask=mask, bos=bos, pad=pad)

    def entropy(self) -> float:
        """Returns the nats per sequence, by enumeration."""
        count = f"{self.size}^{self.length} sequences"
        if self.size**self.length > _ENUMERABLE:
            remedy = "make the world shorter"
            raise UserError(f"entropy: {count} are too many to enumerate; {remedy}")
        x_XL = all_sequences(self.size, self.length)
        log_prob = jax.jit(self.log_prob)
        log_p_X = np.asarray(log_prob(x_XL), np.float64)
        # An impossible sequence contributes nothing.
        possible_X = np.isfinite(log_p_X)
        nats_X = np.where(possible_X, np.exp(log_p_X) * log_p_X, 0.0)
        return -float(nats_X.sum())

    # ------------------------------------------------------------------------------- networks

    def net(self, canvas: Canvas) -> Output:
        """Returns the exact posterior of every position under the canvas's visibility."""
        B, L = canvas.z_BL.shape
        if _is_open(canvas):
            view_BL = canvas.z_BL
            logits_BLV = self.posterior(self._evidence(view_BL))
        else:
            # One posterior for each reader i, of which only position i is used.
            seen_BLL = views(canvas, self.vocab.mask)
            evidence_NLV = self._evidence(seen_BLL.reshape(B * L, L))
            log_NLV = self.posterior(evidence_NLV)
            log_BLLV = log_NLV.reshape(B, L, L, -1)
            i_L = np.arange(L)
            logits_BLV = log_BLLV[:, i_L, i_L]
            view_BL = seen_BLL[:, i_L, i_L]
        # A token that i may see at i itself is certain.
        hidden_BL1 = self._hidden(view_BL)[..., None]
        logits_BLV = jnp.where(hidden_BL1, logits_BLV, self._point(view_BL))
        return self._output(logits_BLV)

    def under(
        self,
        process,
        own: bool = False,
    ) -> Net:
        """Returns a network that knows how `process` destroys tokens.

        With `own`, z_i itself is taken as evidence on x_i too.
        """

        def net(canvas: Canvas) -> Output:
            # The likelihood of the canvas for each possible token at each position.
            shape = (self.size, *canvas.z_BL.shape)
            token_V11 = jnp.arange(self.size)[:, None, None]
            token_VBL = jnp.broadcast_to(token_V11, shape)

            def log_q(x_BL):
                return process.log_q(canvas.z_BL, canvas.t_BL, x_BL)

            log_q_VBL = jax.vmap(log_q)(token_VBL)
            log_q_BLV = jnp.moveaxis(log_q_VBL, 0, -1)
            # Frozen tokens are certain.
            frozen_BL1 = canvas.frozen_BL[..., None]
            certain_BLV = self._evidence(canvas.z_BL)
            evidence_BLV = jnp.where(frozen_BL1, certain_BLV, log_q_BLV)
            logits_BLV = self.posterior(evidence_BLV)
            if own:
                logits_BLV = logits_BLV + evidence_BLV
            return self._output(logits_BLV)

        return net

    def _hidden(self, view_BL: Array) -> Array:
        """Marks the masks."""
        return MaskNoise(vocab=self.vocab).undecided(view_BL)

    def _point(self, view_BL: Array) -> Array:
        """Returns log-probabilities that are certain of each token."""
        # A mask is no token, so its row is impossible everywhere.
        here_BLV = jax.nn.one_hot(view_BL, self.size, dtype=bool)
        return jnp.where(here_BLV, 0.0, -jnp.inf)

    def _evidence(self, view_BL: Array) -> Array:
        """Returns certainty of known tokens, and nothing about masks."""
        hidden_BL1 = self._hidden(view_BL)[..., None]
        return jnp.where(hidden_BL1, 0.0, self._point(view_BL))

    def _output(self, logits_BLV: Array) -> Output:
        """Returns the prediction, uniform where nothing is possible; special ids are excluded."""
        # Where all tokens are impossible the largest logit is −inf.
        best_BL1 = logits_BLV.max(-1, keepdims=True)
        relative_BLV = logits_BLV - best_BL1
        logits_BLV = jnp.where(jnp.isfinite(best_BL1), relative_BLV, 0.0)
        # The special ids behind the tokens.
        special = ((0, 0), (0, 0), (0, _SPECIAL))
        logits_BLV = jnp.pad(logits_BLV, special, constant_values=-jnp.inf)
        return Output(Dense(logits_BLV))


def _is_open(canvas: Canvas) -> bool:
    """Whether every position sees the canvas as it is."""
    layout = Layout().complete(canvas.z_BL.shape[1])
    one_stream = canvas.visibility.streams == 1
    return one_stream and in_one_stream(canvas.visibility, layout, layout) is None


def views(
    canvas: Canvas,
    mask: int,
) -> Array:
    """Returns views_BLL[b, i, j], what position i sees at j when it predicts token i.

    It is `mask` where i sees nothing, and the token of the clean stream where i sees that.
    """
    # The order of positions and the blocks are those of a whole row.
    visibility, L = canvas.visibility, canvas.z_BL.shape[1]
    key = Layout().complete(L)
    if visibility.streams == 1:
        query = key
        # With shifted input, what is read at j is token j − 1.
        if visibility.shift == "input":
            key = replace(key, index_BL=1 + jnp.arange(L)[None])
        allowed_1LL = in_one_stream(visibility, query, key)
        z_B1L = canvas.z_BL[:, None, :]
        if allowed_1LL is None:
            return jnp.broadcast_to(z_B1L, (len(canvas.z_BL), L, L))
        return jnp.where(allowed_1LL, z_B1L, mask)
    # Two streams: noised tokens of some positions, clean ones of others.
    both = two_streams(canvas, mask)
    layout, clean_BL = both.layout.complete(L), both.clean_BL
    sees_noised_BLL = visibility.allowed(layout, layout, "zz")
    sees_clean_BLL = visibility.allowed(layout, layout, "zx")
    assert (
        sees_noised_BLL is not None
        and sees_clean_BLL is not None
        and clean_BL is not None
    )
    clean_BLL = jnp.where(sees_clean_BLL, clean_BL[:, None, :], mask)
    return jnp.where(sees_noised_BLL, both.z_BL[:, None, :], clean_BLL)
