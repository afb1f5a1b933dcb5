"""Masked diffusion that goes on from an autoregressive model (DiffuLLaMA, arXiv:2410.17891, section 3; Dream, arXiv:2508.15487).

    shift    token i is predicted where token i − 1 is read, as the model has learned to       logits_i ← network(z)_{i−1}
    reach_warmup   at first a position sees what stands before it and itself, as the model is used to; how far it looks ahead grows with the
             share s of the updates that are done, until at s = reach_warmup it sees everything      reach = ⌊L · s / reach_warmup⌋

The bound that is reported is that of `masked` with the attention opened, at any time.
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp

from dlm.core.contracts import Batch, Canvas
from dlm.nn.visibility.full import Full
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Adapted(Masked):
    shift: Literal[0, 1] = 1
    reach_warmup: float = (
        0.0  # share of the updates after which everything is seen; 0: from the first on
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.reach_warmup <= 1:
            raise ValueError(f"reach_warmup={self.reach_warmup} must be in [0, 1]")

    @property
    def visibility(self) -> Full:
        """Everything is seen, in training within a reach that grows."""
        return Full("output" if self.shift else "none")

    @property
    def loss_claims(self) -> str:
        return "heuristic" if self.reach_warmup else super().loss_claims

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key):
        t_BL = self.network_time(batch, z_BL, t_BL)
        visibility = self.visibility_in_training(batch)
        output = net(Canvas.of(batch, z_BL, t_BL, visibility))
        return self.weighted_nats(self.weights, output, batch, z_BL, t_BL)

    def visibility_in_training(self, batch: Batch) -> Full:
        """Limits the reach; without a count of updates everything is seen."""
        if not self.reach_warmup or batch.progress_B1 is None:
            return self.visibility
        reach_B1 = jnp.floor(batch.tokens_BL.shape[1] * batch.progress_B1 / self.reach_warmup)
        return replace(self.visibility, reach_B1=reach_B1.astype(jnp.int32))
