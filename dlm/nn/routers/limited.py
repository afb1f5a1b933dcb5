"""Group-limited top-K: the K best experts of the `kept` best groups, so that a token visits few devices (DeepSeek-V3, arXiv:2412.19437).

A group's rank is the sum of its K/kept best scores. The opposite constraint to MoGE's: it bounds where a token goes, not what a device
gets. kept = groups is plain top-K.
"""

from dataclasses import dataclass

from dlm.nn.routers import largest
from dlm.nn.routers.topk import TopK


@dataclass(frozen=True)
class Limited(TopK):
    groups: int = 8
    kept: int = 4

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.kept <= self.groups:
            raise ValueError(f"kept={self.kept} must be between 1 and groups={self.groups}")

    def check(self, experts: int, active: int) -> None:
        super().check(experts, active)
        if active > self.kept * experts // self.groups:
            raise ValueError(
                f"router.kept={self.kept} groups of {experts // self.groups} hold fewer than experts.per_token={active}"
            )

    def pick(self, select_TE, active: int):
        import jax.numpy as jnp

        T, E = select_TE.shape
        select_TGX = select_TE.reshape(T, self.groups, -1)
        best = min(max(active // self.kept, 1), E // self.groups)
        places_TGK = largest(select_TGX, best)
        rank_TG = jnp.take_along_axis(select_TGX, places_TGK, -1).sum(-1)
        kept_TM = largest(rank_TG, self.kept)
        open_TG = (kept_TM[:, :, None] == jnp.arange(self.groups)).any(1)
        return largest(jnp.where(open_TG[..., None], select_TGX, -jnp.inf).reshape(T, E), active)
