"""The layer of experts: y = Σ_i G_i(x) E_i(x) + shared(x), over any mesh (arXiv:2505.21411, eq. 3; ours are the shapes and the sums).

Every token of an expert-parallel group passes K' experts of every group of MoGE, so each device needs every token exactly once:

    x [t, D] ─ route ─ all_gather ─ [EP·t, D] ─ rows by expert ─ grouped FFN ─ weigh and sum ─ psum_scatter ─ y [t, D]

No capacity, nothing dropped, no all-to-all, rows per device exactly EP·t·K/EP whatever the router prefers. Top-K without a capacity goes
the same way, with as many rows as its router sends; with one, and expert choice, go through buffers of fixed size and two all-to-alls:

    x [t, D] ─ route ─ buffers [E, C, D] ─ all_to_all ─ [E/EP, EP·C, D] ─ batched FFN ─ all_to_all ─ weigh and sum ─ y [t, D]

Within an expert its width is split over `tensor`. Router losses reach the gradient through `charged` and stand in no reported number.
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dlm.core import axes
from dlm.nn import config, expert_matmul, ffn

BUCKETS = 4  # of the mask ratio: 0 to ¼, …, ¾ to 1


class Experts(nn.Module):
    config: config.Experts
    kind: str  # of the feed-forward layers
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, x_BLD, valid_BL, ratio_B, share: float = 1.0):
        """(y_BLD, what was routed where: sums over the batch). Positions that are not `valid` pass no expert; `ratio_B` is the share of
        each row that is masked; `share` scales the router's losses where a canvas is read more than once."""
        c, (B, L, _) = self.config, x_BLD.shape
        if (
            self.mesh is not None
        ):  # experts that are not dealt out evenly would answer for each other's tokens
            c.fit(self.mesh.shape["expert"], self.mesh.shape["tensor"])
        layer = _Layer(
            c, self.kind, self.mesh if self.mesh is not None and self.mesh.size > 1 else None
        )
        ratio_BL = jnp.broadcast_to(ratio_B[:, None], (B, L)).astype(jnp.float32)
        y_BLD, routed, penalty = layer(
            x_BLD, valid_BL, ratio_BL, self._routing(), self._matrices(x_BLD.dtype)
        )
        y_BLD = add_aux_gradient(y_BLD, share * penalty)
        if c.shared:
            wide = config.FFN(self.kind, c.shared * c.width)
            y_BLD += ffn.FeedForward(wide, self.width, self.layers, name="shared")(x_BLD)
        return y_BLD, routed

    def _routing(self) -> dict:
        c, G = self.config, self.config.router.groups
        X = c.count // G
        given = dict(
            router_DGX=self.param(
                "router_DGX", nn.initializers.normal(self.width**-0.5), (self.width, G, X)
            )
        )
        if c.router.scale == "learned":
            given["scale_GX"] = self.param("scale_GX", nn.initializers.constant(_start(c)), (G, X))
        if c.router.bias:
            given["bias_GX"] = self.param("bias_GX", nn.initializers.zeros, (G, X))
        return given

    def _matrices(self, dtype) -> dict:
        E, D, F = self.config.count, self.width, self.config.width
        inward, outward = (
            nn.initializers.normal(D**-0.5),
            nn.initializers.normal((2 * self.layers * F) ** -0.5),
        )
        names = ("up_EDF", "gate_EDF") if self.kind == "swiglu" else ("up_EDF",)
        weights_EDF = {name: self.param(name, inward, (E, D, F)) for name in names} | {
            "down_EFD": self.param("down_EFD", outward, (E, F, D))
        }
        return {name: w.astype(dtype) for name, w in weights_EDF.items()}


def _start(c: config.Experts) -> float:
    """The factor that makes the weights of an undecided router sum to 1."""
    if c.router.weights == "renormalised":
        return 1.0
    return c.count / c.per_token if c.router.score == "softmax" else 2 / c.per_token


@jax.custom_vjp
def add_aux_gradient(y, penalty):
    """y, as it is; the gradient of whatever it is used for is as if `penalty` had been added to that."""
    return y


add_aux_gradient.defvjp(
    lambda y, penalty: (y, penalty), lambda penalty, dy: (dy, jnp.ones_like(penalty))
)


