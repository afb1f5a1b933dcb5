"""Any-order autoregression: every token from those before it in a random order, all of them in one pass.

    −log p(x) ≤ E_σ Σ_k −log p(x_σ(k) | x_σ(1), …, x_σ(k−1))           σ: a random order (arXiv:2110.02037, eq. 2)

For a network that is told which tokens it sees and nothing else, this is masked diffusion's bound: each set of known tokens is as likely,
and costs as much. Masked diffusion pays a pass for one set; here two streams (`nn.visibility`, blocks of one in the order σ) give a whole
order, so each token has a signal. The clean stream is causal in σ, so from left to right it can be decoded like any autoregressive model.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts import Batch, Visibility
from dlm.nn.visibility.block import Block
from dlm.noise.mask import MaskNoise
from dlm.objectives.base import Diffusion


@dataclass(frozen=True)
class AnyOrder(Diffusion):
    """What stands for the destroyed sequence `z` is the order: the rank of each position; given positions come first, with rank −1."""

    visibility: ClassVar[Visibility] = Block(size=1, any_order=True)
    token_passes: ClassVar = 2

    @property
    def process(self) -> MaskNoise:
        """What is decoded is a mask."""
        return MaskNoise(vocab=self.vocab)

    def time_cells(self, length):
        return 1

    def support(self, vocab, length):
        """Every order."""
        return np.array(list(itertools.permutations(range(length))), np.int32)

    def corrupt_batch(self, batch: Batch, key: jax.Array, t_BL):
        u_BL = keys.uniform_BL(
            keys.per_sample(keys.key(key, "corrupt"), batch.index_B), t_BL.shape[1]
        )
        rank_BL = jnp.argsort(jnp.argsort(jnp.where(batch.noisable_BL, u_BL, 2.0), 1), 1)
        return jnp.where(batch.noisable_BL, rank_BL, -1)

    def log_q(self, batch: Batch, z_BL, t_BL):
        """All orders are equally likely."""
        L = z_BL.shape[1]
        return jnp.full(z_BL.shape, -sum(np.log(np.arange(1, L + 1))) / L)

    def noised(self, batch: Batch, z_BL):
        return batch.noisable_BL

    def bound_nats(self, net, batch: Batch, z_BL, t_BL):
        """−log p(x_i | x_j of lower rank), nats."""
        hidden_BL = jnp.where(batch.noisable_BL, self.vocab.mask, batch.tokens_BL)
        rank_BL = jnp.where(batch.noisable_BL, z_BL, -1)
        canvas = self.canvas(
            batch, hidden_BL, jnp.ones_like(t_BL), clean_BL=batch.tokens_BL, block_BL=rank_BL
        )
        nats_BL = -net(canvas).prediction.log_prob(batch.tokens_BL)
        return jnp.where(
            batch.noisable_BL & (batch.weights_BL > 0), batch.weights_BL * nats_BL, 0.0
        )
