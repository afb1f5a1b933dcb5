"""The backbone: visibility (by gradient), padding, cache, scan, remat, time, parameters."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import axes
from dlm.core.config import build_member, load_recipe
from dlm.core.contracts import Layout
from dlm.core.run import build_run
from dlm.nn import transformer
from dlm.nn.config import FFN, Attention, Experts, Latent, Norm
from dlm.nn.routers.moge import MoGE
from dlm.nn.visibility.block import Block, numbers
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.nn.visibility.partition import Partition
from dlm.objectives.ar import AR
from tests import tiny

L = 6
FULL, CAUSAL, SHIFTED = Full(), Causal("none"), Causal()
CONFIG = tiny.model_config()
PARAMS = tiny.random_params(CONFIG)
LATENT = tiny.model_config(
    attention=Attention(
        heads=4, latent=Latent(kv_rank=6, q_rank=5, nope=4, rope=2, value=3)
    )
)
CONFIGS = dict(grouped=(CONFIG, PARAMS), latent=(LATENT, tiny.random_params(LATENT)))
SEGMENTS = np.array([1, 1, 2, 2, 2, 3])


@functools.cache
def forward(config, mask):
    return jax.jit(
        lambda params, canvas: (
            tiny.net(config, params)(tiny.under(canvas, mask)).prediction.logits_BLV
        )
    )


def logits(config, params, canvas, mask=FULL):
    return forward(config, mask)(params, canvas)


def finite(logits_BLV):
    return np.asarray(logits_BLV)[..., : tiny.VOCAB.eos + 1]


def influence(mask, segments=None, kind="grouped"):
    """[L, L + 1]: the gradient of logits_i with respect to the embedding of token j; last: bos."""
    canvas = tiny.canvas(
        np.arange(L)[None],
        **({} if segments is None else dict(segments_BL=segments[None])),
    )
    config, params = CONFIGS[kind]

    def out_L(embed_VD):
        logits_LV = tiny.net(config, {**params, "embed_VD": embed_VD})(
            tiny.under(canvas, mask)
        ).prediction.logits_BLV[0]
        return jnp.where(jnp.isfinite(logits_LV), logits_LV, 0.0) @ jnp.arange(
            1.0, tiny.VOCAB.size + 1
        )

    grad_LVD = np.asarray(jax.jit(jax.jacrev(out_L))(params["embed_VD"]))
    return np.abs(grad_LVD).max(-1)[:, [*range(L), tiny.VOCAB.bos]]


@pytest.mark.parametrize(
    "packed, kind", [(False, "grouped"), (True, "grouped"), (True, "latent")]
)
@pytest.mark.parametrize(
    "mask", [FULL, CAUSAL, SHIFTED], ids=["full", "causal", "shifted"]
)
def test_who_sees_whom(mask, packed, kind):
    seen = influence(mask, SEGMENTS if packed else None, kind)
    segments = SEGMENTS if packed else np.ones(L)
    want = {FULL: np.ones((L, L)), CAUSAL: np.tri(L), SHIFTED: np.tri(L, k=-1)}[
        mask
    ] * (segments[:, None] == segments)
    assert ((seen[:, :L] > 1e-6) == want).all() and (seen[:, :L][want == 0] == 0).all()
    assert (
        (seen[:, L] > 1e-6) == (mask.shift == "input")
    ).all()  # bos stands where a segment starts, and only there


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("size, kind", [(1, "grouped"), (4, "grouped"), (2, "latent")])
def test_two_streams_are_the_blocks_one_by_one(size, packed, kind):
    """Clean past blocks are read block-causally.

    So a row cut behind its block gives the same as one pass over both streams.
    """
    mask, x_BL = Block(size=size), tiny.tokens(2, L)
    z_BL = np.where(
        np.random.default_rng(1).random(x_BL.shape) < 0.5, tiny.VOCAB.mask, x_BL
    )
    positions_BL = np.tile([0, 1, 0, 1, 2, 0] if packed else np.arange(L), (2, 1))
    segments_BL = np.cumsum(positions_BL == 0, 1)
    fields = dict(segments_BL=segments_BL, positions_BL=positions_BL)
    model = CONFIGS[kind]
    both_BLV = finite(logits(*model, tiny.canvas(z_BL, clean_BL=x_BL, **fields), mask))
    block_BL = np.asarray(numbers(size, Layout(positions_BL=positions_BL).complete(L)))
    for start in np.unique(block_BL):
        row_BL = np.where(
            block_BL < start, x_BL, np.where(block_BL > start, tiny.VOCAB.pad, z_BL)
        )  # what is after a block is not seen
        own_BLV = finite(logits(*model, tiny.canvas(row_BL, **fields), mask))
        tiny.close(both_BLV[block_BL == start], own_BLV[block_BL == start])


@pytest.mark.slow
def test_a_causal_context_is_an_autoregressive_model_of_its_own():
    """The clean stream is the causal network; a canvas without one is its own context."""
    x_BL, mask = tiny.tokens(2, L), Block(size=2, context="causal")
    z_BL = np.where(np.arange(L) >= 4, tiny.VOCAB.mask, x_BL)
    output = jax.jit(lambda c: tiny.net(CONFIG, PARAMS)(tiny.under(c, mask)))
    two_streams = output(tiny.canvas(z_BL, clean_BL=x_BL))
    tiny.close(
        finite(two_streams.heads["clean"].logits_BLV),
        finite(logits(CONFIG, PARAMS, tiny.canvas(x_BL), CAUSAL)),
    )
    tiny.close(
        finite(output(tiny.canvas(z_BL)).prediction.logits_BLV)[:, 4:],
        finite(two_streams.prediction.logits_BLV)[:, 4:],
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_groups_of_a_partition_predict_each_other(kind):
    """No token reaches its own prediction, its group's or another segment's.

    None is replaced by a mask.
    """
    x_BL, mask = tiny.tokens(1, L), Partition()
    group_BL, segments_BL = (
        np.array([[0, 1, 1, 0, 1, 0]]),
        np.array([[1, 1, 1, 1, 2, 2]]),
    )
    fields = dict(block_BL=group_BL, segments_BL=segments_BL)
    base = finite(
        logits(*CONFIGS[kind], tiny.canvas(x_BL, clean_BL=x_BL, **fields), mask)
    )
    for j in range(L):
        other_BL = np.where(np.arange(L) == j, (x_BL + 1) % 16, x_BL)
        moved = finite(
            logits(
                *CONFIGS[kind], tiny.canvas(other_BL, clean_BL=other_BL, **fields), mask
            )
        )
        hears_L = (group_BL[0] != group_BL[0, j]) & (
            segments_BL[0] == segments_BL[0, j]
        )
        assert ((np.abs(moved - base)[0].max(-1) > 1e-6) == hears_L).all()
    masked_BL = np.where(group_BL == 1, tiny.VOCAB.mask, x_BL)
    masked_group = finite(
        logits(*CONFIGS[kind], tiny.canvas(masked_BL, segments_BL=segments_BL), mask)
    )
    tiny.close(masked_group[group_BL == 1], base[group_BL == 1])


OBJECTIVES = [
    dict(name="masked"),
    dict(name="ar"),
    dict(name="block", size=2),
    dict(name="partition"),
]  # one for each way of reading; the others' losses are held to it in tests/laws/test_noise.py


def test_a_row_reads_what_stands_before_it():
    """As if nothing were shifted, from the token before it on."""
    x_BL = tiny.tokens(2, L)
    plain_BLV = logits(CONFIG, PARAMS, tiny.canvas(x_BL[:, :-1]), Causal("none"))
    before_BLV = logits(
        CONFIG, PARAMS, tiny.canvas(x_BL[:, 1:], before_B=x_BL[:, 0]), SHIFTED
    )
    tiny.close(finite(before_BLV), finite(plain_BLV))
    assert not np.allclose(
        finite(before_BLV),
        finite(logits(CONFIG, PARAMS, tiny.canvas(x_BL[:, 1:]), SHIFTED)),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [build_member(o, "objectives", tiny.VOCAB) for o in OBJECTIVES],
    ids=lambda o: type(o).__name__,
)
def test_padding_changes_neither_logits_nor_loss_and_gradients_stay_finite(objective):
    x_BL = tiny.tokens(2, L)
    padded_BL = np.pad(x_BL, ((0, 0), (0, 3)), constant_values=tiny.VOCAB.pad)
    segments_BL = np.pad(np.ones_like(x_BL), ((0, 0), (0, 3)))
    short, long = (
        tiny.batch(x_BL, segments_BL=np.ones_like(x_BL)),
        tiny.batch(padded_BL, segments_BL=segments_BL),
    )

    @jax.jit
    def both(params, batch):
        gradients = jax.value_and_grad(
            lambda p: (
                objective.loss(
                    tiny.models(CONFIG, p), batch, jax.random.key(1)
                ).nats_sum
            )
        )(params)
        canvas = tiny.canvas(batch.tokens_BL, segments_BL=batch.layout.segments_BL)
        return gradients, tiny.net(CONFIG, params)(
            tiny.under(canvas, objective.visibility)
        ).prediction.logits_BLV

    (loss, grads), logits_BLV = both(PARAMS, short)
    (padded_loss, padded_grads), padded_BLV = both(PARAMS, long)
    assert loss > 1 and all(np.isfinite(g).all() for g in jax.tree.leaves(padded_grads))
    tiny.close(padded_loss, loss)
    tiny.close(padded_grads, grads)
    tiny.close(finite(padded_BLV[:, :L]), finite(logits_BLV))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("mask", [SHIFTED, Block(size=2)], ids=["causal", "blocks"])
def test_cached_decoding_is_the_full_forward(mask, kind):
    """Parts are read one after another, the last in scattered slots, the others cached."""
    (config, params), x_BL = CONFIGS[kind], tiny.tokens(2, L)
    model, segments_BL = (
        transformer.Transformer(config),
        np.array([[1] * L, [1] * 4 + [0] * 2]),
    )
    full_BLV = logits(config, params, tiny.canvas(x_BL, segments_BL=segments_BL), mask)
    step = jax.jit(lambda c, kv: tiny.net(config, params)(tiny.under(c, mask, kv)))
    kv, parts = transformer.empty_cache(model, 2, L), []
    for begin, end in (
        [(0, 2), (2, 4), (4, 6)]
        if mask.streams == 2
        else [(0, 3), *((i, i + 1) for i in range(3, L))]
    ):
        before_B = (
            jnp.full(2, tiny.VOCAB.bos)
            if begin == 0
            else jnp.asarray(x_BL[:, begin - 1])
        )
        start = None if begin == 4 else begin
        index_BL, layout = (
            jnp.arange(begin, end)[None],
            Layout(jnp.asarray(segments_BL)),
        )
        part = tiny.canvas(
            x_BL[:, begin:end],
            segments_BL=segments_BL[:, begin:end],
            index_BL=index_BL,
            before_B=before_B,
        )
        cached = dataclasses.replace(kv, layout=layout, slots_BL=index_BL, start=start)
        output = step(part, cached)
        kv = output.cache
        parts.append(output.prediction.logits_BLV)
    real_BL = segments_BL > 0
    tiny.close(finite(np.concatenate(parts, 1))[real_BL], finite(full_BLV)[real_BL])


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_two_streams_with_a_memory_are_the_whole_pass(kind):
    """Of [z ; x] the last positions alone are read: x before them is cached, and z never is."""
    (config, params), x_BL, mask = CONFIGS[kind], tiny.tokens(2, L), Block(size=1)
    model = transformer.Transformer(config)
    z_BL = np.full_like(x_BL, tiny.VOCAB.mask)
    whole_BLV = logits(config, params, tiny.canvas(z_BL, clean_BL=x_BL), mask)
    kv, parts = transformer.empty_cache(model, 2, L), []
    for begin, end in ((0, 3), (3, L)):
        index_BL = jnp.arange(begin, end)[None]
        part = dict(clean_BL=x_BL[:, begin:end], index_BL=index_BL)
        canvas = tiny.canvas(z_BL[:, begin:end], **part)
        cached = dataclasses.replace(kv, slots_BL=index_BL, start=begin)
        output = tiny.net(config, params)(tiny.under(canvas, mask, cached))
        kv = output.cache
        parts.append(output.prediction.logits_BLV)
    tiny.close(finite(np.concatenate(parts, 1)), finite(whole_BLV))


@pytest.mark.slow
def test_scan_and_remat_compute_the_same_function():
    batch = tiny.batch(tiny.tokens(2, L))

    def value_and_grad(**compute):
        config = tiny.model_config(layers=3, **compute)

        def nats(p):
            return (
                AR(vocab=tiny.VOCAB).loss(tiny.models(config, p), batch, None).nats_sum
            )

        return jax.jit(jax.value_and_grad(nats))(tiny.random_params(config))

    plain = value_and_grad()
    for compute in (dict(remat="dots"), dict(remat="block", unroll=3)):
        tiny.close(value_and_grad(**compute), plain)


@pytest.mark.slow
def test_bfloat16_is_near_float32_and_not_the_same():
    x = tiny.canvas(tiny.tokens(2, L))
    wide, narrow = (
        finite(logits(tiny.model_config(dtype=d), PARAMS, x))
        for d in ("float32", "bfloat16")
    )
    error = np.abs(wide - narrow).max() / np.abs(wide).max()
    assert 1e-4 < error < 3e-2 and narrow.dtype == np.float32


@pytest.mark.slow
def test_time_conditioning_starts_as_the_identity_and_is_then_heard():
    timed = tiny.model_config(time="adaln")
    model, x_BL = transformer.Transformer(timed), tiny.tokens(2, L)
    fresh = jax.jit(lambda: transformer.initialise(model, jax.random.key(0)))()
    untimed = jax.jit(
        lambda: transformer.initialise(
            transformer.Transformer(CONFIG), jax.random.key(0)
        )
    )()
    only = {k: v for k, v in jax.tree_util.tree_leaves_with_path(fresh)}
    shared = jax.tree_util.tree_map_with_path(lambda path, _: only[path], untimed)
    early, late = tiny.canvas(x_BL, t=0.1), tiny.canvas(x_BL, t=0.9)
    at_first = logits(timed, fresh, early)
    tiny.identical(at_first, logits(timed, fresh, late))
    tiny.close(finite(at_first), finite(logits(CONFIG, shared, early)))
    later = tiny.random_params(timed)
    assert (
        np.abs(
            finite(logits(timed, later, early)) - finite(logits(timed, later, late))
        ).max()
        > 1e-2
    )
    tiny.identical(logits(CONFIG, PARAMS, early), logits(CONFIG, PARAMS, late))


def test_special_ids_are_never_generated():
    probs_BLV = jax.nn.softmax(
        logits(CONFIG, PARAMS, tiny.canvas(tiny.tokens(2, L))), -1
    )
    assert (probs_BLV[..., list(tiny.VOCAB.never)] == 0).all() and (
        probs_BLV[..., : tiny.VOCAB.eos + 1] > 0
    ).all()


# ------------------------------------------------------------------- counts, names, shapes


def sizes(config, names):
    """The size of each letter in a parameter with this path."""
    a, e, t = config.attention, config.experts, config.attention.latent
    own = dict(
        D=config.width,
        H=a.heads,
        J=a.kv_heads,
        K=a.head_size,
        F=config.ffn.width,
        V=config.vocab.size,
        Q=t.q_rank,
        R=t.kv_rank,
    )
    own |= dict(W=config.TIME_WIDTH, A=config.TIME_FEATURES)
    if t.kv_rank:
        turned = dict(
            k_rope_DK=t.rope, k_up_RHK=t.nope, v_up_RHK=t.value, o_HKD=t.value
        )
        own |= dict(K=turned.get(names[-1], t.nope + t.rope))
    if "experts" in names:
        own |= dict(
            E=e.count,
            G=e.router.groups,
            X=e.count // e.router.groups,
            F=e.width * (e.shared if "shared" in names else 1),
        )
    return own


def shapes_fit(config):
    """Every parameter has the shape of its name.

    Returns the number of parameters, and of those that a token uses.
    """
    stacked, total, active = (
        {s.name: (s.count,) for s in config.stacks} | dict(ahead=(config.mtp_layers,)),
        0,
        0,
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tiny.shapes(config)):
        names = [key.key for key in path]
        letters, own = axes.suffix(names[-1]), sizes(config, names)
        assert leaf.shape == stacked.get(names[0], ()) + tuple(
            own[c] for c in letters
        ), path
        assert leaf.dtype == jnp.float32
        total += leaf.size
        active += (
            leaf.size * config.experts.per_token // config.experts.count
            if "E" in letters
            else leaf.size
        )
    return total, active


def test_counts_and_names_for_every_option_beside_every_other():
    for qk_norm, bias, kind, embeddings, time in (
        ("none", "qkv", "swiglu", "tied", "none"),
        ("none", "all", "relu2", "untied", "adaln"),
        ("rms", "none", "swiglu", "untied", "none"),
        ("rms", "all", "relu2", "tied", "adaln"),
    ):
        attention = dataclasses.replace(tiny.ATTENTION, qk_norm=qk_norm, bias=bias)
        heads = ("quality",) if time == "none" else ()
        config = tiny.model_config(
            attention=attention,
            ffn=FFN(kind, 12),
            embeddings=embeddings,
            time=time,
            heads=heads,
        )
        assert shapes_fit(config) == (config.parameters, config.parameters)
    moge = Experts(
        count=8,
        per_token=4,
        width=6,
        shared=2,
        first_dense=1,
        router=MoGE(groups=4, bias=0.1),
    )
    for rank, qk_norm, norm, ahead, experts in (
        (0, "none", "pre", 2, moge),
        (0, "rms", "sandwich", 0, Experts()),
        (5, "rms", "pre", 2, Experts()),
        (5, "none", "sandwich", 0, moge),
    ):
        latent = dataclasses.replace(LATENT.attention.latent, q_rank=rank)
        attention = dataclasses.replace(
            LATENT.attention, qk_norm=qk_norm, latent=latent
        )
        time = "adaln" if ahead else "none"
        config = tiny.model_config(
            layers=3,
            attention=attention,
            norm=Norm(norm),
            mtp_layers=ahead,
            experts=experts,
            time=time,
        )
        assert shapes_fit(config) == (config.parameters, config.active_parameters)


def shipped():
    """Every recipe of configs/ with every one of its sizes."""
    for file in sorted(Path("configs").glob("*.py")):
        sized = re.search(
            r"choices\(arg.*\bsize=\(([^)]*)\)", file.read_text(encoding="utf-8")
        )
        yield from (
            (f"{file}:size={size}" for size in re.findall(r'"(\w+)"', sized[1]))
            if sized
            else [str(file)]
        )


@pytest.mark.parametrize("target", list(shipped()))
def test_counts_and_names_of_every_shipped_config(target):
    config = build_run(load_recipe(target)).nn
    assert shapes_fit(config) == (config.parameters, config.active_parameters)


PUBLISHED = {
    "configs/pangu_pro.py": (153_376, "71.99", "16.50"),
    "configs/pangu_pro.py:objective=block": (153_376, "71.99", "16.50"),
    "configs/pangu_ultra.py:count=published": (153_600, "717.9", "39.2"),
    "configs/pangu_ultra.py": (153_600, "731.5", "41.1"),
}


@pytest.mark.parametrize("target", PUBLISHED)
def test_counts_are_the_published_ones(target):
    config, (vocabulary, *billions) = (
        build_run(load_recipe(target)).nn,
        PUBLISHED[target],
    )
    assert config.vocab.size == vocabulary
    counts = [
        f"{n / 1e9:.{len(want.split('.')[1])}f}"
        for n, want in zip(shapes_fit(config), billions, strict=True)
    ]
    assert counts == billions


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_experts_of_the_moge_recipe_take_the_flops_of_the_dense_layer_in_their_place(
    size,
):
    for objective in ("masked", "ar", "block"):
        moge = build_run(
            load_recipe(f"configs/moge.py:size={size},objective={objective}")
        )
        kind = dict(masked="Full", ar="Causal", block="Block")[objective]
        assert type(moge.objective.visibility).__name__ == kind
    dense = build_run(load_recipe(f"configs/masked.py:size={size}")).nn
    e, ffn = moge.nn.experts, dense.ffn.matmul(dense.width)
    taken = (e.per_token + e.shared) * FFN(dense.ffn.kind, e.width).matmul(
        dense.width
    ) + e.count * dense.width
    assert (
        0.99 <= taken / ffn <= 1
        and dense.matmul - moge.nn.matmul == dense.layers * (ffn - taken)
    )


def test_flops_are_six_per_matmul_parameter_and_the_square():
    config = tiny.model_config(
        attention=Attention(2, 1, 4), ffn=FFN("relu2", 12), layers=3
    )
    matrices = 3 * (8 * 4 * (2 + 2 + 1 + 1) + 2 * 8 * 12) + 20 * 8
    assert config.flops_per_token(16) == 6 * matrices + 3 * 12 * 2 * 4 * 16
    config = dataclasses.replace(
        config,
        mtp_layers=1,
        attention=Attention(
            2, latent=Latent(kv_rank=6, q_rank=5, nope=4, rope=2, value=3)
        ),
    )
    layer = 8 * 5 + 5 * 2 * 6 + 8 * (6 + 2) + 6 * 2 * (4 + 3) + 2 * 3 * 8 + 2 * 8 * 12
    assert (
        config.flops_per_token(16)
        == 6 * (4 * layer + 2 * 8 * 8 + 2 * 20 * 8) + 4 * 6 * 2 * (4 + 2 + 3) * 16
    )