@dataclass(frozen=True)
class _Layer:
    """The function that the module computes: on one device, or the same on each device of a mesh."""

    config: config.Experts
    kind: str
    mesh: jax.sharding.Mesh | None

    def __call__(self, x_BLD, valid_BL, ratio_BL, routing: dict, matrices: dict):
        given = routing, matrices
        if self.mesh is None:
            return self.on_device(x_BLD, valid_BL, ratio_BL, *given)
        B, L, D = x_BLD.shape
        shards = axes.shards(self.mesh.shape)
        rows = (x_BLD, valid_BL, ratio_BL)
        if (
            B % shards
        ):  # a few rows on many devices: by tokens, unless they compete within their row
            flat = (
                rows
                if self.config.router.competing == "row"
                else tuple(a.reshape(1, B * L, *a.shape[2:]).swapaxes(0, 1) for a in rows)
            )
            rows = tuple(
                jnp.pad(a, [(0, -len(a) % shards), *[(0, 0)] * (a.ndim - 1)]) for a in flat
            )
        specs = {
            k: P("expert", "tensor", None) if k == "down_EFD" else P("expert", None, "tensor")
            for k in matrices
        }
        specs = (*[P(axes.BATCH)] * 3, jax.tree.map(lambda _: P(), routing), specs)
        layer = jax.shard_map(
            self.on_device,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=(P(axes.BATCH), P(), P()),
            check_vma=False,
        )
        y, routed, penalty = layer(*rows, *given)
        return y.reshape(-1, D)[: B * L].reshape(B, L, D), routed, penalty

    # ------------------------------------------------------------------------------------------------------- on a device

    def on_device(self, x_BLD, valid_BL, ratio_BL, routing: dict, matrices: dict):
        """This device's tokens through all experts: (y_BLD, sums over the whole batch, the router's losses times tokens)."""
        router, D = self.config.router, x_BLD.shape[-1]
        x_TD, valid_T = x_BLD.reshape(-1, D), valid_BL.reshape(-1)
        logits_TE = jnp.einsum(
            "TD,DGX->TGX", x_TD.astype(jnp.float32), routing["router_DGX"]
        ).reshape(len(x_TD), -1)
        scores_TE = router.scores(logits_TE)
        select_TE = jax.lax.stop_gradient(scores_TE) + (
            routing["bias_GX"].reshape(-1) if router.bias else 0.0
        )
        scale_E = (
            routing["scale_GX"].reshape(-1)
            if router.scale == "learned"
            else jnp.ones(self.config.count)
        )
        if router.competing == "row":
            y_TD, picked_TE = self._chosen(
                x_BLD, valid_BL, ratio_BL, scores_TE * scale_E, select_TE, matrices
            )
            missing_T = self.config.per_token * (picked_TE.sum(1) == 0)
        else:
            expert_TK = router.pick(select_TE, self.config.per_token)
            weight_TK = router.weigh(scores_TE, expert_TK) * scale_E[expert_TK]
            dispatch = self._buffered if router.capacity else self._gathered
            y_TD, kept_TK = dispatch(x_TD, expert_TK, weight_TK, valid_T, matrices)
            picked_TE = (
                jnp.zeros(scores_TE.shape)
                .at[jnp.arange(len(x_TD))[:, None], expert_TK]
                .set(valid_T[:, None] * 1.0)
            )
            missing_T = (valid_T[:, None] & ~kept_TK).sum(1)
        routed = self._routing_sums(scores_TE, picked_TE, missing_T, valid_T, ratio_BL.reshape(-1))
        return (
            y_TD.reshape(x_BLD.shape),
            routed,
            self._penalty(logits_TE, scores_TE, picked_TE, valid_T),
        )

    def _gathered(self, x_TD, expert_TK, weight_TK, valid_T, matrices):
        """Nothing is dropped: every device sees all tokens of its expert-parallel group, and answers for its own experts."""
        c, ep, own = self.config, self._size("expert"), 0
        kept_TK, E = jnp.broadcast_to(valid_T[:, None], expert_TK.shape), c.count // ep
        expert_TS, weight_TS = jnp.where(kept_TK, expert_TK, c.count), weight_TK
        if ep > 1:
            here = jax.lax.axis_index("expert")
            x_TD, expert_TS, weight_TS = (self._gather(a) for a in (x_TD, expert_TS, weight_TS))
            own = E * here
            if c.router.even:  # the picks of its own groups stand together
                S = c.per_token // ep
                expert_TS, weight_TS = (
                    jax.lax.dynamic_slice_in_dim(a, S * here, S, 1) for a in (expert_TS, weight_TS)
                )
        local_TS = jnp.where((expert_TS >= own) & (expert_TS < own + E), expert_TS - own, E)
        how = dict(
            kind=self.kind, backend=c.backend, block=c.block, load=len(x_TD) * c.per_token / c.count
        )
        y_TD = _sorted(x_TD, local_TS, weight_TS, matrices, **how)
        if ep > 1:
            y_TD = jax.lax.psum_scatter(y_TD, "expert", scatter_dimension=0, tiled=True)
        return self._whole(y_TD), kept_TK

    def _buffered(self, x_TD, expert_TK, weight_TK, valid_T, matrices):
        """Each expert takes the first C tokens of each device; what comes after them is dropped."""
        (T, K), E = expert_TK.shape, self.config.count
        C = min(T, math.ceil(self.config.router.capacity * K * T / E))
        order_R, place_R, sizes_E = _by_expert(jnp.where(valid_T[:, None], expert_TK, E), E)
        start_E = jnp.cumsum(sizes_E) - sizes_E
        expert_R = expert_TK.reshape(-1)
        rank_R = place_R - start_E[expert_R]
        kept_R = (rank_R < C) & jnp.repeat(valid_T, K)
        place_TK = jnp.where(kept_R, expert_R * C + rank_R, E * C).reshape(T, K)
        there_EC = jnp.arange(C) < sizes_E[:, None]
        row_EC = jnp.where(there_EC, start_E[:, None] + jnp.arange(C), 0)
        pair_P = jnp.where(there_EC, order_R[row_EC], T * K).reshape(-1)
        x_ECD = _spread(x_TD, pair_P, place_TK).reshape(E, C, -1)
        y_PD = self._exchanged(x_ECD, matrices).reshape(E * C, -1)
        return self._whole(
            _collect(y_PD, weight_TK * kept_R.reshape(T, K), pair_P, place_TK)
        ), kept_R.reshape(T, K)

    def _chosen(self, x_BLD, valid_BL, ratio_BL, weight_TE, select_TE, matrices):
        """Each expert takes its best tokens of each row."""
        (B, L, D), E = x_BLD.shape, self.config.count
        places_BEC, taken_BEC = self.config.router.choose(
            select_TE.reshape(B, L, E), valid_BL, ratio_BL[:, 0], self.config.per_token
        )
        C = places_BEC.shape[-1]
        token_EN = (places_BEC + L * jnp.arange(B)[:, None, None]).swapaxes(0, 1).reshape(E, B * C)
        taken_EN = taken_BEC.swapaxes(0, 1).reshape(E, B * C)
        x_TD = x_BLD.reshape(-1, D)
        y_END = self._exchanged(jnp.where(taken_EN[..., None], x_TD[token_EN], 0), matrices)
        weight_EN = jnp.where(taken_EN, weight_TE[token_EN, jnp.arange(E)[:, None]], 0.0)
        y_TD = jnp.zeros((B * L, D), jnp.float32).at[token_EN].add(weight_EN[..., None] * y_END)
        chosen_TE = jnp.zeros((B * L, E)).at[token_EN, jnp.arange(E)[:, None]].add(taken_EN * 1.0)
        return self._whole(y_TD.astype(x_BLD.dtype)), chosen_TE

    def _exchanged(self, x_ECD, matrices):
        """Buffers to the devices of their experts, through these, and back."""
        ep = self._size("expert")
        if ep > 1:
            x_ECD = jax.lax.all_to_all(x_ECD, "expert", 0, 1, tiled=True)
        h_ECF = {
            n: jnp.einsum("ECD,EDF->ECF", x_ECD, matrices[n])
            for n in ("up_EDF", "gate_EDF")
            if n in matrices
        }
        y_ECD = jnp.einsum(
            "ECF,EFD->ECD",
            ffn.act(self.kind, h_ECF["up_EDF"], h_ECF.get("gate_EDF")),
            matrices["down_EFD"],
        )
        return y_ECD if ep == 1 else jax.lax.all_to_all(y_ECD, "expert", 1, 0, tiled=True)

    # ------------------------------------------------------------------------------------------------ losses and figures

    def _penalty(self, logits_TE, scores_TE, picked_TE, valid_T):
        """The router's losses, each of them times the tokens it is taken over."""
        router, n, total = self.config.router, valid_T.sum(), jnp.float32(0)
        if router.balance.weight:
            pool = {"all": axes.BATCH, "expert": ("expert",), "device": ()}[router.balance.pool]
            tokens = jnp.maximum(self._sum(n, pool), 1)
            f_E = (
                self._sum(picked_TE.sum(0), pool)
                / tokens
                * (self.config.count / self.config.per_token)
            )
            p_E = (
                self._sum(jnp.where(valid_T[:, None], router.shares(scores_TE), 0).sum(0), pool)
                / tokens
            )
            total += router.balance.weight * (jax.lax.stop_gradient(f_E) * p_E).sum() * n
        if router.z:
            total += router.z * jnp.where(valid_T, jax.nn.logsumexp(logits_TE, -1) ** 2, 0).sum()
        return self._sum(total, axes.BATCH)

    def _routing_sums(self, scores_TE, picked_TE, missing_T, valid_T, ratio_T) -> dict:
        """Sums over the whole batch, in buckets Z of the mask ratio; a load is what was asked for, dropped or not."""
        bucket_T = jnp.clip((ratio_T * BUCKETS).astype(jnp.int32), 0, BUCKETS - 1)
        in_TZ = (bucket_T[:, None] == jnp.arange(BUCKETS)) & valid_T[:, None]
        share_TE = self.config.router.shares(scores_TE, 1)
        entropy_T = -jnp.sum(share_TE * jnp.log(jnp.maximum(share_TE, 1e-20)), -1)
        in_TZ = in_TZ.astype(jnp.float32)
        sums = dict(
            load_ZE=in_TZ.T @ picked_TE,
            entropy_Z=in_TZ.T @ entropy_T,
            dropped_Z=in_TZ.T @ missing_T.astype(jnp.float32),
            tokens_Z=in_TZ.sum(0),
            together_ZEE=jnp.einsum("TZ,TE,TF->ZEF", in_TZ, picked_TE, picked_TE),
        )
        return jax.tree.map(lambda a: jax.lax.stop_gradient(self._sum(a, axes.BATCH)), sums)

    # -------------------------------------------------------------------------------------------------------- the mesh

    def _size(self, axis: str) -> int:
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def _sum(self, a, over):
        return a if self.mesh is None or not over else jax.lax.psum(a, over)

    def _gather(self, a):
        return jax.lax.all_gather(a, "expert", tiled=True)

    def _whole(self, y_TD):
        """The sum over the parts of the experts' width."""
        return y_TD if self._size("tensor") == 1 else jax.lax.psum(y_TD, "tensor")


