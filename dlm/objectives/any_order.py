"""Any-order autoregression: every token from those before it in a random order, in one pass.

    −log p(x) ≤ E_σ Σ_k −log p(x_σ(k) | x_σ(1), …, x_σ(k−1))           σ: a random order

(arXiv:2110.02037, eq. 2.) For a network that is given the visible tokens and nothing else this is
masked diffusion's bound: each set of known tokens is as likely, and costs as much. Masked
diffusion needs a pass for one set. Here two streams (`nn.visibility`, blocks of one in the order σ)
give a whole order, so each token has a signal. The clean stream is causal in σ, so from left to
right it can be decoded like any autoregressive model.

The order itself is the noised sequence `z`: the rank of each position. Positions that are not
noisable come first, with rank −1.
"""

import itertools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core import keys
from dlm.core.contracts import Batch, Canvas, Loss, Models, Output
from dlm.core.vocab import Vocab
from dlm.nn.visibility.block import Block
from dlm.noise.mask import MaskNoise
from dlm.objectives.base import Diffusion, scale


@dataclass(frozen=True)
class AnyOrder(Diffusion):
    """Predicts every token from those of lower rank."""

    @property
    def visibility(self) -> Block:
        """Each position is a block of its own, decided in any order."""
        return Block(size=1, any_order=True)

    @property
    def token_passes(self) -> float:
        """Two streams."""
        return 2

    @property
    def process(self) -> MaskNoise:
        """Sampling decodes masks."""
        return MaskNoise(vocab=self.vocab)

    def loss(self, models: Models, batch: Batch, key: Array) -> Loss:
        """Returns the loss of one random order of each sequence."""
        # 1. A random order.
        t_BL, density_BL = self.draw_times(models, batch, key)
        rank_BL = self.corrupt(models, batch, key, t_BL)
        # 2. Predict each token from those before it, and charge all of them.
        output = self.read(models, batch, rank_BL, t_BL)
        nats_BL = self._nats(output, batch)
        time = t_BL, density_BL
        return self.sums(batch, nats_BL, batch.noisable_BL, time, output.routing)

    def read(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Output:
        """Returns the network's output; `z_BL` is the order."""
        # Every token is predicted, so no position shows its own.
        mask_BL = self.process.mask_out(batch.tokens_BL, batch.noisable_BL)
        streams = dict(
            clean_BL=batch.tokens_BL, block_BL=jnp.where(batch.noisable_BL, z_BL, -1)
        )
        # The time says nothing of an order.
        time_BL = jnp.ones_like(t_BL)
        return models.student(
            Canvas.of(batch, mask_BL, time_BL, self.visibility, **streams)
        )

    def bound_nats(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns −log p(x_i | x_j of lower rank), nats_BL."""
        return self._nats(self.read(models, batch, z_BL, t_BL), batch)

    def _nats(self, output: Output, batch: Batch) -> Array:
        # No weight depends on the order: every token counts once.
        scale_BL = scale(batch)
        nats_BL = -output.prediction.log_prob(batch.tokens_BL)
        return jnp.where(scale_BL != 0, scale_BL * nats_BL, 0.0)

    # ------------------------------------------------------------------------------ the order

    def corrupt(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        t_BL: Array,
    ) -> Array:
        """Draws the rank of each position."""
        del models
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        # A random permutation: positions in the order of random numbers.
        u_BL = keys.uniform_BL(key_B, t_BL.shape[1])
        ordered_BL = jnp.argsort(jnp.where(batch.noisable_BL, u_BL, 2.0), 1)
        return jnp.where(batch.noisable_BL, jnp.argsort(ordered_BL, 1), -1)

    def log_q(
        self,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
        own: dict | None = None,
    ) -> Array:
        """Returns −log L!, in equal parts: all orders are equally likely."""
        del batch, t_BL, own
        # Each position carries an equal part.
        L = z_BL.shape[1]
        return jnp.full(z_BL.shape, -sum(np.log(np.arange(1, L + 1))) / L)

    def support(self, vocab: Vocab, length: int) -> np.ndarray:
        """Returns every order."""
        del vocab
        return np.array(list(itertools.permutations(range(length))), np.int32)

    def time_cells(self, length: int) -> int:
        """Nothing depends on time."""
        del length
        return 1
