"""Multi-head latent attention against one head after another, and the cost of its two orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dlm.core import axes
from dlm.machine import mesh
from dlm.machine.config import MeshConfig
from dlm.nn import latent_attention, rope, transformer
from dlm.nn.attend.dense import DenseAttention
from dlm.nn.config import Attention, Latent, Norm, Rope
from dlm.objectives.ar import AR
from tests import tiny

B, L, D = 2, 5, 8
SIZES = Latent(kv_rank=5, q_rank=6, nope=4, rope=2, value=3)


def attention(**changes):
    return Attention(
        heads=changes.pop("heads", 4),
        rope=Rope(100.0),
        latent=Latent(**vars(SIZES) | changes),
    )


def normed(x, gain):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gain


def turned(x, i, base=100.0):
    """The two halves of x turned by the angles of position i."""
    half = len(x) // 2
    angle = i * base ** (-2 * np.arange(half) / len(x))
    a, b = x[:half], x[half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)]
    )


def by_heads(p, x_BLD, t, norm):
    """What the paper's section 2.1 says, head by head, under a causal mask."""
    y_BLD = np.zeros(x_BLD.shape)
    for b, i, h in np.ndindex(B, L, 4):
        low = x_BLD[b, i] @ p["q_down_DQ"] if t.q_rank else x_BLD[b, i]
        low = normed(low, p["q_norm_Q"]) if t.q_rank and norm == "rms" else low
        q = low @ (p["q_up_QHK"] if t.q_rank else p["q_DHK"])[:, h]
        q = np.concatenate([q[: t.nope], turned(q[t.nope :], i)])
        scores, values = [], []
        for j in range(i + 1):
            c = x_BLD[b, j] @ p["kv_down_DR"]
            c = normed(c, p["kv_norm_R"]) if norm == "rms" else c
            k = np.concatenate(
                [c @ p["k_up_RHK"][:, h], turned(x_BLD[b, j] @ p["k_rope_DK"], j)]
            )
            scores.append(q @ k / (t.nope + t.rope) ** 0.5)
            values.append(c @ p["v_up_RHK"][:, h])
        weights = np.exp(np.array(scores) - max(scores))
        y_BLD[b, i] += (weights / weights.sum() @ np.array(values)) @ p["o_HKD"][h]
    return y_BLD


@pytest.mark.parametrize("norm", ["rms", "none"])
@pytest.mark.parametrize("rank", [0, 6])
def test_it_is_its_heads_one_by_one(rank, norm):
    rng, case = np.random.default_rng(0), attention(q_rank=rank)
    case = Attention(**vars(case) | dict(qk_norm=norm))
    layer, x_BLD = (
        latent_attention.LatentAttention(case, D, 2),
        rng.normal(size=(B, L, D)).astype(np.float32),
    )
    angles = rope.angles(jnp.arange(L)[None], case.rotary, case.rope)
    inputs = x_BLD, None, tiny.layer_inputs(*angles, jnp.tri(L, dtype=bool)[None])
    shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)["params"]
    p = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    y_BLD, _ = jax.jit(layer.apply)({"params": p}, *inputs)
    np.testing.assert_allclose(
        y_BLD, by_heads(p, x_BLD, case.latent, norm), rtol=1e-4, atol=1e-3
    )


def case(length, memory):
    rng, t = np.random.default_rng(0), SIZES
    shapes = (
        (t.kv_rank, 4, t.nope),
        (t.kv_rank, 4, t.value),
        (B, length, 4, t.nope + t.rope),
        (B, memory, 1, t.rope),
        (B, memory, 1, t.kv_rank),
    )
    k_up, v_up, *others = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    return latent_attention.Up(k_up, v_up), [DenseAttention(), *others]


def test_both_orders_are_the_same_sums():
    up, arrays = case(3, 7)
    allowed = (
        jnp.asarray(np.random.default_rng(1).random((B, 3, 7)) < 0.6)
        .at[..., 0]
        .set(True)
    )
    tiny.close(up.absorbed(*arrays, allowed), up.wide(*arrays, allowed))