# ------------------------------------------------------------------------------------------------------------- rows by expert


def _by_expert(expert_TS, experts: int):
    """(pairs in the order of their experts, the place of each pair in that order, rows of each expert). Expert E is nobody, and last."""
    order_R = jnp.argsort(expert_TS.reshape(-1), stable=True)
    place_R = (
        jnp.zeros_like(order_R)
        .at[order_R]
        .set(jnp.arange(len(order_R), dtype=order_R.dtype), unique_indices=True)
    )
    return order_R, place_R, jnp.bincount(expert_TS.reshape(-1), length=experts + 1)[:experts]


def _sorted(x_TD, local_TS, weight_TS, matrices: dict, **how):
    """Each token through the experts of its slots (E: none), weighed and summed."""
    E, (T, S) = len(matrices["up_EDF"]), local_TS.shape
    order_R, place_R, sizes_E = _by_expert(local_TS, E)
    rows = T * min(S, E)  # no token passes an expert twice
    pair_P, place_TS = order_R[:rows], jnp.minimum(place_R, rows).reshape(T, S)
    y_PD = expert_matmul.apply(_spread(x_TD, pair_P, place_TS), sizes_E, matrices, **how)
    return _collect(y_PD, jnp.where(local_TS < E, weight_TS, 0.0), pair_P, place_TS)


