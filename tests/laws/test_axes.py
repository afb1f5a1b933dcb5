"""Times, patterns, couplings and weights are axes of their own: what is built has the bound's mean or is a heuristic, else refused."""

import dataclasses
import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.oracle.exact import exact_bound
from dlm.run.spec import UserError
from tests.laws import worlds as w

STEMS = w.listed("objectives")


def combinations(stem):
    """Every way to set the fields of a member that are choices, with noise of each kind."""
    cls = type(w.objective(dict(name=stem)))
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    choices = {name: typing.get_args(h) for name, h in fields.items() if typing.get_origin(h) is typing.Literal}
    noises = [dict(name="mask"), dict(name="mask", schedule="cosine"), dict(name="uniform"), dict(name="hybrid")]
    choices |= {"process": noises} if "process" in fields else {}
    for values in itertools.product(*choices.values()):
        yield dict(name=stem) | dict(zip(choices, values, strict=True))


@pytest.mark.parametrize("stem", STEMS)
def test_each_combination_is_built_or_refused_by_name(stem):
    built = refused = 0
    for config in combinations(stem):
        try:
            objective = w.objective(config)
        except UserError as error:
            refused += 1
            named = [k for k, v in config.items() if k != "name" and (f"{k}=" in str(error) or f"{k}.name=" in str(error))]
            assert named, f"{error} does not name what is wrong with {config}"
        else:
            built += 1
            assert objective.trains in (objective.claims, "heuristic")
            if config.get("weights", "bound") != "bound":
                assert objective.trains == "heuristic"
    assert built and (refused or stem not in ("masked", "block", "hybrid"))


SEEDS = 400
ESTIMATES = [
    dict(name="masked", times=times, pattern=pattern, coupling=coupling)
    for times, pattern, coupling in itertools.product(("stratified", "importance"), ("bernoulli", "count"), ("single", "complementary"))
]
ESTIMATES += [
    dict(name="block", size=2, pattern="count", coupling="complementary"),
    dict(name="hybrid", times="importance"),
    dict(name="partition", times="antithetic"),
]


STEP = 0.05
FINITE = np.isfinite(w.TABLES[3])
DIRECTION = np.where(FINITE, np.random.default_rng(5).normal(size=FINITE.shape), 0.0).astype(np.float32)
NEAR = w.table_denoise(np.stack([np.where(FINITE, w.TABLES[3] + s * DIRECTION, -np.inf) for s in (0, STEP, -STEP)]).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("config", ESTIMATES, ids=w.title)
def test_what_is_called_an_estimate_has_the_mean_of_the_bound_and_its_gradient(config):
    """Along a random direction of the network's logits, by differences of the enumerated bound. Also with times drawn where costs were
    large: importance is given a lopsided memory."""
    objective, x_XL = w.objective(config), w.X_XL[1::2]
    n, fields = len(x_XL), {"table_BL": np.repeat(np.arange(3, dtype=np.int32), len(x_XL))[:, None] + np.zeros((1, w.L), np.int32)}
    want, above, below = exact_bound(objective, NEAR, np.tile(x_XL, (3, 1)), w.VOCAB, fields).reshape(3, n).sum(1)
    memory = {"cost_BT": np.tile(np.linspace(3, 0.1, 32) ** 4, (n, 1)).astype(np.float32)}
    batch = w.batch_of(x_XL, memory)

    def loss(s, key):
        table_ZLV = jnp.where(FINITE, jnp.where(FINITE, w.TABLES[3], 0.0) + s * DIRECTION, -jnp.inf)
        return objective.loss(w.table_denoise(table_ZLV[None]), batch, key).nats_sum

    both = jax.jit(lambda keys: jax.lax.map(lambda key: jax.jvp(lambda s: loss(s, key), (0.0,), (1.0,)), keys))
    for found_S, wanted in zip(both(jax.random.split(jax.random.key(1), SEEDS)), (want, (above - below) / (2 * STEP)), strict=True):
        found_S = np.asarray(found_S, np.float64)
        assert abs(found_S.mean() - wanted) < 4 * found_S.std(ddof=1) / SEEDS**0.5


def test_a_complement_of_a_count_masks_the_rest_and_never_nothing():
    objective = w.objective(dict(name="masked", pattern="count", coupling="complementary"))
    batch = w.batch_of(np.tile(w.X_XL, (4, 1)))
    (one_BL, *_), (other_BL, *_) = objective.views(batch, jax.random.key(0))
    one_BL, other_BL = np.asarray(one_BL) == w.VOCAB.mask, np.asarray(other_BL) == w.VOCAB.mask
    whole_B = one_BL.all(1)
    assert (other_BL[whole_B]).all() and ((one_BL ^ other_BL)[~whole_B]).all() and 0.2 < whole_B.mean() < 0.5
    assert (np.bincount(one_BL.sum(1), minlength=4) > 0)[1:].all() and one_BL.any(1).all()
