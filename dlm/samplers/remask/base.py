"""The base of all rules by which tokens become masks again (ReMDM, arXiv:2503.00307).

    a token becomes a mask with probability σ
    a mask is revealed with probability (α_s − (1 − σ) α_t)/(1 − α_t)

With σ ≤ σ_max = min(1, (1 − α_s)/α_t), the same for all positions, the share of masks at every time
is that of the plain process (theorem 3.1); σ = 0 is the plain process. Under rules that count, one
more mask is revealed for each token that is remasked.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import Output, Process, StopsWhen
from dlm.samplers import row_keys
from dlm.samplers.rules.base import StepView


class Remask:
    """The base of all; a subclass is a frozen dataclass with `sigma`."""

    marginals: ClassVar[Literal["kept", "changed"]]
    stops_when: ClassVar[StopsWhen] = "out_of_steps"

    def clock(self, u: Array, process: Process) -> Array:
        """Returns the time of the noise when a share u of the steps is left."""
        del process
        return u

    def sigma(self, output: Output, view: StepView) -> Array:
        """Returns σ_BR, from 0 to 1; `view.log_prob_BR` is from when the token was decided."""
        raise TypeError(f"{type(self).__name__} has no sigma()")


def alphas(view: StepView) -> tuple[Array, Array]:
    """Returns (α_t, α_s), [B, 1] each."""
    schedule = view.process.schedule
    assert schedule is not None, "remasking needs one schedule for all tokens"
    alpha_t_B = 1 - schedule.noised(view.t_B)
    alpha_s_B = 1 - schedule.noised(view.s_B)
    return alpha_t_B[:, None], alpha_s_B[:, None]


def largest(view: StepView) -> Array:
    """Returns σ_max, [B, 1]."""
    alpha_t_B1, alpha_s_B1 = alphas(view)
    return jnp.clip((1 - alpha_s_B1) / jnp.maximum(alpha_t_B1, 1e-6), 0, 1)


def remasked(remask: Remask, key_B: Array, output: Output, view: StepView) -> StepView:
    """Returns the view with σ and the tokens that become masks; none in a block's last step."""
    more_steps_B1 = view.s_B[:, None] > 0
    sigma_BR = remask.sigma(output, view) * more_steps_B1
    remask_key_B = row_keys.named(key_B, "remask")
    length = view.canvas.z_BL.shape[1]
    u_BR = keys.uniform_BL(remask_key_B, length)
    again_BR = view.decided() & (u_BR < sigma_BR)
    return replace(view, sigma_BR=sigma_BR, remasked_BR=again_BR)
