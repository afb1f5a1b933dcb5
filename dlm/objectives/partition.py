"""Partition: every token is predicted from the other of two groups, in one pass without masks.

    −log p(x) ≤ E_t E_M [ 1/(2t) Σ_{i in M} −log p(x_i | x_j, j not in M)
                          + 1/(2(1 − t)) Σ_{i not in M} −log p(x_i | x_j, j in M) ]

(PGM, arXiv:2505.18883.) M holds each position with probability t. Both halves are masked
diffusion's bound, since the complement of M is a mask of rate 1 − t. Two streams (`nn.visibility`)
give both at once: a signal at every position. Sampling requests the group that is still missing.

A mask in the noised sequence `z` says that the position is in M.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import Batch, Canvas, Loss, Models, Output
from dlm.nn.visibility.partition import Partition as Groups
from dlm.noise.mask import MaskNoise
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import SMALLEST, Diffusion, scale


@dataclass(frozen=True)
class Partition(Diffusion):
    """Predicts each of two groups from the other."""

    # How the times of a batch, the shares of M, are drawn.
    times: Kind = "stratified"

    @property
    def visibility(self) -> Groups:
        """Each group attends to the clean tokens of the other."""
        return Groups()

    @property
    def token_passes(self) -> float:
        """Two streams."""
        return 2

    @property
    def process(self) -> MaskNoise:
        """Masks mark the positions in M."""
        return MaskNoise(vocab=self.vocab)

    def loss(self, models: Models, batch: Batch, key: Array) -> Loss:
        """Returns the loss of one partition of each sequence."""
        # 1. One share of M for each sequence, spread evenly over the global batch.
        t_BL, density_BL = self.draw_times(models, batch, key)
        # 2. Draw M. A sample's noise depends on its number and the step alone.
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        z_BL = self.process.corrupt(key_B, batch.tokens_BL, t_BL, batch.noisable_BL)
        # 3. Predict each group from the other, and charge both.
        output = self.read(models, batch, z_BL, t_BL)
        nats_BL = self._nats(output, batch, z_BL, t_BL)
        noised_BL = self.process.undecided(z_BL)
        return self.sums(batch, nats_BL, noised_BL, (t_BL, density_BL), output.routing)

    def read(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Output:
        """Returns the network's output for both groups.

        The network is given each group's share of what is requested, as in sampling.
        """
        # The numbers of the two groups.
        masked_BL = self.process.undecided(z_BL)
        streams = dict(clean_BL=batch.tokens_BL, block_BL=masked_BL.astype(jnp.int32))
        time_BL = jnp.where(masked_BL, t_BL, 1 - t_BL)
        return models.student(
            Canvas.of(batch, z_BL, time_BL, self.visibility, **streams)
        )

    def bound_nats(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns the cost of both groups, nats_BL."""
        return self._nats(self.read(models, batch, z_BL, t_BL), batch, z_BL, t_BL)

    def _nats(
        self,
        output: Output,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        # Each half counts by half, divided by its own rate.
        left_BL = jnp.maximum(1 - t_BL, SMALLEST)
        rate_BL = 0.5 / jnp.where(self.process.undecided(z_BL), t_BL, left_BL)
        scale_BL = rate_BL * scale(batch)
        # Every position is predicted, from the other group.
        nats_BL = -output.prediction.log_prob(batch.tokens_BL)
        return jnp.where(scale_BL != 0, scale_BL * nats_BL, 0.0)
