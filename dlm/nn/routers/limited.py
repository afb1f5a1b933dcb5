"""Group-limited top-K: the K best experts of the `kept` best groups.

A token visits few devices. A group's rank is the sum of its K/kept best scores. It is the opposite
constraint to MoGE's: it bounds where a token goes, not how many tokens a device gets. kept = groups
is plain top-K. Source: DeepSeek-V3, arXiv:2412.19437.
"""

from dataclasses import dataclass

from dlm.nn.routers.base import largest
from dlm.nn.routers.topk import TopK


@dataclass(frozen=True)
class Limited(TopK):
    """Top-K of few groups, so that a token visits few devices."""

    groups: int = 8
    kept: int = 4

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.kept <= self.groups:
            raise ValueError(
                f"kept={self.kept} must be between 1 and groups={self.groups}"
            )

    def check(self, experts: int, active: int) -> None:
        super().check(experts, active)
        if active > self.kept * experts // self.groups:
            size = experts // self.groups
            fewer = f"hold fewer than experts.per_token={active}"
            raise ValueError(f"router.kept={self.kept} groups of {size} {fewer}")

    def pick(self, select_TE, active: int):
        import jax.numpy as jnp

        T, E = select_TE.shape
        select_TGX = select_TE.reshape(T, self.groups, -1)
        best = min(max(active // self.kept, 1), E // self.groups)
        places_TGK = largest(select_TGX, best)
        rank_TG = jnp.take_along_axis(select_TGX, places_TGK, -1).sum(-1)
        # Experts of all other groups are out of the question.
        best_TM = largest(rank_TG, self.kept)
        is_best_TMG = best_TM[:, :, None] == jnp.arange(self.groups)
        open_TG = is_best_TMG.any(1)
        select_TGX = jnp.where(open_TG[..., None], select_TGX, -jnp.inf)
        return largest(select_TGX.reshape(T, E), active)
