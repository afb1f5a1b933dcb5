"""Self-speculation: the text (at temperature 0) or the law of one position after the other.

It takes fewer passes, and works in any order.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.nn import transformer
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.full import Full
from dlm.samplers import drafts, generator, plan
from dlm.samplers.plan import Cache, Sampler
from tests import tiny
from tests.laws import worlds as w
from tests.samplers.test_cached_reader import (
    KEY_B,
    PARAMS,
    PROCESS,
    SEGMENTS_BL,
    TIMED,
    B,
    L,
    canvas,
)

pytestmark = pytest.mark.slow


def speculating(order="left_to_right", **settings):
    options = dict(block=5, steps=2) | settings
    driver = build_member(dict(name="speculative", order=order), "samplers.drivers")
    return Sampler(driver=driver, **options)


def drawing(sampler, mask, cached):
    def go(start, key_B):
        start = tiny.under(start, mask)
        if cached:
            cache = transformer.empty_cache(transformer.Transformer(TIMED), B, L)
            start = replace(start, cache=cache)
        return generator.generate(
            tiny.net(TIMED, PARAMS),
            sampler,
            PROCESS,
            start,
            key_B,
            trace=True,
        )

    return go


@cache
def run(sampler, mask=Block(size=4), cached=True, prompts=(5, 2, 9)):
    return jax.tree.map(
        np.asarray, jax.jit(drawing(sampler, mask, cached))(canvas(prompts), KEY_B)
    )


def one_by_one(context="block", temperature=0.0):
    ancestral = Sampler(
        build_member("ancestral", "samplers.rules"),
        steps=1,
        block=1,
        temperature=temperature,
        cache=Cache("none"),
    )
    return run(ancestral, Block(size=1, context=context), cached=False)


@pytest.mark.parametrize(
    "context, cached, settings",
    [
        ("block", False, dict()),
        ("block", True, dict(block=8, steps=4)),
        ("block", True, dict(block=1, steps=1)),
        ("causal", False, dict(steps=1)),
        ("causal", True, dict()),
    ],
    ids=str,
)
def test_at_temperature_0_it_is_the_text_of_one_position_after_the_other(
    context, cached, settings
):
    plain = one_by_one(context)
    quick = run(
        speculating(temperature=0.0, **settings), Block(size=4, context=context), cached
    )
    tiny.identical(quick.canvas.z_BL, plain.canvas.z_BL)
    np.testing.assert_allclose(quick.log_prob_BL, plain.log_prob_BL, atol=1e-4)
    assert (quick.canvas.z_BL[~SEGMENTS_BL] == tiny.VOCAB.pad).all()


def test_the_cache_changes_no_draw_and_each_round_settles_a_token_at_least():
    plain, cached = (run(speculating(), cached=c) for c in (False, True))
    tiny.identical(plain.canvas.z_BL, cached.canvas.z_BL)
    np.testing.assert_allclose(plain.log_prob_BL, cached.log_prob_BL, atol=1e-4)
    rounds = int(cached.trace[3])
    assert int(cached.nfe) == 3 * rounds + 1
    assert int(plain.nfe) == 3 * rounds
    assert L - 2 > rounds >= (L - 2) / 5
    left_RB = (cached.trace[0][:rounds] == tiny.VOCAB.mask).sum(-1)
    assert ((np.diff(left_RB, axis=0) < 0) | (left_RB[1:] == 0)).all()


N = 20_000


def drawn(table, sampler, mask, order=None):
    z_BL = jnp.full((N, w.L), w.VOCAB.mask, jnp.int32)
    start = Canvas(
        z_BL,
        jnp.ones(z_BL.shape),
        z_BL < 0,
        mask,
        replace(w.for_table(table, N), block_BL=order),
    )
    go = jax.jit(
        lambda start, key_B: generator.generate(
            w.tables, sampler, w.process(dict(name="mask")), start, key_B
        )
    )
    done = go(start, keys.per_sample(keys.root(0), jnp.arange(N)))
    return w.counts(done.canvas.z_BL), int(done.nfe)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_its_law_is_that_of_the_oracle(steps):
    drawn_X, _ = drawn(1, speculating(block=3, steps=steps), Block(size=3))
    assert w.chi_square(drawn_X, w.law(w.WORLDS[1])) > 1e-4


@pytest.mark.parametrize("order", ["left_to_right", "shuffled", "given"])
def test_its_law_is_that_of_the_verifier_whatever_the_draft(order):
    """Random tables, whose drafts and verdicts are unrelated.

    In an order the law is that of the order.
    """
    from tests.laws.test_exact import law

    rank_BL = (
        jnp.broadcast_to(jnp.array([2, 0, 1]), (N, w.L)) if order == "given" else None
    )
    drawn_X, _ = drawn(
        3, speculating(order, block=3, steps=1), Block(size=1, any_order=True), rank_BL
    )
    orders = [
        law(dict(name="ordered", order=o), 3, steps=3)[0]
        for o in ("left_to_right", "right_to_left")
    ]
    fits = [w.chi_square(drawn_X, p_X) > 1e-4 for p_X in orders]
    assert fits[0] == (order == "left_to_right")
    assert not fits[1]
    if order == "given":
        assert w.chi_square(drawn_X, in_order([1, 2, 0])) > 1e-4


def in_order(order):
    """Π_k p(x_σ(k) | x_σ(<k)) under table 3, by looking every conditional up."""
    p_X = np.ones(len(w.X_XL))
    z_XL = np.full_like(w.X_XL, w.VOCAB.mask)
    for i in order:
        state_X = (z_XL * (w.V + 1) ** np.arange(w.L - 1, -1, -1)).sum(1)
        p_XV = np.exp(
            np.asarray(jax.nn.log_softmax(w.TABLES[3][state_X, i]), np.float64)
        )
        p_X *= p_XV[np.arange(len(p_X)), w.X_XL[:, i]]
        z_XL[:, i] = w.X_XL[:, i]
    return p_X


def test_what_is_settled_has_the_verifier_s_law_over_200_tokens():
    """More than two buckets of a draw.

    A random number that is used twice, for the verdict and for a substitute, is detected.
    """
    rng = np.random.default_rng(0)
    n = 50_000
    p_V, q_V = rng.dirichlet(np.full(200, 0.5), 2).astype(np.float32)

    @jax.jit
    def settled(key_N):
        draft_N = jax.vmap(lambda k: keys.key(k, "draft"))(key_N)
        p_NSV, q_NSV = (
            jnp.broadcast_to(jnp.asarray(law), (n, 1, 200)) for law in (p_V, q_V)
        )
        drafted_NS = keys.categorical(draft_N, jnp.log(q_NSV))
        return drafts.accepted(key_N, p_NSV, q_NSV, drafted_NS, drafted_NS >= 0)

    token_NS, count_N = settled(keys.per_sample(keys.root(0), jnp.arange(n)))
    assert (
        w.chi_square(np.bincount(np.asarray(token_NS)[:, 0], minlength=200), p_V) > 1e-4
    )
    assert (count_N == 1).all()


def test_a_draft_that_is_always_kept_is_seen():
    """The mistake that the laws above would miss if drafts were as good as verdicts."""

    def all_accepted(key_B, p_BSV, q_BSV, drafted_BS, valid_BS):
        return drafted_BS, valid_BS.sum(1)

    honest = drafts.accepted
    try:
        drafts.accepted = all_accepted
        drawn_X, nfe = drawn(1, speculating(block=3, steps=1), Block(size=3))
    finally:
        drafts.accepted = honest
    assert nfe == 2
    assert w.chi_square(drawn_X, w.law(w.WORLDS[1])) < 1e-4


def test_what_cannot_be_verified_is_refused_by_name():
    def refused(words, mask, **settings):
        with pytest.raises(UserError, match=words):
            plan.resolve(speculating(**settings), PROCESS, mask)

    refused("needs a model that can verify with blocks of one", Full())
    refused("trained on any order", Block(size=4), order="shuffled")
    refused("is the length of a draft", Block(size=4), block=2, steps=3)
    refused(
        "compatible with neither",
        Block(size=4),
        next_pass=Sampler(build_member("ancestral", "samplers.rules")),
    )
    assert (
        plan.resolve(
            speculating("shuffled"), PROCESS, Block(size=1, any_order=True)
        ).block
        == 5
    )
