"""Layers of two kinds as one backbone: dense ones, then groups with experts at their ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.nn import layer, norms, rope, transformer
from dlm.nn.config import Experts, Norm
from dlm.nn.routers.base import Balance
from dlm.nn.routers.moge import MoGE
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.objectives.ar import AR
from tests import tiny

L = 6
EXPERTS = Experts(
    count=4,
    per_token=2,
    width=6,
    shared=1,
    first_dense=1,
    period=2,
    router=MoGE(groups=2, balance=Balance(weight=0.1)),
)
CONFIG = tiny.model_config(layers=5, experts=EXPERTS, norm=Norm("sandwich"))
PARAMS = tiny.random_params(CONFIG, scale=0.3)
SHIFTED = Causal()


def test_the_layers_run_one_after_the_other():
    """Dense, then twice a dense one and one with experts: the same blocks, called by hand."""
    kinds = [
        ("first", None, False),
        ("layers", "layer0", False),
        ("layers", "layer1", True),
    ]
    order = [(kinds[0], 0), (kinds[1], 0), (kinds[2], 0), (kinds[1], 1), (kinds[2], 1)]
    z_BL = tiny.tokens(2, L)
    h_BLD = PARAMS["embed_VD"][z_BL]
    angles = rope.angles(
        jnp.arange(L)[None], CONFIG.attention.head_size, CONFIG.attention.rope
    )
    shared = tiny.layer_inputs(*angles, None, jnp.ones((2, L), bool))

    @jax.jit
    def by_hand(h_BLD):
        for (stack, name, sparse), i in order:
            own = jax.tree.map(
                lambda p, i=i: p[i],
                PARAMS[stack] if name is None else PARAMS[stack][name],
            )
            h_BLD, _ = layer.Block(CONFIG, sparse).apply(
                {"params": own}, h_BLD, None, shared
            )
        return h_BLD

    ours_BLD = jax.jit(
        lambda: (
            tiny.net(CONFIG, PARAMS)(tiny.under(tiny.canvas(z_BL), Full())).hidden_BLD
        )
    )()
    tiny.close(ours_BLD, norms.rms(by_hand(h_BLD), PARAMS["norm_D"]))


@pytest.mark.slow
def test_cached_decoding_is_the_full_forward():
    x_BL, model = tiny.tokens(2, L), transformer.Transformer(CONFIG)
    forward = jax.jit(
        lambda c, kv=None: tiny.net(CONFIG, PARAMS)(tiny.under(c, SHIFTED, kv))
    )
    full_BLV, kv, parts = (
        forward(tiny.canvas(x_BL)).prediction.logits_BLV,
        transformer.empty_cache(model, 2, L),
        [],
    )
    for i in range(0, L, 2):
        before_B = (
            jnp.full(2, tiny.VOCAB.bos) if i == 0 else jnp.asarray(x_BL[:, i - 1])
        )
        index_BL = jnp.arange(i, i + 2)[None]
        part = tiny.canvas(x_BL[:, i : i + 2], index_BL=index_BL, before_B=before_B)
        output = forward(part, dataclasses.replace(kv, slots_BL=index_BL, start=i))
        kv = output.cache
        parts.append(output.prediction.logits_BLV)
    real = slice(None, tiny.VOCAB.eos + 1)
    tiny.close(np.concatenate(parts, 1)[..., real], np.asarray(full_BLV)[..., real])


@pytest.mark.slow
def test_remat_and_unrolled_layers_compute_the_same():
    batch = tiny.batch(tiny.tokens(2, L))

    def compiled(**compute):
        config = dataclasses.replace(
            CONFIG, compute=dataclasses.replace(CONFIG.compute, **compute)
        )
        return jax.jit(
            jax.value_and_grad(
                lambda p: (
                    AR(vocab=tiny.VOCAB)
                    .loss(tiny.models(config, p), batch, None)
                    .nats_sum
                )
            )
        )

    plain, other = compiled(), compiled(remat="block", unroll=2)
    tiny.close(other(PARAMS), plain(PARAMS))
    tiny.identical(plain(PARAMS), plain(PARAMS))


@pytest.mark.slow
def test_what_was_routed_is_told_for_each_layer_with_experts_and_counts_no_padding():
    z_BL = tiny.tokens(2, L)
    z_BL[0, :3] = tiny.VOCAB.mask
    canvas = tiny.canvas(z_BL, segments_BL=np.array([[1] * 6, [1] * 4 + [0] * 2]))
    sums = jax.jit(
        lambda: tiny.net(CONFIG, PARAMS)(tiny.under(canvas, Full())).routing
    )()
    assert sums["tokens_NZ"].tolist() == [[4, 0, 6, 0]] * 2 and sums["load_NZE"].sum(
        (1, 2)
    ).tolist() == [20, 20]
    both = tiny.canvas(z_BL, clean_BL=tiny.tokens(2, L))
    sums = jax.jit(
        lambda: tiny.net(CONFIG, PARAMS)(tiny.under(both, Block(size=2))).routing
    )()
    assert sums["tokens_NZ"].sum() == 2 * 24  # two streams