@pytest.mark.parametrize(
    "length, memory, order",
    [
        (1, 64, "absorbed"),
        (64, 64, "wide"),
        (3, 3, "wide"),
        (8, 64, "absorbed"),
        (40, 64, "wide"),
    ],
)
def test_few_questions_to_a_long_memory_go_into_the_latent_space(
    length, memory, order, monkeypatch
):
    """The order that is taken multiplies less, counted over all matrix products."""
    flops = {}
    for name in ("absorbed", "wide"):
        up, (backend, *arrays) = case(length, memory)
        shapes = jax.eval_shape(lambda *a: a, up, *arrays)
        jaxpr = jax.make_jaxpr(
            lambda up, *a, name=name: getattr(up, name)(DenseAttention(), *a, None)
        )(*shapes)
        dots = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
        flops[name] = sum(
            np.prod(e.outvars[0].aval.shape)
            * np.prod(
                [e.invars[0].aval.shape[i] for i in e.params["dimension_numbers"][0][0]]
            )
            for e in dots
        )
    assert min(flops, key=flops.get) == order
    for name in ("absorbed", "wide"):
        monkeypatch.setattr(latent_attention.Up, name, lambda *a, name=name: name)
    up, arrays = case(length, memory)
    assert up.attend(*arrays, None) == order


def test_a_memory_holds_the_latent_and_one_rotary_key():
    model = transformer.Transformer(tiny.model_config(attention=attention()))
    kv = transformer.empty_cache(model, B, 7)
    assert kv.k_NBMJK.shape == (2, B, 7, 1, SIZES.rope) and kv.v_NBMJK.shape == (
        2,
        B,
        7,
        1,
        SIZES.kv_rank,
    )


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    """Loss and gradients are the same, with a further layer too.

    Heads are divided over `tensor`, widths and low ranks over `fsdp`.
    """
    config = tiny.model_config(
        layers=1, attention=attention(), norm=Norm("sandwich"), mtp_layers=1
    )
    params, batch, objective = (
        tiny.random_params(config),
        tiny.batch(tiny.tokens(4, L)),
        AR(mtp_weight=0.3, vocab=tiny.VOCAB),
    )
    both = jax.jit(
        jax.value_and_grad(
            lambda p, b: (
                objective.loss(tiny.models(config, p), b, jax.random.key(0)).nats_sum
            )
        )
    )
    devices = mesh.make(MeshConfig(data=1, fsdp=2, tensor=2))
    spread = jax.device_put(params, mesh.state_shardings(devices, params))
    rows = jax.device_put(batch, NamedSharding(devices, PartitionSpec(axes.BATCH)))
    tiny.close(both(spread, rows), both(params, batch))
    lies = spread["ahead"]["block"]["attention"]
    names = (
        "q_down_DQ",
        "q_up_QHK",
        "kv_down_DR",
        "k_rope_DK",
        "k_up_RHK",
        "v_up_RHK",
        "o_HKD",
    )
    assert [tuple(lies[n].sharding.spec)[1:] for n in names] == [
        ("fsdp", None),
        ("fsdp", "tensor", None),
        ("fsdp", None),
        ("fsdp", None),
        (None, "tensor", None),  # a rank of 5 is on no two devices
        (None, "tensor", None),
        ("tensor", None, "fsdp"),
    ]


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(rope=3), "latent.rope=3 must be even"),
        (dict(kv_rank=-1), "kv_rank must not be negative"),
        (dict(value=0), "nope and value at least 1"),
        (dict(kv_rank=0), "latent.q_rank=6 needs latent.kv_rank"),
        (dict(heads=0), "heads=0 must be at least 1"),
    ],
)
def test_mistakes(changes, said):
    with pytest.raises(ValueError, match=said):
        attention(**changes)
