"""The bound of every process that mixes a token with masks and uniform noise.

    −log p(x) ≤ E_t E_{z ~ q(z_t|x)} Σ_i w(z_i, x_i) [ KL + r − log r − 1 ]

    KL = KL(q(· | x_i) ‖ q(· | x̂_i))
    r = q(z_i | x_i) / q(z_i | x̂_i),   w = (β' − α'/α β)_z / q(z | x),   β = m δ_mask + u /n

x̂_i is the network's law of x_i, with which q(· | x̂) = α x̂ + β (GIDD, arXiv:2503.04482, eq. 13;
UDLM, arXiv:2412.10193). The process computes it (`noise.base`). With absorbing noise it is masked
diffusion's bound, with uniform noise UDLM's. Its optimum is the leave-one-out posterior
p(x_i | z_j, j ≠ i), not p(x_i | z): sampling uses x̂ instead of x (`MixtureProcess.reverse`).

`weights="dynamic"` trains with 2 on masks, 1 on noise and B/n √((1 − α)/α) ≤ 1 on kept tokens
instead of w (section 4.2 of the paper). That is no estimate of the bound, which is still what is
reported.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.config import member
from dlm.core.contracts import (
    Batch,
    Canvas,
    Claim,
    Loss,
    Models,
    Prediction,
)
from dlm.noise.hybrid import HybridNoise
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import Diffusion, scale


@dataclass(frozen=True)
class Hybrid(Diffusion):
    """Predicts the clean token at every position, whether it was destroyed or not."""

    # How tokens are destroyed: any mixture of masks and uniform noise.
    process: Any = member("noise", "hybrid")
    # How the times of a batch are drawn.
    times: Kind = "stratified"
    # Those of training.
    weights: Literal["bound", "dynamic"] = "bound"

    def __post_init__(self):
        if self.weights == "dynamic" and not isinstance(self.process, HybridNoise):
            reason = "no other process has the ratio B"
            raise ValueError(
                f"weights='dynamic' needs process.name='noise.hybrid': {reason}"
            )

    @property
    def loss_claims(self) -> Claim:
        """Only the bound's own weights estimate the bound."""
        return self.claims if self.weights == "bound" else "heuristic"

    def loss(self, models: Models, batch: Batch, key: Array) -> Loss:
        """Returns the loss of one noised view of each sequence."""
        # 1. One time for each sequence, spread evenly over the global batch.
        t_BL, density_BL = self.draw_times(models, batch, key)
        # 2. Destroy tokens. A sample's noise depends on its number and the step alone.
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        z_BL = self.process.corrupt(key_B, batch.tokens_BL, t_BL, batch.noisable_BL)
        # 3. Predict the clean tokens.
        output = models.student(Canvas.of(batch, z_BL, t_BL, self.visibility))
        # 4. Charge all positions; padding and prompts have weight 0.
        charge = self._dynamic if self.weights == "dynamic" else self.process.charge
        nats_BL = charge(output.prediction, batch.tokens_BL, z_BL, t_BL, scale(batch))
        noised_BL = z_BL != batch.tokens_BL
        return self.sums(batch, nats_BL, noised_BL, (t_BL, density_BL), output.routing)

    def _dynamic(
        self,
        prediction: Prediction,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
        scale_BL: Array,
    ) -> Array:
        """Returns the cost with other weights than the bound's."""
        counted_BL = scale_BL != 0
        # The same divergence, of which only the weights differ.
        cost_BL = self.process.divergence(prediction, x_BL, z_BL, t_BL, counted_BL)
        weight_BL = self.process.dynamic_weight(x_BL, z_BL, t_BL)
        return jnp.where(counted_BL, weight_BL * scale_BL * cost_BL, 0.0)
