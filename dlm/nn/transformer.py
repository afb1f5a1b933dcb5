"""The one backbone: canvas → prediction. Pre-norm, layers in one scan.

    h ← embed[z];   N times:  h ← h + attention(rms h),  h ← h + ffn(rms h)
    logits = unembed · rms h

A prediction is at its token's position: with shift='input' position i reads token i − 1, with
shift='output' what position i − 1 predicts is moved to i. A canvas with clean tokens is read in
two streams (`nn.visibility`). Further results by name, in `Output.heads`: those of `nn.heads`,
`clean`, the prediction of the clean stream, and `mtp`, predictions from one token further back,
two, … (`nn.multi_token`).
"""

from dataclasses import replace
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.core.contracts import Cache, Canvas, Dense, Net, Output, Routing
from dlm.nn import cache, config, heads, inputs, norms, rope
from dlm.nn.attend import choose
from dlm.nn.attention import KV
from dlm.nn.config import Stack
from dlm.nn.inputs import LayerInputs, Tokens
from dlm.nn.layer import Block, Group
from dlm.nn.multi_token import MultiTokenLayer
from dlm.nn.visibility.causal import Causal

_POLICIES = {
    "block": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Transformer(nn.Module):
    """The network of a `ModelConfig`."""

    config: config.ModelConfig
    # Over which experts exchange tokens; all else follows the shardings of its parameters.
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, canvas: Canvas) -> Output:
        """Predicts every position of the canvas."""
        c, L = self.config, canvas.z_BL.shape[1]
        # The tokenizer sets the vocabulary, which a config does not have.
        vocab = c.vocab
        assert vocab is not None, "the config of a network names its vocabulary"
        dtype = jnp.dtype(c.compute.dtype)
        tokens = inputs.read(canvas, vocab)
        size = 0.02 if c.embeddings == "tied" else 1.0
        embed_VD = self._table("embed_VD", size, vocab.size)
        embedded_BLD = embed_VD.astype(dtype)[tokens.ids_BL]
        shared = self._shared(canvas, tokens, dtype)

        # Keys and values go through the scan over layers.
        kv = None
        if canvas.cache is not None:
            kv = canvas.cache.k_NBMJK, canvas.cache.v_NBMJK
        h_BLD, kv, routing = self._layers(embedded_BLD, kv, shared)
        gain_D = self.param("norm_D", nn.initializers.ones, (c.width,))
        norm = partial(norms.rms, gain=gain_D, epsilon=c.norm.epsilon)
        hidden_BLD = norm(h_BLD)
        if c.embeddings == "untied":
            size = c.width**-0.5
            embed_VD = self._table("unembed_VD", size, vocab.size)
        table = _Table(embed_VD, vocab.never)

        # The noised stream comes first.
        results: dict[str, Any] = {}
        if tokens.case.streams == 2:
            results["clean"] = table.predict(hidden_BLD[:, L:])
        hidden_BLD = self._at_tokens(canvas, hidden_BLD[:, :L])
        for name in c.heads:
            results[name] = heads.head(name)(self.param, hidden_BLD)

        # Layers that predict from further back know the token before; sampling has no use for them.
        shifts = canvas.visibility.shift != "none"
        if c.mtp_layers and shifts and kv is None:
            h_NBLD, routing = self._multi_token(
                canvas, h_BLD, embedded_BLD, shared, routing
            )
            results["mtp"] = tuple(table.predict(norm(h_BLD)) for h_BLD in h_NBLD)
        return Output(
            table.predict(hidden_BLD),
            heads=results,
            hidden_BLD=hidden_BLD,
            cache=None if kv is None else Cache(*kv),
            routing=_along_layers(routing),
        )

    def _table(
        self,
        name: str,
        size: float,
        rows: int,
    ) -> jax.Array:
        normal = nn.initializers.normal(size)
        return self.param(name, normal, (rows, self.config.width))

    def _at_tokens(self, canvas: Canvas, hidden_BLD: jax.Array) -> jax.Array:
        """Returns what predicts each position: with shifted output that of the one before it."""
        if canvas.visibility.shift != "output":
            return hidden_BLD
        begins_BL1 = inputs.segment_starts(canvas)[..., None]
        before_BLD = jnp.roll(hidden_BLD, 1, 1)
        return jnp.where(begins_BL1, hidden_BLD, before_BLD)

    def _shared(
        self,
        canvas: Canvas,
        tokens: Tokens,
        dtype: jnp.dtype,
    ) -> LayerInputs:
        """Returns what all layers share."""
        a = self.config.attention
        cos, sin = rope.angles(tokens.positions_BL, a.rotary, a.rope)
        backend = choose(tokens.case)
        return LayerInputs(
            cos,
            sin,
            backend.prepare(tokens.case),
            slots=cache.slots_of(canvas.cache),
            time_BLW=self._time(tokens.t_BL, dtype),
            valid_BL=tokens.valid_BL,
            mask_ratio_B=tokens.mask_ratio_B,
            backend=backend,
            streams=tokens.case.streams,
        )

    def _layers(
        self,
        h_BLD: jax.Array,
        kv: KV | None,
        shared: LayerInputs,
    ) -> tuple[jax.Array, KV | None, Routing | None]:
        """Returns h_BLD, the keys and values of all layers, and the routing sums."""
        new_kvs, routing, before = [], None, 0
        for stack in self.config.stacks:
            after = before + stack.layers
            stack_kv = None
            if kv is not None:
                own = [x_NBMJK[before:after] for x_NBMJK in kv]
                stack_kv = tuple(map(stack.folded, own))
            layers = self._stack(stack)
            h_BLD, (new_kv, sums) = layers(h_BLD, stack_kv, shared)
            new_kvs.append(new_kv)
            # Only the last stack has experts.
            if sums is not None:
                routing = sums
            before = after
        if kv is None:
            return h_BLD, None, routing
        keys, values = map(_joined, kv, *new_kvs)
        return h_BLD, (keys, values), routing

    def _stack(self, stack: Stack):
        """Returns the scan over the layers of a stack."""
        c = self.config
        # Each layer has keys and values of its own, all share the other inputs.
        in_axes = 0, nn.broadcast
        if len(stack.kinds) == 1:
            sparse = stack.kinds[0]
            scanned = self._scan(Block, stack.count, in_axes)
            return scanned(c, sparse, self.mesh, name=stack.name)
        scanned = self._scan(Group, stack.count, in_axes)
        return scanned(c, stack.kinds, self.mesh, name=stack.name)

    def _scan(self, step, count: int, in_axes):
        """Returns a module that applies `step` as often, with parameters stacked along N."""
        compute = self.config.compute
        if compute.remat != "none":
            policy = _POLICIES[compute.remat]
            # A rolled-up scan keeps what is computed again apart by itself.
            unrolled = compute.unroll > 1
            step = nn.remat(step, policy=policy, prevent_cse=unrolled)
        return nn.scan(
            step,
            variable_axes=dict(params=0),
            split_rngs=dict(params=True),
            length=count,
            unroll=min(compute.unroll, count),
            in_axes=in_axes,
            out_axes=0,
        )

    def _multi_token(
        self,
        canvas: Canvas,
        h_BLD: jax.Array,
        embedded_BLD: jax.Array,
        shared: LayerInputs,
        routing: Routing | None,
    ) -> tuple[jax.Array, Routing | None]:
        """Returns what each layer behind the stack ends with, and all routing sums.

        Args:
            canvas: says where segments begin.
            h_BLD: what the stack ends with.
            embedded_BLD: embeddings of the tokens that are read.
            shared: what all layers share.
            routing: sums of the layers of the stack.
        """
        scanned = self._scan(
            MultiTokenLayer, self.config.mtp_layers, (nn.broadcast,) * 3
        )
        further = scanned(self.config, self.mesh, name="ahead")
        begins_BL = inputs.segment_starts(canvas)
        _, (h_NBLD, sums) = further(h_BLD, embedded_BLD, begins_BL, shared)
        if sums is not None:
            routing = jax.tree.map(_concatenate, routing, sums)
        return h_NBLD, routing

    def _time(self, t_BL, dtype):
        """Returns features of each position's time, or None without time conditioning.

        They are sinusoidal, through one learned layer.
        """
        c = self.config
        if c.time == "none":
            return None
        # Half of the features are cosines, half are sines, at frequencies 1 to 1000.
        half, highest = c.TIME_FEATURES // 2, jnp.log(1000.0)
        frequency_A = jnp.exp(jnp.linspace(0.0, highest, half))
        angle_BLA = t_BL[..., None] * frequency_A
        waves = jnp.cos(angle_BLA), jnp.sin(angle_BLA)
        features_BLA = jnp.concatenate(waves, -1)
        normal = nn.initializers.normal(c.TIME_FEATURES**-0.5)
        shape = c.TIME_FEATURES, c.TIME_WIDTH
        time_AW = self.param("time_AW", normal, shape)
        time_BLW = jax.nn.silu(features_BLA @ time_AW)
        return time_BLW.astype(dtype)


