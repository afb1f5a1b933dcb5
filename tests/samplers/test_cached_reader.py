"""Caches: exact ones never change a sample, the others compute less and fill the canvas.

With every pass whole an approximate cache changes nothing either.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Canvas, Layout
from dlm.nn import transformer
from dlm.nn.config import Attention, Latent
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers import generator
from dlm.samplers.cached_reader import Reader
from dlm.samplers.plan import Cache, Sampler
from tests import tiny

pytestmark = pytest.mark.slow
B = 3
L = 40
TIMED = tiny.model_config(time="adaln")
PARAMS = tiny.random_params(TIMED, scale=0.4)
LATENT = tiny.model_config(
    attention=Attention(heads=4, latent=Latent(kv_rank=6, nope=4, rope=2, value=3))
)
PROCESS = build_member("mask", "noise", tiny.VOCAB)
KEY_B = keys.per_sample(jax.random.key(3), jnp.arange(B))
SEGMENTS_BL = np.arange(L) < np.array([[L], [L - 3], [L]])


def canvas(prompts=(5, 2, 9)):
    """Rows with prompts of different lengths, one of them padded."""
    z_BL = np.where(SEGMENTS_BL, tiny.VOCAB.mask, tiny.VOCAB.pad)
    frozen_BL = z_BL == tiny.VOCAB.pad
    for b, n in enumerate(prompts):
        z_BL[b, :n], frozen_BL[b, :n] = tiny.tokens(1, n, seed=b)[0] % 16, True
    return Canvas(
        jnp.asarray(z_BL, jnp.int32),
        jnp.ones((B, L)),
        jnp.asarray(frozen_BL),
        Full(),
        Layout(jnp.asarray(SEGMENTS_BL, jnp.int32)),
    )


def drawing(sampler, mask=Full(), prefill=0, config=TIMED, widths=None):
    """Returns the function that samples; `widths` collects the positions of each pass."""
    widths = [] if widths is None else widths
    net = tiny.net(
        config, PARAMS if config == TIMED else tiny.random_params(config, scale=0.4)
    )

    def counted(seen):
        widths.append(seen.z_BL.shape[1])
        return net(seen)

    def generate(start, key_B):
        rows = 2 * B if sampler.guidance else B
        start = tiny.under(start, mask)
        if sampler.cache.kind != "none":
            cache = transformer.empty_cache(transformer.Transformer(config), rows, L)
            start = replace(start, cache=cache)
        return generator.generate(
            counted,
            sampler,
            PROCESS,
            start,
            key_B,
            prefill=prefill,
            trace=True,
        )

    return generate


@cache
def compiled(sampler, mask=Full(), prefill=0, config=TIMED):
    """The program that draws, and the list of the widths of its passes."""
    widths = []
    return jax.jit(drawing(sampler, mask, prefill, config, widths)), widths


@cache
def run(sampler, mask=Full(), prefill=0, prompts=(5, 2, 9), config=TIMED):
    """(Sampled, how many positions each compiled pass reads)."""
    generate, widths = compiled(sampler, mask, prefill, config)
    return jax.tree.map(np.asarray, generate(canvas(prompts), KEY_B)), widths


def sampler(kind="none", refresh=0, rule="ancestral", **settings):
    options = dict(steps=3, block=8) | settings
    return Sampler(
        rule=build_member(rule, "samplers.rules"), cache=Cache(kind, refresh), **options
    )


def same(one, other):
    tiny.identical(one.canvas.z_BL, other.canvas.z_BL)
    tiny.close(one.log_prob_BL, other.log_prob_BL, 1e-5)  # of the largest, in nats


@pytest.mark.parametrize("kind", ["prefix", "dual", "delayed"])
@pytest.mark.parametrize(
    "settings", [dict(block=8), dict(block=0), dict(block=12)], ids=str
)
def test_with_every_pass_whole_nothing_changes(kind, settings):
    """Prompts of several lengths, padding, and blocks that do not divide the canvas."""
    plain, _ = run(sampler(**settings))
    cached, widths = run(sampler(kind, 1, **settings))
    same(cached, plain)
    assert set(widths) == {L}
    assert cached.nfe == plain.nfe
    assert (plain.canvas.z_BL != tiny.VOCAB.mask).all()


@pytest.mark.parametrize("size", [1, 12])
def test_the_exact_cache_of_a_block_model_changes_nothing(size):
    mask = Block(size=size)
    settings = dict(block=size, steps=1 if size == 1 else 3)
    plain, _ = run(sampler(**settings), mask)
    cached, widths = run(sampler("exact", **settings), mask)
    same(cached, plain)
    assert set(widths) == {min(2 * size, L), size}, (
        "a block is read with the one before it, then alone"
    )
    prompts = (30, 26, 33)
    far, _ = run(sampler(**settings), mask, prompts=prompts)
    prefilled, _ = run(sampler("exact", **settings), mask, prefill=24, prompts=prompts)
    same(prefilled, far)


@pytest.mark.parametrize(
    "kind, mask", [("dual", Full()), ("delayed", Full()), ("exact", Block(size=8))]
)
def test_a_cache_of_latents_is_a_cache(kind, mask):
    """Whole passes, or exact ones, change nothing; parts that are old leave no mask."""
    plain, _ = run(sampler(), mask, config=LATENT)
    cached, _ = run(sampler(kind, int(kind != "exact")), mask, config=LATENT)
    same(cached, plain)
    if kind == "dual":
        seldom, widths = run(sampler(kind), mask, config=LATENT)
        assert (seldom.canvas.z_BL != tiny.VOCAB.mask).all()
        assert min(widths) < L


def test_what_stands_before_a_row_is_read_once_with_a_cache_and_always_without():
    mask = Causal()
    settings = dict(block=1, steps=1)
    start = canvas((33, 34, 36))
    opened = replace(start, before_B=jnp.array([1, 2, 3]))
    plain = jax.tree.map(
        np.asarray, compiled(sampler(**settings), mask)[0](opened, KEY_B)
    )
    same(compiled(sampler("exact", **settings), mask, 32)[0](opened, KEY_B), plain)


def first(sampled):
    """The canvas after its first pass."""
    return sampled.trace[0][0]


SURE = dict(rule=dict(name="confident", confidence="top"), steps=8)


@pytest.mark.parametrize("kind, least", [("prefix", 16), ("dual", 8), ("delayed", 8)])
def test_passes_of_an_approximate_cache_read_less(kind, least):
    plain, _ = run(sampler(**SURE))
    cached, widths = run(sampler(kind, **SURE))
    often, _ = run(sampler(kind, 2, **SURE))
    assert max(widths) == L
    assert min(widths) == least
    assert cached.nfe == often.nfe == plain.nfe
    for c in (cached, often):
        tiny.identical(first(c), first(plain))
        assert (c.canvas.z_BL != tiny.VOCAB.mask).all()
    assert (cached.canvas.z_BL != plain.canvas.z_BL).any(), "an approximation"
    assert np.abs(often.log_prob_BL - plain.log_prob_BL).mean() > 0


def test_a_delayed_cache_reads_what_is_masked_and_what_was_just_revealed():
    settings = dict(block=0, steps=40, rule="ordered", temperature=0.0)
    plain, _ = run(sampler(**settings))
    cached, widths = run(sampler("delayed", **settings))
    assert (
        sorted(set(widths)) == Reader(None, Full(), "delayed", L, 0).widths() == [20, L]
    )
    tiny.identical(first(cached), first(plain))
    assert (cached.canvas.z_BL != tiny.VOCAB.mask).all()


def test_windows_that_slide_may_keep_the_rest():
    settings = dict(
        window="sliding", block=8, rule=dict(name="threshold", above=0.3), steps=8
    )
    plain, _ = run(sampler(**settings))
    whole, _ = run(sampler("dual", 1, **settings))
    same(whole, plain)
    cached, widths = run(sampler("dual", 3, **settings))
    assert (cached.canvas.z_BL != tiny.VOCAB.mask).all()
    assert set(widths) == {L, 8}


@pytest.mark.parametrize("kind", ["dual", "delayed"])
def test_guidance_keeps_a_cache_of_both_readings(kind):
    plain, _ = run(sampler(guidance=0.7))
    cached, _ = run(sampler(kind, 1, guidance=0.7))
    same(cached, plain)


@pytest.mark.parametrize(
    "kind, refresh", [("none", 0), ("prefix", 0), ("dual", 2), ("delayed", 2)]
)
def test_a_row_does_not_depend_on_its_batch(kind, refresh):
    """Other prompts and other random numbers in the rows beside it."""
    generate, _ = compiled(sampler(kind, refresh, **SURE))
    one = generate(canvas(), KEY_B)
    other = generate(canvas((17, 2, 3)), KEY_B[::-1])
    tiny.identical(other.canvas.z_BL[1], one.canvas.z_BL[1])
    tiny.close(other.log_prob_BL[1], one.log_prob_BL[1])
    assert (other.canvas.z_BL[2] != one.canvas.z_BL[2]).any()


def test_nothing_compiles_anew_for_other_prompts():
    generate, widths = compiled(sampler("dual"))
    for prompts in ((5, 2, 9), (1, 17, 30)):
        done = generate(canvas(prompts), KEY_B)
        assert (done.canvas.z_BL != tiny.VOCAB.mask).all()
    assert widths == [L, 8], "one whole pass and one of a block"
