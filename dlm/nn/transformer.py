"""The one backbone: canvas → prediction. Pre-norm, causal or bidirectional by mask spec, layers in one scan.

    h ← embed[z];   N times:  h ← h + attention(rms h),  h ← h + ffn(rms h);   logits = unembed · rms h

Under a shifted mask token i is predicted from where token i−1 is read, so that a prediction always stands where its token does; the first
of a causal row reads bos, or what `fields['before_B']` says stands before it. A canvas that carries the clean sequence is read in two
streams (`nn.masks`); `heads['clean']` is then what the clean stream says of the next token. `heads['quality']` judges the tokens that
stand; `heads['ahead']` predicts from one token further back (`Ahead`), `ahead2` from two.

norm.kind='sandwich':  h ← h + rms(attention(rms h)), and so the ffn; the gains of the outer norms start at 0.283/√N and 0.432/√N, so that
the sum of N layers starts as large as that of one (depth-scaled sandwich norm: Pangu Ultra, arXiv:2504.07866, section 2).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Logits, Output
from dlm.nn import attention, cache, config, experts, ffn, latent, masks, norms, rope

_OUTER = dict(attend=0.283, ffn=0.432)
_POLICIES = {"block": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Block(nn.Module):
    config: config.ModelConfig
    sparse: bool = False  # whether its FFN is one of experts
    mesh: Any = None

    @nn.compact
    def __call__(self, h_BLD, kv, shared):
        c = self.config
        cos, sin, allowed, slots, time_BLW, token = shared
        routed = None

        def normed(name):
            x = norms.rms(
                h_BLD,
                self.param(f"{name}_norm_D", nn.initializers.ones, (c.width,)),
                c.norm.epsilon,
            )
            return (
                x if time_BLW is None else x * (1 + self._modulation(f"{name}_scale_WD", time_BLW))
            )

        def residual(name, x):
            if c.norm.kind == "sandwich":
                start = nn.initializers.constant(_OUTER[name] * c.layers**-0.5)
                x = norms.rms(
                    x, self.param(f"{name}_out_norm_D", start, (c.width,)), c.norm.epsilon
                )
            return (
                x if time_BLW is None else x * (1 + self._modulation(f"{name}_gate_WD", time_BLW))
            )

        kind = latent.LatentAttention if c.attention.latent.kv_rank else attention.SelfAttention
        attended, kv = kind(c.attention, c.width, c.layers, c.norm.epsilon, name="attention")(
            normed("attend"), cos, sin, allowed, kv, slots
        )
        h_BLD = h_BLD + residual("attend", attended)
        if self.sparse:
            layer = experts.Experts(
                c.experts, c.ffn.kind, c.width, c.layers, self.mesh, name="experts"
            )
            ffn_out, routed = layer(normed("ffn"), *token)
        else:
            ffn_out = ffn.FeedForward(c.ffn, c.width, c.layers, name="ffn")(normed("ffn"))
        return h_BLD + residual("ffn", ffn_out), (kv, routed)

    def _modulation(self, name, time_BLW):
        weight_WD = self.param(name, nn.initializers.zeros, (time_BLW.shape[-1], self.config.width))
        return jnp.einsum("BLW,WD->BLD", time_BLW, weight_WD.astype(time_BLW.dtype))


class Group(nn.Module):
    """Layers of different kinds, one after the other, as one step of a scan."""

    config: config.ModelConfig
    kinds: tuple[bool, ...]
    mesh: Any = None

    @nn.compact
    def __call__(self, h_BLD, kv, shared):
        new_kvs, routed = [], None
        for i, sparse in enumerate(self.kinds):
            own = None if kv is None else tuple(x_SBMJK[i] for x_SBMJK in kv)
            h_BLD, (new_kv, routing_sums) = Block(self.config, sparse, self.mesh, name=f"layer{i}")(
                h_BLD, own, shared
            )
            new_kvs.append(new_kv)
            routed = routing_sums if sparse else routed
        return h_BLD, (
            None if kv is None else jax.tree.map(lambda *x: jnp.stack(x), *new_kvs),
            routed,
        )


class MultiTokenLayer(nn.Module):
    """One more layer, which predicts token i from what the stack before it knew one position earlier, and from token i−1 alone.

        h'_i = M [rms h_{i−1} ; rms embed x_{i−1}],   then a layer like the last one    (DeepSeek-V3, arXiv:2412.19437, eq. 21 to 23)

    h_{i−1} has seen x_{<i−1}, as it was to predict x_{i−1}: so it learns to know two tokens. Where a segment starts h is 0."""

    config: config.ModelConfig
    mesh: Any = None

    @nn.compact
    def __call__(self, h_BLD, read_BLD, first_BL, shared):
        c, D = self.config, self.config.width
        ones, inward = nn.initializers.ones, nn.initializers.normal((2 * D) ** -0.5)
        before_BLD = jnp.where(first_BL[..., None], 0, jnp.roll(h_BLD, 1, 1))
        before_BLD = norms.rms(before_BLD, self.param("before_norm_D", ones, (D,)), c.norm.epsilon)
        read_BLD = norms.rms(read_BLD, self.param("read_norm_D", ones, (D,)), c.norm.epsilon)
        h_BLD = before_BLD @ self.param("before_DD", inward, (D, D)).astype(h_BLD.dtype)
        h_BLD += read_BLD @ self.param("read_DD", inward, (D, D)).astype(h_BLD.dtype)
        h_BLD, (_, routed) = Block(c, c.stacks[-1].kinds[-1], self.mesh, name="block")(
            h_BLD, None, shared
        )
        return h_BLD, (h_BLD, routed)


class Transformer(nn.Module):
    config: config.ModelConfig
    mesh: jax.sharding.Mesh | None = (
        None  # over which experts exchange tokens; everything else follows its parameters' shardings
    )

    @nn.compact
    def __call__(self, canvas: Canvas, mask: masks.Mask, kv: cache.KV | None = None) -> Output:
        """Logits over the vocabulary for every position of the canvas, or of the part of it that stands at the cache's seat."""
        c, vocab = self.config, self.config.vocab
        dtype = jnp.dtype(c.compute.dtype)
        read = _prepare_inputs(canvas, mask, kv, vocab)
        embed_VD = self.param(
            "embed_VD",
            nn.initializers.normal(0.02 if c.embeddings == "tied" else 1.0),
            (vocab.size, c.width),
        )
        read_BLD = embed_VD.astype(dtype)[read.ids_BL]
        angles = rope.angles(read.positions_BL, c.attention.rotary, c.attention.rope)
        token = (read.valid_BL, read.ratio_B, canvas.z_BL.shape[1] / read.ids_BL.shape[1])
        shared = (
            *angles,
            read.allowed,
            None if kv is None else kv.slots,
            self._time(read.t_BL, dtype),
            token,
        )
        h_BLD, new_kv, routed = self._layers(
            read_BLD, None if kv is None else (kv.k_NBMJK, kv.v_NBMJK), shared
        )
        gain_D = self.param("norm_D", nn.initializers.ones, (c.width,))
        hidden_BLD = norms.rms(h_BLD, gain_D, c.norm.epsilon)
        if c.embeddings == "untied":
            embed_VD = self.param(
                "unembed_VD", nn.initializers.normal(c.width**-0.5), (vocab.size, c.width)
            )
        never_V = jnp.zeros(vocab.size, bool).at[jnp.array(vocab.never)].set(True)

        def logits(hidden_BLD):
            logits_BLV = jnp.einsum(
                "BLD,VD->BLV",
                hidden_BLD,
                embed_VD.astype(dtype),
                preferred_element_type=jnp.float32,
            )
            return Logits(jnp.where(never_V, -jnp.inf, logits_BLV))

        L = canvas.z_BL.shape[1]
        heads = (
            dict(clean=logits(hidden_BLD[:, L:])) if isinstance(read.allowed, masks.Streams) else {}
        )
        hidden_BLD = hidden_BLD[:, :L]
        if mask.shift and mask.kind != "causal":
            first_BL = masks.starts(canvas.fields.get("segments_BL"), L)
            hidden_BLD = jnp.where(first_BL[..., None], hidden_BLD, jnp.roll(hidden_BLD, 1, 1))
        if "quality" in c.heads:
            heads["quality"] = self._quality(hidden_BLD)
        if c.ahead and mask.shift and kv is None:
            h_NBLD, routed = self._multi_token(
                h_BLD, read_BLD, masks.starts(canvas.fields.get("segments_BL"), L), shared, routed
            )
            names = ["ahead", *(f"ahead{k}" for k in range(2, c.ahead + 1))]
            heads |= {
                name: logits(norms.rms(h_BLD, gain_D, c.norm.epsilon))
                for name, h_BLD in zip(names, h_NBLD, strict=True)
            }
        if kv is not None:
            kv = cache.KV(*new_kv)
        return Output(
            logits(hidden_BLD),
            hidden_BLD=hidden_BLD,
            cache=kv,
            heads=heads or None,
            aux=None if routed is None else {_stacked(name): x for name, x in routed.items()},
        )

    def _layers(self, h_BLD, kv, shared):
        """(h_BLD, the layers' memories, what was routed where, for each layer with experts)."""
        new_kvs, routed, before = [], None, 0
        for stack in self.config.stacks:
            own = (
                None
                if kv is None
                else tuple(stack.folded(x[before : before + stack.layers]) for x in kv)
            )
            h_BLD, (new_kv, routing_sums) = self._stack(stack)(h_BLD, own, shared)
            new_kvs.append(new_kv)
            routed, before = routed if routing_sums is None else routing_sums, before + stack.layers
        if kv is not None:
            kv = tuple(
                jnp.concatenate([x.reshape(-1, *old.shape[1:]) for x in parts])
                for old, *parts in zip(kv, *new_kvs, strict=True)
            )
        return h_BLD, kv, routed

    def _stack(self, stack: config.Stack):
        c = self.config
        single = len(stack.kinds) == 1
        scanned = self._scan(Block if single else Group, stack.count, (0, nn.broadcast))
        return scanned(c, stack.kinds[0] if single else stack.kinds, self.mesh, name=stack.name)

    def _scan(self, step, count: int, in_axes):
        compute = self.config.compute
        if compute.remat != "none":
            step = nn.remat(step, policy=_POLICIES[compute.remat], prevent_cse=compute.unroll > 1)
        scan = dict(length=count, unroll=min(compute.unroll, count), in_axes=in_axes, out_axes=0)
        return nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, **scan)

    def _multi_token(self, h_BLD, read_BLD, first_BL, shared, routed):
        """(what each layer ahead ends with, what was routed where in these layers too)."""
        scanned = self._scan(MultiTokenLayer, self.config.ahead, (nn.broadcast,) * 3)(
            self.config, self.mesh, name="ahead"
        )
        _, (h_NBLD, routing_sums) = scanned(h_BLD, read_BLD, first_BL, shared)
        return h_NBLD, routed if routing_sums is None else jax.tree.map(
            lambda *x: jnp.concatenate(x), routed, routing_sums
        )

    def _quality(self, hidden_BLD):
        """The log-odds that each position's token is right, float32_BL."""
        D, W = self.config.width, self.config.TIME_WIDTH
        weight_DW = self.param("quality_DW", nn.initializers.normal(D**-0.5), (D, W)).astype(
            hidden_BLD.dtype
        )
        weight_W = self.param("quality_W", nn.initializers.zeros, (W,))
        return jax.nn.silu(hidden_BLD @ weight_DW).astype(jnp.float32) @ weight_W

    def _time(self, t_BL, dtype):
        """Sinusoidal features of each position's time, through one learned layer; None without time conditioning."""
        c = self.config
        if c.time == "none":
            return None
        frequency = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), c.TIME_FEATURES // 2))
        angle = t_BL[..., None] * frequency
        features_BLA = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        time_AW = self.param(
            "time_AW",
            nn.initializers.normal(c.TIME_FEATURES**-0.5),
            (c.TIME_FEATURES, c.TIME_WIDTH),
        )
        return jax.nn.silu(features_BLA @ time_AW).astype(dtype)


