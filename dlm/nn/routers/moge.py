"""Mixture of Grouped Experts: the K/M best experts of each of M groups.

    G'(h) = (TopK(S_1, K'), …, TopK(S_M, K')),  K' = K/M,  S = softmax(W h) over ALL experts

(Pangu Pro MoE, arXiv:2505.21411, eq. 4.) Every group has the same load by construction:

    group        1           2           3           4          E = 12, M = 4, K' = 1:
    scores    .1 .3 .0    .2 .1 .1    .0 .1 .0    .0 .0 .1      each device with a group computes
    picked       ●         ●             ●              ●       one expert for every token
"""

from dataclasses import dataclass
from typing import ClassVar

from dlm.nn.routers.base import TokenChoice, largest


@dataclass(frozen=True)
class MoGE(TokenChoice):
    groups: int = 8  # M

    even: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.groups < 1:
            raise ValueError(f"groups={self.groups} must be at least 1")

    def check(self, experts: int, active: int) -> None:
        super().check(experts, active)
        if active % self.groups:
            reason = "each group is picked from equally often"
            divide = f"must divide experts.per_token={active}"
            raise ValueError(f"router.groups={self.groups} {divide}: {reason}")

    def pick(self, select_TE, active: int):
        import jax.numpy as jnp

        T, E = select_TE.shape
        X = E // self.groups
        place_TGK = largest(select_TE.reshape(T, self.groups, X), active // self.groups)
        first_G1 = X * jnp.arange(self.groups)[:, None]
        return (place_TGK + first_G1).reshape(T, active)