class _Table:
    """The output matrix; ids that are never generated have probability 0."""

    def __init__(self, embed_VD: jax.Array, never: tuple[int, ...]):
        self.embed_VD = embed_VD
        ids = jnp.array(never)
        none_V = jnp.zeros(len(embed_VD), bool)
        self.never_V = none_V.at[ids].set(True)

    def predict(self, hidden_BLD: jax.Array) -> Dense:
        """Returns the prediction of these hidden states."""
        embed_VD = self.embed_VD.astype(hidden_BLD.dtype)
        logits_BLV = jnp.einsum(
            "BLD,VD->BLV",
            hidden_BLD,
            embed_VD,
            preferred_element_type=jnp.float32,
        )
        logits_BLV = jnp.where(self.never_V, -jnp.inf, logits_BLV)
        return Dense(logits_BLV)


def _concatenate(*arrays):
    return jnp.concatenate(arrays)


def _joined(old_NBMJK: jax.Array, *parts: jax.Array) -> jax.Array:
    """Returns the arrays of all stacks along the layers."""
    shape = -1, *old_NBMJK.shape[1:]
    return jnp.concatenate([x.reshape(shape) for x in parts])


def _along_layers(routing: Routing | None) -> Routing | None:
    """Returns the sums named with the axis of the layers: load_ZE → load_NZE."""
    if routing is None:
        return None
    named = {}
    for name, sums in routing.items():
        named[name.replace("_", "_N", 1)] = sums
    return named


def initialise(model: Transformer, key: jax.Array):
    """Returns fresh parameters, float32.

    Layers are rolled up for it, which changes no parameter and compiles several times faster.
    """
    z_BL = jnp.zeros((1, 2), jnp.int32)
    t_BL = jnp.zeros(z_BL.shape)
    frozen_BL = jnp.zeros(z_BL.shape, bool)
    canvas = Canvas(z_BL, t_BL, frozen_BL, Causal())
    rolled = replace(model.config, compute=config.Compute())
    variables = Transformer(rolled).init(key, canvas)
    return variables["params"]


def net_of(model: Transformer, params) -> Net:
    """Returns the network with these parameters: all that objectives and samplers know of it."""

    def net(canvas: Canvas) -> Output:
        # Flax returns a pair only where a collection is mutable, and none is.
        return cast(Output, model.apply({"params": params}, canvas))

    return net


def empty_cache(
    model: Transformer,
    batch: int,
    length: int,
) -> Cache:
    """Returns an empty cache for `length` positions."""
    c = model.config
    dtype = jnp.dtype(c.compute.dtype)
    return cache.empty(c.layers, batch, length, c.attention.memory, dtype)