def _stacked(name: str) -> str:
    """A sum's name with the axis of the layers: load_ZE → load_NZE."""
    return name.replace("_", "_N", 1)


@dataclass(frozen=True)
class _Inputs:
    """What the layers are given: token ids, their positions and times, who sees whom."""

    ids_BL: jax.Array
    positions_BL: jax.Array
    t_BL: jax.Array
    allowed: Any
    valid_BL: jax.Array  # what is no padding
    ratio_B: jax.Array  # the share of it that is masked


def _prepare_inputs(canvas: Canvas, mask: masks.Mask, kv, vocab) -> _Inputs:
    z_BL, fields = canvas.z_BL, canvas.fields
    B, L = z_BL.shape
    row_index_BL = jnp.arange(L)[None] if kv is None else kv.slots.row_index_BL
    positions_BL = fields.get("positions_BL", row_index_BL)
    queries = keys = masks.side(mask, fields, row_index_BL)
    valid_BL = jnp.broadcast_to(fields.get("segments_BL", jnp.ones_like(z_BL)) > 0, (B, L))
    ratio_B = (valid_BL & (z_BL == vocab.mask)).sum(1) / jnp.maximum(valid_BL.sum(1), 1)
    if kv is not None:
        keys = masks.side(mask, kv.slots.fields, jnp.arange(kv.k_NBMJK.shape[2])[None])
    if mask.needs_clean and kv is None or "clean_BL" in fields:
        return _two_streams(canvas, mask, positions_BL, queries, keys, vocab, valid_BL, ratio_B)
    if mask.shift and mask.kind == "causal":
        before_B = (
            fields.get("before_B", jnp.full((B,), vocab.bos, z_BL.dtype))
            if kv is None
            else kv.slots.before_B
        )
        z_BL = masks.shifted(z_BL, before_B, vocab.bos, fields.get("segments_BL"))
    return _Inputs(
        z_BL, positions_BL, canvas.t_BL, masks.dense(mask, queries, keys), valid_BL, ratio_B
    )


