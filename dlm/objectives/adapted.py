"""Masked diffusion that goes on from an autoregressive model (DiffuLLaMA, arXiv:2410.17891, section 3; Dream, arXiv:2508.15487).

    shift    token i is predicted where token i − 1 is read, as the model has learned to       logits_i ← network(z)_{i−1}
    anneal   at first a position sees what stands before it and itself, as the model is used to; how far it looks ahead grows with the
             share s of the updates that are done, until at s = anneal it sees everything      reach = ⌊L · s / anneal⌋

The bound that is reported is that of `masked` with the attention opened, at any time.
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp

from dlm.core.contracts import Batch
from dlm.nn.masks import Mask
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Adapted(Masked):
    shift: Literal[0, 1] = 1
    anneal: float = 0.0  # share of the updates after which everything is seen; 0: from the first on

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.anneal <= 1:
            raise ValueError(f"anneal={self.anneal} must be in [0, 1]")

    @property
    def mask(self) -> Mask:
        return Mask("full", self.shift)

    @property
    def loss_claims(self) -> str:
        return "heuristic" if self.anneal else super().loss_claims

    def training_nats(self, denoise, batch: Batch, z_BL, t_BL, key):
        return super().training_nats(denoise, self.reaching(batch), z_BL, t_BL, key)

    def reaching(self, batch: Batch) -> Batch:
        """The batch with how far its positions may look ahead; without a count of updates they see everything."""
        if not self.anneal or "progress_B1" not in batch.fields:
            return batch
        reach_B1 = jnp.floor(batch.tokens_BL.shape[1] * batch.fields["progress_B1"] / self.anneal)
        return replace(batch, fields=batch.fields | dict(reach_B1=reach_B1.astype(jnp.int32)))
