"""Optimizers: ends of schedules, decay of matrices alone, clipping, Muon's orthogonal updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlm.core import axes
from dlm.nn.config import Experts
from dlm.nn.routers.moge import MoGE
from dlm.training import optimizer as optim
from dlm.training.config import Average, OptimizerConfig
from tests import tiny

CONFIG = tiny.model_config(
    layers=3,
    experts=Experts(
        count=4, per_token=2, width=6, first_dense=1, router=MoGE(groups=2)
    ),
)
PARAMS = tiny.random_params(CONFIG)


def named(tree):
    return {
        axes.name_of(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def change(o, grads, steps=10):
    """The first update's change of every parameter, by name."""
    optimizer = optim.transformation(o, steps)
    return named(
        jax.jit(lambda p, g: optimizer.update(g, optimizer.init(p), p)[0])(
            PARAMS, grads
        )
    )


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_schedules_at_their_ends(kind):
    rate = optim.rate(OptimizerConfig(schedule=kind, warmup=10), 100)
    assert [float(rate(s)) for s in (0, 10)] == pytest.approx([0.1, 1.0])
    assert (np.diff([rate(s) for s in range(11)]) > 0).all()
    end, middle = {"constant": (1, 1), "linear": (0, 0.5), "cosine": (0, 0.5)}[kind]
    assert float(rate(100)) == pytest.approx(end, abs=1e-6) and float(
        rate(55)
    ) == pytest.approx(middle, abs=1e-6)
    short = optim.rate(
        OptimizerConfig(schedule=kind, warmup=10), 4
    )  # the warm-up is at most half of a run
    assert (
        float(short(2)) == 1
        and float(optim.rate(OptimizerConfig(schedule=kind), 1)(0)) == 1
    )
    assert float(optim.rate(OptimizerConfig(schedule=kind, warmup=0), 4)(0)) == 1


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_matrices_are_decayed(kind):
    o = OptimizerConfig(
        kind=kind, lr=0.1, muon_lr=0.1, weight_decay=0.5, warmup=0, schedule="constant"
    )
    changes, before = change(o, jax.tree.map(jnp.zeros_like, PARAMS)), named(PARAMS)
    for name, moved in changes.items():
        np.testing.assert_allclose(
            moved,
            -0.05 * before[name] if axes.decayed(name) else 0,
            atol=1e-6,
            err_msg=name,
        )
    assert any(map(axes.decayed, changes)) and not all(map(axes.decayed, changes))


@pytest.mark.slow
def test_muon_moves_every_matrix_of_every_layer_and_expert_by_an_orthogonal_one():
    """Singular values are near the rate times √max(1, outputs/inputs).

    All other parameters change as under AdamW with Nesterov momentum.
    """
    o = OptimizerConfig(
        kind="muon",
        lr=1e-3,
        muon_lr=0.02,
        weight_decay=0.0,
        warmup=0,
        schedule="constant",
        clip=0.0,
    )
    grads = tiny.random_params(CONFIG, seed=5)
    changes = change(o, grads)
    assert [n for n in changes if axes.decayed(n)] == [
        "k_DJK",
        "o_HKD",
        "q_DHK",
        "v_DJK",
        "down_FD",
        "gate_DF",
        "up_DF",
    ] + [
        "down_EFD",
        "gate_EDF",
        "up_EDF",
    ]
    for name in filter(axes.decayed, changes):
        letters = axes.suffix(name).removeprefix("E")
        for layer in changes[name].reshape(-1, *changes[name].shape[-len(letters) :]):
            reads = layer.shape[:-1] if name.endswith("D") else layer.shape[:1]
            values = np.linalg.svd(layer.reshape(np.prod(reads), -1), compute_uv=False)
            outputs = layer.size / np.prod(reads)
            scale = 0.02 * max(1.0, outputs / np.prod(reads)) ** 0.5
            assert 0.5 * scale < values.min() and values.max() < 1.4 * scale, (
                name,
                values / scale,
            )
    nadam = optax.nadamw(1e-3, 0.9, 0.95, weight_decay=0.0)
    rest = named(nadam.update(grads, nadam.init(PARAMS), PARAMS)[0])
    for name in changes:
        if not axes.decayed(name):
            np.testing.assert_allclose(changes[name], rest[name], atol=1e-7)


@pytest.mark.slow
def test_the_global_norm_is_clipped():
    o = dict(kind="adamw", lr=1.0, warmup=0)
    grads = jax.tree.map(lambda p: 100 * p, PARAMS)
    chain = optim.transformation(OptimizerConfig(**o, clip=0.5), 10)
    clipped = chain.update(grads, chain.init(PARAMS), PARAMS)[1]
    moments = jax.tree.leaves(optax.tree.get(clipped, "mu"))
    assert float(optax.tree.norm(moments)) == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_mistakes():
    for wrong in (dict(lr=0.0), dict(clip=-1.0), dict(b1=1.0), dict(microbatches=0)):
        with pytest.raises(ValueError, match="must"):
            OptimizerConfig(**wrong)
    with pytest.raises(ValueError, match="decay=1.0 must be in"):
        Average(1.0)
