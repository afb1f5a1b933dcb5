"""The likelihood under the sampler.

It sums to 1 over all texts, is the law of what is drawn, and needs picks without chance.
"""

import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.evals.exact import deterministic, replayed
from dlm.nn.visibility.full import Full
from dlm.oracle.enumeration import exact_bound, total_variation
from dlm.samplers.plan import Sampler
from tests.laws import worlds as w
from tests.laws.test_samplers import _checked

pytestmark = pytest.mark.slow
NOISE = w.process(dict(name="mask"))
RULES = [
    r
    for r in w.RULES
    if build_member(r, "samplers.rules", w.VOCAB).order_randomness is None
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=w.title)


@cache
def _replay(sampler, mask):
    return jax.jit(
        lambda batch: replayed(w.tables, sampler, NOISE, mask, batch, jax.random.key(0))
    )


def law(rule, table, mask=Full(), order=None, **settings):
    """(p_X of every sequence under the sampler, passes)."""
    replay = _replay(
        Sampler(rule=build_member(rule, "samplers.rules", w.VOCAB), **settings), mask
    )
    layout = w.for_table(table, len(w.X_XL))
    if order is not None:
        layout = dataclasses.replace(
            layout, block_BL=np.broadcast_to(order, w.X_XL.shape)
        )
    nats_BL, passes = replay(w.batch_of(w.X_XL, layout))
    return np.exp(-np.asarray(nats_BL, np.float64).sum(1)), int(passes)


def _it_is_a_law(rule, **settings):
    for table in (0, 3):
        p_X, passes = law(rule, table, **settings)
        assert abs(p_X.sum() - 1) < 1e-5 and passes <= settings["steps"] * (
            1 + (settings.get("block", 3) < 3)
        )
        near = np.abs(p_X - w.law(w.WORLDS[0])).max() < 1e-6
        assert near == (table == 0 and settings != dict(steps=2))


@every_rule
def test_it_is_a_law_and_with_the_oracle_position_by_position_it_is_p(rule):
    for steps in (2, 3):
        _it_is_a_law(rule, steps=steps)


@pytest.mark.parametrize(
    "rule", list({r["name"]: r for r in RULES}.values()), ids=w.title
)
def test_it_is_a_law_block_by_block(rule):
    _it_is_a_law(rule, steps=2, block=2)


@every_rule
def test_it_is_the_law_of_what_is_drawn(rule):
    drawn_X = w.counts(_checked(rule, steps=2))
    p_X, _ = law(rule, 1, steps=2)
    assert w.chi_square(drawn_X, p_X) > 1e-4
    far = (
        total_variation(p_X, w.law(w.WORLDS[1])) > 0.02
    )  # a pair of positions may be all but independent
    assert far or rule.get("order") == "shuffled"
    assert not far or w.chi_square(drawn_X, w.law(w.WORLDS[1])) < 1e-4, (
        "two steps are seen to differ from p, else this test sees nothing"
    )


def test_the_sampler_s_temperature_is_scored_and_does_not_move_the_order():
    rule = dict(name="confident", confidence="top")
    cold_X, _ = law(rule, 3, steps=3, temperature=0.5)
    cut_X, _ = law(rule, 3, steps=3, top_p=0.6)
    plain_X, _ = law(rule, 3, steps=3)
    assert (
        abs(cold_X.sum() - 1) < 1e-5
        and abs(cut_X.sum() - 1) < 1e-5
        and (cut_X == 0).any()
    )
    assert cold_X.max() > plain_X.max() and np.argmax(cold_X) == np.argmax(plain_X)


def test_a_given_order_is_followed():
    rule = dict(name="ordered", order="given")
    with pytest.raises(UserError, match="needs an order"):
        law(rule, 3, steps=3)
    p_X, _ = law(rule, 3, order=[0, 1, 2], steps=3)
    np.testing.assert_allclose(p_X, law(dict(name="ordered"), 3, steps=3)[0], rtol=1e-5)


def test_the_mean_over_orders_lies_on_the_bound():
    """For a network that knows what it sees and nothing else, the bound is the mean of the exact
    costs of all orders.
    """
    orders, rule = (
        w.objective(dict(name="any_order")).support(w.VOCAB, w.L),
        dict(name="ordered", order="given"),
    )
    costs = [-np.log(law(rule, 3, order=order, steps=3)[0]) for order in orders]
    bound_X = exact_bound(
        w.objective(dict(name="masked")),
        w.tables,
        w.X_XL,
        w.VOCAB,
        w.for_table(3, len(w.X_XL)),
    )
    np.testing.assert_allclose(np.mean(costs, 0), bound_X, rtol=1e-5)
    likelihoods = exact_bound(
        w.objective(dict(name="any_order")),
        w.tables,
        w.X_XL,
        w.VOCAB,
        w.for_table(3, len(w.X_XL)),
    )
    np.testing.assert_allclose(likelihoods, bound_X, rtol=1e-5)


def test_a_block_model_is_replayed_block_by_block():
    """Blocks of one are read from left to right, whatever the rule says inside a block."""
    objective = w.objective(dict(name="block", size=1, pattern="count"))
    p_X, passes = law(
        dict(name="confident", confidence="top"),
        3,
        mask=objective.visibility,
        block=1,
        steps=1,
    )
    bound_X = exact_bound(
        objective, w.tables, w.X_XL, w.VOCAB, w.for_table(3, len(w.X_XL))
    )
    np.testing.assert_allclose(-np.log(p_X), bound_X, rtol=1e-5)
    assert passes == w.L


@pytest.mark.parametrize(
    "rule, why",
    [("ancestral", "at random"), ("confident", "by the tokens that it draws")],
)
def test_picks_that_hang_on_chance_are_refused_by_name(rule, why):
    with pytest.raises(UserError, match=f"samplers.rules.{rule} .*{why}"):
        deterministic(
            Sampler(rule=build_member(rule, "samplers.rules")),
            w.objective(dict(name="masked")),
        )
    with pytest.raises(UserError, match="leaves none"):
        deterministic(
            Sampler(rule=build_member("ordered", "samplers.rules")),
            w.objective(dict(name="hybrid")),
        )
