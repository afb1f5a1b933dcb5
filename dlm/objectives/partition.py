"""Partition: every token is predicted from the other of two groups, in one pass and without mask tokens (PGM, arXiv:2505.18883).

    −log p(x) ≤ E_t E_M [ 1/(2t) Σ_{i in M} −log p(x_i | x_j, j not in M) + 1/(2(1 − t)) Σ_{i not in M} −log p(x_i | x_j, j in M) ]

M holds each position with probability t. Both halves are masked diffusion's bound, since the complement of M is a mask of rate 1 − t, and
two streams (`nn.visibility`) give both at once: a signal at every position. Sampling asks for the group that is not there yet.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import Batch, Visibility
from dlm.nn.visibility.partition import Partition as Groups
from dlm.noise.mask import MaskNoise
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import Diffusion


@dataclass(frozen=True)
class Partition(Diffusion):
    times: Kind = "stratified"

    visibility: ClassVar[Visibility] = Groups()
    token_passes: ClassVar = 2

    @property
    def process(self) -> MaskNoise:
        """Who is in M."""
        return MaskNoise(vocab=self.vocab)

    def bound_nats(self, net, batch: Batch, z_BL, t_BL):
        """The cost of both groups, nats; a mask in `z` says that the position is in M."""
        group_BL = (z_BL == self.vocab.mask).astype(jnp.int32)
        network_time_BL = jnp.where(
            group_BL == 1, t_BL, 1 - t_BL
        )  # each group's share of what is asked for, as in sampling
        canvas = self.canvas(
            batch, z_BL, network_time_BL, clean_BL=batch.tokens_BL, block_BL=group_BL
        )
        nats_BL = -net(canvas).prediction.log_prob(batch.tokens_BL)
        rate_BL = 0.5 / jnp.where(group_BL == 1, t_BL, jnp.maximum(1 - t_BL, 1e-6))
        counted_BL = batch.noisable_BL & (batch.weights_BL > 0)
        return jnp.where(counted_BL, rate_BL * batch.weights_BL * nats_BL, 0.0)