def _at(x_PD, place):
    """Rows of x; 0 where there is none."""
    return jnp.where((place < len(x_PD))[..., None], x_PD[jnp.minimum(place, len(x_PD) - 1)], 0)


@jax.custom_vjp
def _spread(x_TD, pair_P, place_TS):
    """Row p is the token of pair p = t·S + s, or 0 where there is no such pair. Its gradient gathers too, and never scatters."""
    return _at(x_TD, pair_P // place_TS.shape[1])


_spread.defvjp(
    lambda x_TD, pair_P, place_TS: (_spread(x_TD, pair_P, place_TS), place_TS),
    lambda place_TS, dx_PD: (_at(dx_PD, place_TS).sum(1), None, None),
)


@jax.custom_vjp
def _collect(y_PD, weight_TS, pair_P, place_TS):
    """Σ_s weight_ts · y of the row where pair (t, s) stands."""
    return jnp.einsum("TSD,TS->TD", _at(y_PD, place_TS), weight_TS.astype(y_PD.dtype))


def _collect_bwd(kept, dy_TD):
    y_PD, weight_TS, pair_P, place_TS = kept
    T, S = weight_TS.shape
    weight_P = jnp.where(pair_P < T * S, weight_TS.reshape(-1)[jnp.minimum(pair_P, T * S - 1)], 0.0)
    dy_PD = _at(dy_TD, pair_P // S) * weight_P[:, None].astype(dy_TD.dtype)
    dweight_TS = jnp.einsum(
        "TSD,TD->TS", _at(y_PD, place_TS), dy_TD, preferred_element_type=jnp.float32
    )
    return dy_PD, dweight_TS, None, None


_collect.defvjp(lambda *given: (_collect(*given), given), _collect_bwd)
