"""A row is sampled as if it were alone.

Neither longer nor shorter rows beside it change it, nor the rounding of floats in their batch.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Canvas, Dense, Layout, Output
from dlm.evals.exact import replayed
from dlm.nn import cache as kv_cache
from dlm.nn import transformer
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.full import Full
from dlm.samplers import generator, plan, positions
from dlm.samplers.plan import Cache, Sampler
from dlm.samplers.rules.base import StepView
from tests import tiny
from tests.laws.worlds import EACH_RULE

PROCESS = build_member("mask", "noise", tiny.VOCAB)
MASK = tiny.VOCAB.mask


def built(rule="ancestral", remask=None, kind="auto", **settings):
    remask = remask and build_member(remask, "samplers.remask")
    return Sampler(
        build_member(rule, "samplers.rules"), remask, cache=Cache(kind), **settings
    )


rng = np.random.default_rng(0)
PLACE_LV, TOKEN_VV, TIME_V = (
    jnp.asarray(2 * rng.normal(size=size), jnp.float32)
    for size in ((64, 16), (20, 16), (16,))
)


def mean_network(canvas):
    """A network that attends to its position, its time and the mean of the row or of its cache.

    Padding is excluded. What it stores in a cache depends on what was there before, so computing a
    position once more is detected.
    """
    said_BLV = TOKEN_VV[canvas.z_BL]
    cache = canvas.cache
    row_index_BL = canvas.layout.complete(canvas.z_BL.shape[1]).index_BL
    length = canvas.z_BL.shape[1] if cache is None else cache.k_NBMJK.shape[2]
    known = canvas if cache is None else cache
    real_BM = known.layout.segments_BL
    if real_BM is None:
        real_BM = jnp.ones((len(canvas.z_BL), length))

    def mean(known_BMV):
        return jnp.einsum(
            "bmv,bm->bv", known_BMV, real_BM / real_BM.sum(1, keepdims=True)
        )[:, None]

    if cache is not None:
        memory_BMJK = kv_cache.write(
            cache.k_NBMJK[0],
            (said_BLV + mean(cache.k_NBMJK[0, :, :, 0]))[:, :, None],
            kv_cache.slots_of(cache),
        )
        said_BLV, cache = (
            memory_BMJK[:, :, 0],
            kv_cache.Cache(memory_BMJK[None], cache.v_NBMJK),
        )
    mean_B1V = mean(said_BLV)
    logits_BLV = (
        PLACE_LV[row_index_BL % 64] + mean_B1V + canvas.t_BL[..., None] * TIME_V
    )
    return Output(
        Dense(jnp.pad(logits_BLV, ((0, 0), (0, 0), (0, 4)), constant_values=-jnp.inf)),
        cache=cache,
    )


def canvas(lengths, L, prompts):
    """Rows of these lengths, each after a prompt; the rest of a row is padding, segment 0."""
    lengths = np.array(lengths)[:, None]
    i_L = np.arange(L)
    z_BL = np.where(i_L < lengths, MASK, tiny.VOCAB.pad)
    for b, n in enumerate(prompts):
        z_BL[b, :n] = tiny.tokens(1, n, seed=n)[0]
    start = Canvas(
        jnp.asarray(z_BL, jnp.int32),
        jnp.ones(z_BL.shape),
        jnp.asarray(z_BL != MASK),
        Full(),
    )
    if lengths.min() == L:
        return start
    return replace(start, layout=Layout(jnp.asarray(i_L < lengths, jnp.int32)))


def draw(sampler, mask, start, index):
    rows, L = start.z_BL.shape
    start = tiny.under(start, mask)
    if plan.cache_kind(sampler, mask) != "none" and not sampler.driver.drafts:
        cache = kv_cache.empty(1, rows, L, ((1, 16), (1, 1)), jnp.float32)
        start = replace(start, cache=cache)
    run = jax.jit(
        partial(generator.generate, mean_network, sampler, PROCESS, stop=True)
    )
    key_B = keys.per_sample(jax.random.key(5), jnp.asarray(index))
    return jax.tree.map(np.asarray, run(start, key_B))


BLOCKS = Block(size=8)
CASES = dict(
    remasked=(built(block=8, steps=4, remask=dict(name="rescale", eta=0.6)), Full()),
    second=(
        built(
            "confident",
            block=4,
            steps=2,
            next_pass=built("correcting", block=8, steps=2, remask_fraction=0.5),
        ),
        Full(),
    ),
    sliding=(built("confident", block=16, steps=5, window="sliding"), Full()),
    exact=(built(block=8, steps=3), BLOCKS),
    dual=(built("maskgit", block=8, steps=3, kind="dual"), Full()),
    prefix=(built(block=4, steps=2, kind="prefix"), Full()),
    delayed=(built("confident", block=0, steps=6, kind="delayed"), Full()),
    speculative=(built(driver="speculative", block=16, steps=3), BLOCKS),
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_row_is_the_same_alone_beside_longer_rows_and_beside_shorter_ones(case):
    """14 tokens are no multiple of a block and fewer than the largest has; nor is the canvas."""
    alone = draw(*CASES[case], canvas([14] * 2, 14, [3, 3]), [7, 9])
    among = draw(*CASES[case], canvas([14, 29, 14, 5], 29, [3, 2, 3, 1]), [7, 1, 9, 2])
    for b, c in ((0, 0), (1, 2)):
        tiny.identical(among.canvas.z_BL[c, :14], alone.canvas.z_BL[b])
        np.testing.assert_allclose(
            among.log_prob_BL[c, :14], alone.log_prob_BL[b], atol=1e-5
        )


# -------------------------------------------------------------------------------------------- ties

FLAT_V = np.log(np.random.default_rng(1).dirichlet(np.ones(16)))


def rounded(B, R):
    """The same said at every place but for a few roundings, others in each row."""
    noise_BRV = 5e-7 * np.random.default_rng(2).normal(size=(B, R, 16))
    return Dense(
        jnp.asarray(
            np.pad(
                FLAT_V + noise_BRV, ((0, 0), (0, 0), (0, 4)), constant_values=-np.inf
            ),
            jnp.float32,
        )
    )


def test_rounding_orders_no_positions():
    """Scores of a tie rank from left to right, however many; those that differ by more do not."""
    for size in (0.5, -9.0):
        noise_BL = abs(size) * 1e-6 * np.random.default_rng(0).normal(size=(3, 1024))
        assert (
            positions.ranks(jnp.asarray(size + noise_BL, jnp.float32))
            == np.arange(1024)
        ).all()
    apart_L = jnp.asarray([0.3, -jnp.inf, 0.3001, 0.3 + 2e-6, -jnp.inf, 0.3 - 5e-6])
    assert positions.ranks(apart_L[None])[0].tolist() == [1, 4, 0, 2, 5, 3]
    assert positions.ranks(apart_L[None], tie=0.0)[0].tolist() == [2, 4, 0, 1, 5, 3]
    assert positions.ranks(jnp.asarray([[-30.0002, -30.0, -29.99]]))[0].tolist() == [
        1,
        2,
        0,
    ], "relative to their size"
    close_L = jnp.asarray(
        np.random.default_rng(0).permutation(1024) * 1e-6, jnp.float32
    )  # each within a tie of the next
    falls_L = jnp.diff(close_L[jnp.argsort(positions.ranks(close_L[None])[0])])
    assert float(falls_L.max()) < 1.1e-4, "a chain does not end the order"
    order_L = (
        jnp.array([2, 0, 1]) + 10**6
    )  # no score of a network: followed to the last digit
    seen = Canvas(
        jnp.full((1, 3), MASK),
        jnp.ones((1, 3)),
        jnp.zeros((1, 3), bool),
        Full(),
        Layout(block_BL=order_L[None]),
    )
    half_B = jnp.full(1, 0.5)
    view = StepView(
        seen, PROCESS, seen.z_BL == MASK, jnp.ones(1), half_B, jnp.zeros((1, 3))
    )
    rule = build_member(dict(name="ordered", order="given"), "samplers.rules")
    assert rule.choose(None, view).tolist() == [[False, True, True]]
    assert positions.reaches(jnp.asarray([0.89998, 0.899995, 0.9]), 0.9).tolist() == [
        False,
        True,
        True,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("config", EACH_RULE, ids=lambda r: r["name"])
def test_a_step_from_a_tie_is_the_same_for_every_rounding(config):
    """The rows differ only in their rounding: a blank canvas, and one that is half full.

    Thresholds are where all scores are.
    """
    B = 4
    R = 10
    rule, key_B = (
        build_member(config, "samplers.rules", tiny.VOCAB),
        keys.per_sample(jax.random.key(3), jnp.zeros(B, jnp.int32)),
    )
    bars = {
        name: float(np.exp(FLAT_V).max())
        for name in ("above", "edit")
        if hasattr(rule, name)
    }
    rule, output = (
        replace(rule, **bars),
        Output(rounded(B, R), heads=dict(quality=jnp.zeros((B, R)))),
    )
    for stands_R in (np.zeros(R, bool), np.arange(R) % 2 > 0):
        seen = Canvas(
            jnp.broadcast_to(jnp.where(stands_R, 3, MASK), (B, R)),
            jnp.ones((B, R)),
            jnp.zeros((B, R), bool),
            Full(),
        )
        seen = replace(seen, layout=seen.layout.complete(R))
        t_B = jnp.ones(B)
        anywhere_BR = jnp.ones((B, R), bool)
        view = StepView(seen, PROCESS, anywhere_BR, t_B, t_B * 0.6, jnp.zeros((B, R)))
        z_BR, _ = rule.step(key_B, output, view, rule.init(seen))
        assert (z_BR == z_BR[0]).all()


@pytest.mark.slow
def test_texts_without_a_prompt_depend_neither_on_their_batch_nor_on_a_cache():
    """The first step of each block is a tie, since this network has rotary positions only.

    So is that of a likelihood.
    """
    config = tiny.model_config()
    rule = dict(name="confident", confidence="margin")
    net, model = (
        tiny.net(config, tiny.random_params(config, scale=0.4)),
        transformer.Transformer(config),
    )

    def drawn(rows, cached):
        z_BL = jnp.full((rows, 16), MASK, jnp.int32)
        start = Canvas(z_BL, jnp.ones(z_BL.shape), z_BL < 0, BLOCKS)
        if cached:
            start = replace(start, cache=transformer.empty_cache(model, rows, 16))
        run = partial(generator.generate, net, built(rule, block=8, steps=4), PROCESS)
        return jax.jit(run)(start, keys.per_sample(keys.root(0), jnp.arange(rows)))

    def nats_BL(rows):
        sampler = built(dict(name="threshold", above=0.6), steps=8)

        def run(batch):
            return replayed(net, sampler, PROCESS, Full(), batch, keys.root(0))[0]

        return jax.jit(run)(tiny.batch(tiny.tokens(32, 16)[:rows]))

    many = drawn(32, cached=False)
    few = drawn(7, cached=True)
    tiny.identical(few.canvas.z_BL, many.canvas.z_BL[:7])
    np.testing.assert_allclose(few.log_prob_BL, many.log_prob_BL[:7], atol=1e-4)
    np.testing.assert_allclose(nats_BL(1), nats_BL(32)[:1], atol=1e-4)
