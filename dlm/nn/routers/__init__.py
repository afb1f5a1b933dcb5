"""Routers: which experts a token passes, and with which weight. One rule per file.

JAX is imported inside the methods, so that a config with routers can be read without it.

    S = softmax(x W) over all E experts (or sigmoid, each expert on its own);   pick K of E by S + bias;   weight = S, or S / Σ picked S

Losses act on the gradient alone (`nn.experts`), so what an objective reports stays what it claims:

    balance   α Σ_i f_i p_i,  f_i = E/(K·T) #{tokens that pick i},  p_i the mean of S_i: α at perfect balance (arXiv:2101.03961, 2505.21411)
    z         ζ mean (log Σ_i exp logit_i)²                                                               (ST-MoE, arXiv:2202.08906)
    bias      no loss: after each update b_i += rate · sign(mean load − load_i), for the selection alone  (arXiv:2408.15664)
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Balance:
    """The balance loss: its α, the tokens that f and p are taken over, the experts that compete."""

    weight: float = 0.0
    pool: Literal["all", "expert", "device"] = (
        "all"  # tokens of the whole batch, of an expert-parallel group, of each device
    )
    within: Literal["all", "group"] = (
        "all"  # with 'group', the mean over the groups of each group's own loss
    )

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"balance.weight={self.weight} must not be negative")


@dataclass(frozen=True)
class Router:
    """What all rules share."""

    score: Literal["softmax", "sigmoid"] = "softmax"
    scale: Literal["none", "learned"] = (
        "learned"  # a factor for each expert, as in Pangu Pro's released code (its start: `nn.experts`)
    )
    z: float = 0.0

    competing: ClassVar = "never"  # 'batch': a token's experts depend on earlier tokens of its batch; 'row': on all tokens of its row
    capacity: ClassVar = (
        0.0  # of an expert, in multiples of an even load; 0: it takes whatever comes
    )
    groups: ClassVar = 1
    even: ClassVar = False  # whether every group is picked from equally often
    weights: ClassVar = "plain"
    balance: ClassVar = Balance()
    bias: ClassVar = 0.0

    def __post_init__(self):
        if self.z < 0:
            raise ValueError(f"z={self.z} must not be negative")

    def check(self, experts: int, active: int) -> None:
        """Raises ValueError where so many experts cannot be routed to like this."""
        if experts % self.groups:
            raise ValueError(f"router.groups={self.groups} must divide experts.count={experts}")
        if not 0 < active <= experts:
            raise ValueError(
                f"experts.per_token={active} must be between 1 and experts.count={experts}"
            )

    def scores(self, logits_TE):
        """S, float32."""
        import jax
        import jax.numpy as jnp

        logits_TE = logits_TE.astype(jnp.float32)
        return (
            jax.nn.softmax(logits_TE, -1) if self.score == "softmax" else jax.nn.sigmoid(logits_TE)
        )

    def shares(self, scores_TE, groups: int = 0):
        """S as a distribution over what competes in the loss: all experts, or those of each group."""
        groups = groups or (self.groups if self.balance.within == "group" else 1)
        s_TGX = scores_TE.reshape(len(scores_TE), groups, -1)
        return (s_TGX / s_TGX.sum(-1, keepdims=True) / groups).reshape(scores_TE.shape)


@dataclass(frozen=True)
class TokenChoice(Router):
    """Each token picks its experts: a member says which."""

    weights: Literal["plain", "renormalised"] = "plain"
    balance: Balance = field(default_factory=Balance)
    bias: float = 0.0  # rate of the balancing bias; 0: there is none

    def __post_init__(self):
        super().__post_init__()
        if self.bias < 0:
            raise ValueError(f"bias={self.bias} must not be negative")

    @abstractmethod
    def pick(self, select_TE, active: int):
        """The ids of the experts that each token passes, [T, K], best first within what competes."""

    def weigh(self, scores_TE, expert_TK):
        """The weight of each pick."""
        import jax.numpy as jnp

        weight_TK = jnp.take_along_axis(scores_TE, expert_TK, 1)
        return (
            weight_TK / weight_TK.sum(1, keepdims=True)
            if self.weights == "renormalised"
            else weight_TK
        )


def largest(x, k: int):
    """The places of the k largest along the last axis, largest first, the earlier of equals first; without a sort where k is small."""
    import jax
    import jax.numpy as jnp

    if k > 2:
        return jax.lax.top_k(x, k)[1]
    first = jnp.argmax(x, -1, keepdims=True)
    if k == 1:
        return first
    rest = jnp.where(jnp.arange(x.shape[-1]) == first, -jnp.inf, x)
    return jnp.concatenate([first, jnp.argmax(rest, -1, keepdims=True)], -1)
