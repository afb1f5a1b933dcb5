"""The bound of every process that mixes a token with masks and uniform noise (GIDD, arXiv:2503.04482, eq. 13; UDLM, 2412.10193).

    −log p(x) ≤ E_t E_{z ~ q(z_t|x)} Σ_i w(z_i, x_i) [ KL(q(· | x_i) ‖ q(· | x̂_i)) + r − log r − 1 ],     r = q(z_i | x_i) / q(z_i | x̂_i)

    w = (β' − α'/α β)_z / q(z | x),   β = m δ_mask + u /n;      x̂_i: the network's law of x_i, with which q(· | x̂) = α x̂ + β

With absorbing noise it is masked diffusion's bound, with uniform noise UDLM's. Its optimum is the leave-one-out posterior
p(x_i | z_j, j ≠ i), not p(x_i | z): a network trained by it is sampled with x̂ in the place of x (`noise.Mixing.reverse`). All is
computed as multiples of α, since w grows as 1/α and the bracket falls with α.

`weights="dynamic"` trains with 2 on masks, 1 on noise and B/n √((1 − α)/α) ≤ 1 on kept tokens in the place of w (section 4.2 of the
paper): no estimate of the bound, which is still what is reported.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from dlm.core.config import member
from dlm.core.contracts import Batch, Visibility
from dlm.nn.visibility.full import Full
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import Diffusion

_TINY = 1e-18  # its square is a float32 still


@dataclass(frozen=True)
class Hybrid(Diffusion):
    process: Any = member("noise", "hybrid")
    times: Kind = "stratified"
    weights: Literal["bound", "dynamic"] = "bound"

    visibility: ClassVar[Visibility] = Full()

    def __post_init__(self):
        if self.weights == "dynamic" and not hasattr(self.process, "ratio"):
            raise ValueError(
                "weights='dynamic' needs process.name='noise.hybrid': no other process has the ratio B"
            )

    @property
    def loss_claims(self) -> str:
        return self.claims if self.weights == "bound" else "heuristic"

    def bound_nats(self, net, batch: Batch, z_BL, t_BL):
        """w·(KL + r − log r − 1) at noisable positions, nats."""
        return self._weighed("bound", net, batch, z_BL, t_BL)

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key):
        return self._weighed(self.weights, net, batch, z_BL, t_BL)

    def _weighed(self, weights: str, net, batch: Batch, z_BL, t_BL):
        """`speed/q` is α w, and the divergences come divided by α."""
        prediction = net(self.canvas(batch, z_BL, t_BL)).prediction
        counted_BL = batch.noisable_BL & (batch.weights_BL > 0)
        x_BL = jnp.where(
            counted_BL, batch.tokens_BL, self.vocab.eos
        )  # padding has no log-probability
        z_BL, (mask_BL, uniform_BL) = (
            jnp.where(counted_BL, z_BL, self.vocab.eos),
            self.process.noise_probs(t_BL),
        )
        alpha_BL = jnp.maximum(self.process.alpha(t_BL), _TINY)
        each_BL, masked_BL, kept_BL = (
            uniform_BL / len(self.process.ids),
            z_BL == self.vocab.mask,
            z_BL == x_BL,
        )
        probs_BLV, log_x_BL = prediction.probs(), prediction.log_prob(x_BL)
        kl_BL = _divergence(probs_BLV, x_BL, jnp.exp(log_x_BL), log_x_BL, alpha_BL, each_BL)
        p_here_BL = jnp.take_along_axis(probs_BLV, z_BL[..., None], -1)[..., 0]
        p_z_BL = jnp.where(masked_BL, 1.0, jnp.maximum(alpha_BL * p_here_BL + each_BL, _TINY))
        excess_BL = jnp.where(masked_BL, 0.0, kept_BL - p_here_BL) / p_z_BL
        small_BL = (
            ~masked_BL & ~kept_BL & (each_BL < 0.5 * p_z_BL)
        )  # r next to 0: from its own logarithm, not from 1 + (r − 1)
        near_BL = jnp.log1p(jnp.maximum(alpha_BL * jnp.where(small_BL, 0.0, excess_BL), -0.75))
        log_r_BL = jnp.where(
            small_BL, jnp.log(jnp.maximum(each_BL, _TINY)) - jnp.log(p_z_BL), near_BL
        )
        ratio_BL = excess_BL - log_r_BL / alpha_BL
        if weights == "bound":
            noise_rates = self.process.noise_rates(t_BL)
            q_BL = jnp.where(masked_BL, mask_BL, each_BL + jnp.where(kept_BL, alpha_BL, 0.0))
            scale_BL = jnp.where(
                masked_BL, noise_rates[0], noise_rates[1] / len(self.process.ids)
            ) / jnp.maximum(q_BL, _TINY)
        else:
            rare_BL = jnp.minimum(
                self.process.ratio / len(self.process.ids) * jnp.sqrt((1 - alpha_BL) / alpha_BL), 1
            )
            scale_BL = alpha_BL * jnp.where(masked_BL, 2.0, jnp.where(kept_BL, rare_BL, 1.0))
        return jnp.where(counted_BL, scale_BL * batch.weights_BL * (kl_BL + ratio_BL), 0.0)


def _divergence(probs_BLV, x_BL, p_x_BL, log_p_x_BL, alpha_BL, each_BL):
    """KL(α δ_x + β ‖ α x̂ + β)/α as Σ_v (p − q + q log q/p)/α, whose terms are all small where the two are near."""
    slope_BL = alpha_BL / jnp.maximum(each_BL, _TINY)

    def beyond(p, slope, each):
        return p - jnp.where(each > 0, jnp.log1p(slope * p) / slope, 0.0)

    others_BL = beyond(probs_BLV, slope_BL[..., None], each_BL[..., None]).sum(-1) - beyond(
        p_x_BL, slope_BL, each_BL
    )
    q_BL, missing_BL = alpha_BL + each_BL, 1 - p_x_BL
    near_BL = alpha_BL * missing_BL < 0.5 * q_BL
    fall_BL = -jnp.log1p(-jnp.where(near_BL, alpha_BL * missing_BL / q_BL, 0.0))
    log_p_BL = jnp.logaddexp(jnp.log(alpha_BL) + log_p_x_BL, jnp.log(each_BL))
    return (
        others_BL
        + jnp.where(near_BL, fall_BL, jnp.log(q_BL) - log_p_BL) * q_BL / alpha_BL
        - missing_BL
    )
