"""How tokens reach their experts and come back summed, on each device of a mesh.

Every token of an expert-parallel group has K' experts of every group of MoGE, so each device needs
every token exactly once (`gathered`):

    x [t, D] ─ route ─ all_gather ─ [EP·t, D] ─ rows by expert ─ grouped FFN ─ weighted sum
             ─ psum_scatter ─ y [t, D]

No capacity, nothing dropped, no all-to-all, rows per device exactly EP·t·K/EP whatever the router
prefers. Top-K without a capacity does the same, with as many rows as its router sends. With a
capacity (`buffered`), and with expert choice (`chosen`), tokens travel in buffers of fixed size:

    x [t, D] ─ route ─ buffers [E, C, D] ─ all_to_all ─ [E/EP, EP·C, D] ─ batched FFN
             ─ all_to_all ─ weighted sum ─ y [t, D]

Within an expert its width is split over `tensor`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dlm.nn import config, ffn
from dlm.nn.config import Kind
from dlm.nn.device_axes import DeviceAxes
from dlm.nn.expert_blocks import inward_names
from dlm.nn.expert_matmul import Method
from dlm.nn.expert_rows import by_expert, collect, spread, through_experts


@dataclass(frozen=True)
class Dispatch:
    """The tokens of this device through all experts."""

    config: config.Experts
    kind: Kind
    axes: DeviceAxes
    matrices: dict[str, jax.Array]  # of this device's experts

    def gathered(
        self, x_TD, expert_TK, weight_TK, valid_T
    ) -> tuple[jax.Array, jax.Array]:
        """Returns y_TD, and which picks were computed: all, since nothing is dropped.

        Every device reads all tokens of its expert-parallel group, and computes its own experts.
        """
        c, ep = self.config, self.axes.size("expert")
        E, K = c.count // ep, c.per_token
        computed_TK = jnp.broadcast_to(valid_T[:, None], expert_TK.shape)
        expert_TS, weight_TS = jnp.where(computed_TK, expert_TK, c.count), weight_TK
        first: int | jax.Array = 0
        if ep > 1:
            here = jax.lax.axis_index("expert")
            x_TD = self.axes.gather(x_TD)
            expert_TS = self.axes.gather(expert_TS)
            weight_TS = self.axes.gather(weight_TS)
            first = E * here
            # Each device has equally many picks, and those of its own groups are adjacent.
            if c.router.even:
                S = K // ep
                expert_TS = jax.lax.dynamic_slice_in_dim(expert_TS, S * here, S, 1)
                weight_TS = jax.lax.dynamic_slice_in_dim(weight_TS, S * here, S, 1)

        # Numbers among the device's own experts; E is none of them.
        own_TS = (expert_TS >= first) & (expert_TS < first + E)
        local_TS = jnp.where(own_TS, expert_TS - first, E)
        load = len(x_TD) * K / c.count
        how = Method(self.kind, c.backend, c.block, load)
        y_TD = through_experts(x_TD, local_TS, weight_TS, self.matrices, how)
        if ep > 1:
            y_TD = jax.lax.psum_scatter(y_TD, "expert", scatter_dimension=0, tiled=True)
        return self.axes.sum_widths(y_TD), computed_TK

    def buffered(
        self, x_TD, expert_TK, weight_TK, valid_T
    ) -> tuple[jax.Array, jax.Array]:
        """Returns y_TD, and which picks were computed.

        Each expert takes the first C tokens of each device; those after them are dropped.
        """
        T, K = expert_TK.shape
        E = self.config.count
        capacity = self.config.router.capacity
        C = min(T, math.ceil(capacity * K * T / E))
        expert_or_none_TK = jnp.where(valid_T[:, None], expert_TK, E)
        order = by_expert(expert_or_none_TK, E)
        start_E = jnp.cumsum(order.sizes_E) - order.sizes_E

        # A pick's rank among those of its expert decides whether it is computed.
        expert_R = expert_TK.reshape(-1)
        rank_R = order.place_R - start_E[expert_R]
        computed_R = (rank_R < C) & jnp.repeat(valid_T, K)
        place_R = jnp.where(computed_R, expert_R * C + rank_R, E * C)
        place_TK = place_R.reshape(T, K)

        # Each place of a buffer reads one pair, or none: T·K.
        number_C = jnp.arange(C)
        filled_EC = number_C < order.sizes_E[:, None]
        row_EC = start_E[:, None] + number_C
        row_EC = jnp.where(filled_EC, row_EC, 0)
        pair_EC = jnp.where(filled_EC, order.pair_R[row_EC], T * K)
        pair_P = pair_EC.reshape(-1)
        x_PD = spread(x_TD, pair_P, place_TK)
        y_ECD = self._exchanged(x_PD.reshape(E, C, -1))
        y_PD = y_ECD.reshape(E * C, -1)
        computed_TK = computed_R.reshape(T, K)
        weight_TK = weight_TK * computed_TK
        y_TD = collect(y_PD, weight_TK, pair_P, place_TK)
        return self.axes.sum_widths(y_TD), computed_TK

    def chosen(
        self,
        x_BLD: jax.Array,
        valid_BL: jax.Array,
        ratio_B: jax.Array,
        weight_TE: jax.Array,
        select_TE: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns y_TD, and which experts chose which token, float32_TE.

        Args:
            x_BLD: inputs; an expert takes its best tokens of each row.
            valid_BL: where a token is, and no padding.
            ratio_B: the share of each row that is masked.
            weight_TE: the weight of an expert for a token that it chooses.
            select_TE: the scores that it chooses by.
        """
        B, L, D = x_BLD.shape
        E = self.config.count
        choose = self.config.router.choose
        select_BLE = select_TE.reshape(B, L, E)
        places_BEC, taken_BEC = choose(
            select_BLE, valid_BL, ratio_B, self.config.per_token
        )

        # Each expert's buffer has room for its tokens of all rows.
        N = B * places_BEC.shape[-1]
        first_B11 = L * jnp.arange(B)[:, None, None]
        token_BEC = places_BEC + first_B11
        token_EN = token_BEC.swapaxes(0, 1).reshape(E, N)
        taken_EN = taken_BEC.swapaxes(0, 1).reshape(E, N)
        x_END = x_BLD.reshape(-1, D)[token_EN]
        x_END = jnp.where(taken_EN[..., None], x_END, 0)
        y_END = self._exchanged(x_END)
        expert_E1 = jnp.arange(E)[:, None]
        weight_EN = weight_TE[token_EN, expert_E1]
        weight_EN1 = jnp.where(taken_EN, weight_EN, 0.0)[..., None]

        # The sum over experts is float32 at any precision of activations.
        zeros_TD = jnp.zeros((B * L, D), jnp.float32)
        y_TD = zeros_TD.at[token_EN].add(weight_EN1 * y_END)
        zeros_TE = jnp.zeros((B * L, E))
        chosen_TE = zeros_TE.at[token_EN, expert_E1].add(taken_EN * 1.0)
        return self.axes.sum_widths(y_TD.astype(x_BLD.dtype)), chosen_TE

    def _exchanged(self, x_ECD: jax.Array) -> jax.Array:
        """Sends buffers to the devices of their experts, through these, and back."""
        ep = self.axes.size("expert")
        if ep > 1:
            x_ECD = jax.lax.all_to_all(x_ECD, "expert", 0, 1, tiled=True)
        names = inward_names(self.matrices)
        inner = []
        for name in names:
            weight_EDF = self.matrices[name]
            inner.append(jnp.einsum("ECD,EDF->ECF", x_ECD, weight_EDF))
        h_ECF = ffn.act(self.kind, *inner)
        y_ECD = jnp.einsum("ECF,EFD->ECD", h_ECF, self.matrices["down_EFD"])
        if ep == 1:
            return y_ECD
        return jax.lax.all_to_all(y_ECD, "expert", 1, 0, tiled=True)
