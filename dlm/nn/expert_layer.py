"""The function of a layer of experts: on one device, or the same on each device of a mesh."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dlm.core import axes
from dlm.core.contracts import Routing
from dlm.nn import config
from dlm.nn.config import Kind
from dlm.nn.device_axes import DeviceAxes
from dlm.nn.expert_dispatch import Dispatch

BUCKETS = 4  # of the mask ratio: 0 to ¼, …, ¾ to 1

# The mesh axes over which the balance loss pools its frequencies.
_POOLS: dict[str, tuple[str, ...]] = {
    "all": axes.BATCH,
    "expert": ("expert",),
    "device": (),
}

Results = tuple[jax.Array, Routing, jax.Array]
Params = dict[str, jax.Array]


class _Scored(NamedTuple):
    """The scores of all experts for each token."""

    logits_TE: jax.Array
    scores_TE: jax.Array
    select_TE: jax.Array  # scores that picks are made by
    scale_E: jax.Array  # factor of each expert's weight


@dataclass(frozen=True)
class ExpertLayer:
    """All but the parameters: routing, experts, losses and sums of the router."""

    config: config.Experts
    kind: Kind
    mesh: jax.sharding.Mesh | None  # None: one device

    def __call__(
        self,
        x_BLD: jax.Array,
        valid_BL: jax.Array,
        ratio_BL: jax.Array,
        routing: Params,
        matrices: Params,
    ) -> Results:
        """Returns y_BLD, the sums of the whole batch, and the router's losses times tokens."""
        rows = x_BLD, valid_BL, ratio_BL
        if self.mesh is None:
            return self.on_device(*rows, routing, matrices)
        B, L, D = x_BLD.shape
        shards = axes.shards(self.mesh.shape)
        if B % shards:
            rows = self._divisible(rows, shards)
        # A device has whole experts, or a part of the width of each.
        inward = P("expert", None, "tensor")
        outward = P("expert", "tensor", None)
        matrix_specs = {name: inward for name in matrices}
        matrix_specs["down_EFD"] = outward
        routing_specs = {name: P() for name in routing}
        split = P(axes.BATCH)
        layer = jax.shard_map(
            self.on_device,
            mesh=self.mesh,
            in_specs=(split, split, split, routing_specs, matrix_specs),
            out_specs=(split, P(), P()),
            check_vma=False,
        )
        y, routed, penalty = layer(*rows, routing, matrices)
        # Without the padding, which is last.
        y_TD = y.reshape(-1, D)[: B * L]
        return y_TD.reshape(B, L, D), routed, penalty

    def _divisible(self, rows: tuple[jax.Array, ...], shards: int):
        """Pads a few rows for many devices.

        They are divided by tokens, unless tokens compete within their row.
        """
        padded = []
        for x in rows:
            if self.config.router.competing != "row":
                shape = -1, 1, *x.shape[2:]
                x = x.reshape(shape)
            missing = -len(x) % shards
            widths = [(0, 0)] * x.ndim
            widths[0] = 0, missing
            padded.append(jnp.pad(x, widths))
        return tuple(padded)

    def on_device(
        self,
        x_BLD: jax.Array,
        valid_BL: jax.Array,
        ratio_BL: jax.Array,
        routing: Params,
        matrices: Params,
    ) -> Results:
        """Computes the tokens of this device; returns as `__call__`.

        Args:
            x_BLD: inputs.
            valid_BL: where a token is, and no padding.
            ratio_BL: the share of each token's row that is masked.
            routing: parameters of the router.
            matrices: of this device's experts.
        """
        router = self.config.router
        x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
        valid_T = valid_BL.reshape(-1)
        scored = self._scored(x_TD, routing)
        dispatch = Dispatch(self.config, self.kind, self._axes, matrices)
        if router.competing == "row":
            weight_TE = scored.scores_TE * scored.scale_E
            ratio_B = ratio_BL[:, 0]
            chosen = dispatch.chosen(
                x_BLD, valid_BL, ratio_B, weight_TE, scored.select_TE
            )
            y_TD, picked_TE = chosen
            # A token that no expert chose lacks all of them.
            none_T = picked_TE.sum(1) == 0
            missing_T = self.config.per_token * none_T
        else:
            y_TD, picked_TE, missing_T = self._picked(x_TD, valid_T, scored, dispatch)
        ratio_T = ratio_BL.reshape(-1)
        scores_TE = scored.scores_TE
        routed = self._routing_sums(scores_TE, picked_TE, missing_T, valid_T, ratio_T)
        penalty = self.penalty(scored.logits_TE, scores_TE, picked_TE, valid_T)
        return y_TD.reshape(x_BLD.shape), routed, penalty

    def _scored(self, x_TD: jax.Array, routing: Params) -> _Scored:
        """Scores experts, in float32 at any precision of activations."""
        router = self.config.router
        x_TD = x_TD.astype(jnp.float32)
        logits_TGX = jnp.einsum("TD,DGX->TGX", x_TD, routing["router_DGX"])
        logits_TE = logits_TGX.reshape(len(x_TD), -1)
        scores_TE = router.scores(logits_TE)
        # The bias only selects, and has no gradient.
        bias_E = routing["bias_GX"].reshape(-1) if router.bias else 0.0
        select_TE = jax.lax.stop_gradient(scores_TE) + bias_E
        scale_E = jnp.ones(self.config.count)
        if router.scale == "learned":
            scale_E = routing["scale_GX"].reshape(-1)
        return _Scored(logits_TE, scores_TE, select_TE, scale_E)

    def _picked(
        self,
        x_TD: jax.Array,
        valid_T: jax.Array,
        scored: _Scored,
        dispatch: Dispatch,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns y_TD, the picks of each token, float32_TE, and how many were dropped."""
        router, scores_TE = self.config.router, scored.scores_TE
        expert_TK = router.pick(scored.select_TE, self.config.per_token)
        weight_TK = router.weigh(scores_TE, expert_TK)
        weight_TK = weight_TK * scored.scale_E[expert_TK]
        # A capacity needs buffers of fixed size.
        send = dispatch.buffered if router.capacity else dispatch.gathered
        y_TD, computed_TK = send(x_TD, expert_TK, weight_TK, valid_T)
        token_T1 = jnp.arange(len(x_TD))[:, None]
        valid_T1 = valid_T[:, None]
        none_TE = jnp.zeros(scores_TE.shape)
        picked_TE = none_TE.at[token_T1, expert_TK].set(valid_T1 * 1.0)
        missing_TK = valid_T1 & ~computed_TK
        return y_TD, picked_TE, missing_TK.sum(1)

    @property
    def _axes(self) -> DeviceAxes:
        return DeviceAxes(self.mesh)

    def penalty(self, logits_TE, scores_TE, picked_TE, valid_T) -> jax.Array:
        """Returns the router's losses, each times the tokens that it is taken over."""
        c, router = self.config, self.config.router
        n = valid_T.sum()
        valid_T1 = valid_T[:, None]
        total = jnp.float32(0)
        if router.balance.weight:
            pool = _POOLS[router.balance.pool]
            tokens = self._axes.sum(n, pool)
            tokens = jnp.maximum(tokens, 1)
            picks_E = self._axes.sum(picked_TE.sum(0), pool)
            f_E = picks_E / tokens * (c.count / c.per_token)
            shares_TE = router.shares(scores_TE)
            shares_TE = jnp.where(valid_T1, shares_TE, 0)
            sum_E = self._axes.sum(shares_TE.sum(0), pool)
            p_E = sum_E / tokens
            # Only p has a gradient, picks are counts.
            product_E = jax.lax.stop_gradient(f_E) * p_E
            total += router.balance.weight * product_E.sum() * n
        if router.z:
            z_T = jax.nn.logsumexp(logits_TE, -1) ** 2
            z_T = jnp.where(valid_T, z_T, 0)
            total += router.z * z_T.sum()
        return self._axes.sum(total, axes.BATCH)

    def _routing_sums(
        self, scores_TE, picked_TE, missing_T, valid_T, ratio_T
    ) -> Routing:
        """Returns sums over the whole batch, in buckets Z of the mask ratio.

        A load counts picks, dropped or not.
        """
        bucket_T = (ratio_T * BUCKETS).astype(jnp.int32)
        bucket_T = jnp.clip(bucket_T, 0, BUCKETS - 1)
        inside_TZ = bucket_T[:, None] == jnp.arange(BUCKETS)
        inside_TZ = inside_TZ & valid_T[:, None]
        share_TE = self.config.router.shares(scores_TE, 1)
        # A share may be 0, whose logarithm is not finite.
        log_TE = jnp.log(jnp.maximum(share_TE, 1e-20))
        entropy_T = -jnp.sum(share_TE * log_TE, -1)
        in_TZ = inside_TZ.astype(jnp.float32)
        pairs_ZEE = jnp.einsum("TZ,TE,TF->ZEF", in_TZ, picked_TE, picked_TE)
        sums = dict(
            load_ZE=in_TZ.T @ picked_TE,
            entropy_Z=in_TZ.T @ entropy_T,
            dropped_Z=in_TZ.T @ missing_T.astype(jnp.float32),
            tokens_Z=in_TZ.sum(0),
            together_ZEE=pairs_ZEE,
        )
        total = {}
        for name, x in sums.items():
            total[name] = self._axes.sum(x, axes.BATCH)
        return jax.lax.stop_gradient(total)