def _two_streams(
    canvas: Canvas, mask: masks.Mask, positions_BL, queries, keys, vocab, valid_BL, ratio_B
) -> _Inputs:
    """[z ; x] at the same positions; x is at time 0. Where no clean stream is given, what stands on the canvas is it."""
    z_BL, clean_BL = canvas.z_BL, canvas.fields.get("clean_BL", canvas.z_BL)
    if (
        mask.kind == "partition"
    ):  # the tokens themselves are in x; z asks for those of the other group
        queries = keys = queries._replace(block=canvas.fields.get("block_BL", z_BL == vocab.mask))
        z_BL = jnp.full_like(z_BL, vocab.mask)
    positions_BL = jnp.concatenate([positions_BL, positions_BL], 1)
    t_BL = jnp.concatenate([canvas.t_BL, jnp.zeros_like(canvas.t_BL)], 1)
    valid_BL = jnp.concatenate([valid_BL, valid_BL], 1)
    return _Inputs(
        jnp.concatenate([z_BL, clean_BL], 1),
        positions_BL,
        t_BL,
        masks.streams(mask, queries, keys),
        valid_BL,
        ratio_B,
    )


def initialise(model: Transformer, key: jax.Array):
    """Fresh parameters, float32. Layers are rolled up, which changes no parameter and compiles several times faster."""
    one = jnp.zeros((1, 2), jnp.int32)
    model = Transformer(replace(model.config, compute=config.Compute()))
    return model.init(
        key, Canvas(one, one.astype(jnp.float32), one.astype(bool)), masks.Mask("causal", shift=1)
    )["params"]


def denoiser(model: Transformer, params) -> Callable[..., Output]:
    """`denoise(canvas, *, mask, cache=None)`: all that objectives and samplers know of a network."""

    def denoise(
        canvas: Canvas, *, mask: masks.Mask, cache: cache.KV | None = None, carry=None
    ) -> Output:
        del carry  # this backbone hands nothing from step to step
        return model.apply({"params": params}, canvas, mask, cache)

    return denoise


def memory(model: Transformer, batch: int, length: int) -> cache.KV:
    """An empty cache for `length` positions."""
    c = model.config
    return cache.empty(c.layers, batch, length, c.attention.memory, jnp.dtype(c.compute.dtype))
