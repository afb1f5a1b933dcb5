"""A model with experts on every mesh: updates, scores and samples equal those of one device.

Arrays are divided by their axis letters.
"""

import copy

import jax
import numpy as np
import pytest

from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.evals.bound import HeldOut
from dlm.runs import checkpoint
from tests import tiny

pytestmark = pytest.mark.slow
EXPERTS = dict(
    count=8,
    per_token=4,
    width=8,
    shared=1,
    router=dict(name="moge", groups=4, bias=0.01, z=0.01, balance=dict(weight=0.1)),
)
OBJECTIVES = dict(
    masked=dict(objective="masked", sampler=dict(steps=2), optim__microbatches=2),
    ar=dict(objective="ar", sampler=dict(steps=1, block=1)),
    block=dict(
        objective=dict(name="block", size=8),
        sampler=dict(steps=2),
        nn__norm=dict(kind="sandwich"),
    ),
)
MADE = {}


def experiment(corpus, name, **changes):
    shared = dict(nn__experts=copy.deepcopy(EXPERTS), optim__lr=1e-3, optim__ema=0.5)
    run = build_run(tiny.recipe(corpus, **shared | OBJECTIVES[name] | changes))
    return Experiment(run, run.text.fit(()))


def lived(corpus, name, mesh):
    """(state and sums after two updates, bits per byte, ids of samples) on a mesh."""
    key = name, str(mesh)
    if key not in MADE:
        trained = experiment(corpus, name, mesh=mesh)
        state, batches = trained.new_state(), trained.batches(0)
        for _ in range(2):
            state, sums = trained.update(state, next(batches))
        subject = RunContext(trained, state.averaged, trained.run.data.source)
        (_, bits, _), _ = HeldOut(samples=2, windows=8).run(subject, 2)
        replies = subject.generate([("ab", 6), (5,), ("abc", 5), (8,)], temperature=0.0)
        MADE[key] = (
            trained,
            jax.device_get((state, sums)),
            bits,
            [r.ids.tolist() for r in replies],
            state,
        )
    return MADE[key]


@pytest.mark.parametrize(
    "name, mesh",
    [
        ("masked", dict(data=1, expert=4)),
        ("ar", dict(data=2, expert=2)),
        ("block", dict(data=1, tensor=2, fsdp=2)),
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(name, mesh, corpus):
    _, (state, sums), bits, ids, _ = lived(corpus, name, dict(data=1))
    _, (there, their_sums), bits_there, ids_there, _ = lived(corpus, name, mesh)
    tiny.close(their_sums, sums)
    tiny.close((there.params, there.ema), (state.params, state.ema))
    assert bits_there == pytest.approx(bits, rel=1e-5) and ids_there == ids
    metrics = their_sums["metrics"]
    assert (
        metrics["router_imbalance"].value_sum < 1e-6
        and metrics["router_busiest"].value_sum > 1
    )


def test_experts_lie_by_groups_with_their_moments_and_averages(corpus):
    trained, *_, state = lived(corpus, "masked", dict(data=1, expert=4))
    for tree in (state.params, state.ema, state.moments):
        inward = [
            x
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
            if "up_EDF" in str(path)
        ]
        assert inward and all(
            {s.data.shape[1] for s in up_NEDF.addressable_shards} == {2}
            for up_NEDF in inward
        )
    memory = jax.eval_shape(lambda: trained.empty_cache(4, 8))
    lies = jax.jit(lambda: trained.empty_cache(4, 8))().k_NBMJK.sharding.shard_shape(
        memory.k_NBMJK.shape
    )
    assert lies == (2, 1, 8, 1, 8)


def test_a_checkpoint_moves_between_meshes(corpus, tmp_path):
    *_, state = lived(corpus, "masked", dict(data=1, expert=4))
    store = checkpoint.Store(tmp_path)
    store.save(2, state)
    store.close()
    there = experiment(
        corpus, "masked", mesh=dict(data=1, fsdp=2, expert=2)
    ).abstract_state()
    other = checkpoint.Store(tmp_path)
    restored = other.restore(there, 2)
    other.close()
    tiny.identical(
        jax.device_get(jax.tree.leaves(restored)),
        jax.device_get(jax.tree.leaves(state)),
    )
    up_NEDF = restored.params["layers"]["experts"]["up_EDF"]
    assert up_NEDF.sharding.shard_shape(up_NEDF.shape) == (2, 4, 8, 8)


def test_the_bias_is_moved_by_the_load_alone(corpus):
    """Each entry by ± its rate in every update, wherever the optimizer goes."""
    _, (state, _), *_ = lived(corpus, "masked", dict(data=1))
    bias = np.asarray(state.params["layers"]["experts"]["bias_GX"])
    assert (
        set(np.round(np.abs(bias), 6).ravel())
        <= {0.0, np.float32(0.01), np.float32(0.02)}
        and bias.any()
    )


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(mesh=dict(expert=3)),
            "mesh.expert=3 must divide nn.experts.router.groups=4",
        ),
        (dict(mesh=dict(tensor=3)), "mesh.tensor=3 must divide nn.experts.width=8"),
        (
            dict(nn__experts__router=dict(name="topk"), mesh=dict(expert=3)),
            "mesh.expert=3 must divide nn.experts.count=8",
        ),
        (
            dict(
                nn__experts__router=dict(name="choice"),
                objective="ar",
                sampler=dict(steps=1, block=1),
            ),
            "look ahead",
        ),
        (
            dict(nn__experts__router=dict(name="moge", groups=3)),
            "router.groups=3 must divide experts.count=8",
        ),
        (
            dict(nn__experts__per_token=2),
            "router.groups=4 must divide experts.per_token=2",
        ),
        (
            dict(nn__experts__router=dict(name="limited", groups=4, kept=1)),
            "router.kept=1 groups of 2 hold fewer than experts.per_token=4",
        ),
        (
            dict(nn__experts__period=3),
            "layers=2 must be experts.first_dense=0 and a multiple of experts.period=3 more",
        ),
        (
            dict(nn__experts__router=dict(name="choice", bias=0.1)),
            "unknown field config.nn.experts.router.bias",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_in_one_line(changes, said, corpus):
    with pytest.raises(UserError, match=said) as error:
        experiment(corpus, "masked", **changes)
    assert "\n" not in str(error.value)
