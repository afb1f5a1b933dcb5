"""The layer of experts against a plain loop over tokens: values and all gradients, on any mesh."""

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.machine import mesh as run_mesh
from dlm.machine.config import MeshConfig
from dlm.nn import expert_matmul, experts, ffn, router_metrics
from dlm.nn.config import Experts
from dlm.nn.expert_plan import Plan
from dlm.nn.expert_ranges import RowRanges
from dlm.nn.routers.base import Balance, largest
from dlm.nn.routers.choice import Choice
from dlm.nn.routers.limited import Limited
from dlm.nn.routers.moge import MoGE
from dlm.nn.routers.topk import TopK
from tests import tiny

B, L, D, F = 4, 6, 8, 12
ROUTERS = {
    "moge": (16, 8, MoGE(groups=4)),  # N/M = 4 is not K = 8, K' = 2
    "moge-1": (16, 4, MoGE(groups=4, scale="none", z=0.01)),
    "moge-8": (32, 8, MoGE(groups=8, balance=Balance(weight=0.1))),
    "moge-16": (32, 16, MoGE(groups=16, score="sigmoid", weights="renormalised")),
    "topk": (16, 3, TopK(balance=Balance(weight=0.1))),
    "capacity": (16, 3, TopK(capacity=1.0)),
    "limited": (16, 4, Limited(groups=4, kept=2, bias=0.01)),
    "choice": (16, 3, Choice(slope=0.5)),
}
DROPLESS = [
    name for name, (_, _, router) in ROUTERS.items() if router.competing == "never"
]


def layer(name, kind="swiglu", mesh=None, **changes):
    number, active, router = ROUTERS[name]
    return experts.Experts(
        Experts(count=number, per_token=active, width=F, router=router, **changes),
        kind,
        D,
        2,
        mesh,
    )


def inputs_of(name, seed=0, **changes):
    """(parameters, x, valid, ratio), nothing at zero; some rows end with padding."""
    rng, module = np.random.default_rng(seed), layer(name, **changes)
    x_BLD = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32)
    valid_BL, ratio_B = (
        jnp.arange(L)[None] < jnp.array([6, 4, 6, 5])[:, None],
        jnp.array([0.1, 0.4, 0.6, 0.9]),
    )
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x_BLD, valid_BL, ratio_B)
    )["params"]
    params = jax.tree.map(
        lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32), shapes
    )
    return params, x_BLD, valid_BL, ratio_B


def picks(name, params, x_BLD):
    """The experts of each token, found one by one."""
    number, active, router = ROUTERS[name]
    X, experts_TK = number // router.groups, []
    bias_E = params["bias_GX"].reshape(-1) if "bias_GX" in params else np.zeros(number)
    for select_E in np.asarray(
        router.scores(x_BLD.reshape(-1, D) @ params["router_DGX"].reshape(D, -1))
        + bias_E
    ):

        def best(ids, k, of=select_E):
            return sorted(ids, key=lambda e: -of[e])[:k]  # noqa: B023

        groups, ids = (
            [range(g * X, g * X + X) for g in range(router.groups)],
            range(number),
        )
        if isinstance(router, MoGE):
            experts_TK.append(
                [e for ids in groups for e in best(ids, active // router.groups)]
            )
            continue
        if isinstance(router, Limited):
            rank = [sum(select_E[best(ids, active // router.kept)]) for ids in groups]
            ids = [e for g in np.argsort(rank)[-router.kept :] for e in groups[g]]
        experts_TK.append(best(ids, active))
    return experts_TK


def plain(name, params, x_BLD, valid_BL, picked_TK, kind="swiglu"):
    """Σ_i G_i(x) E_i(x), with every expert's answer to every token."""
    number, _, router = ROUTERS[name]
    x_TD, picked_TE = (
        x_BLD.reshape(-1, D),
        (picked_TK[:, :, None] == np.arange(number)).any(1),
    )
    scores_TE = jnp.where(
        picked_TE, router.scores(x_TD @ params["router_DGX"].reshape(D, -1)), 0.0
    )
    if router.weights == "renormalised":
        scores_TE /= scores_TE.sum(1, keepdims=True)
    scale_E = (
        params["scale_GX"].reshape(-1) if "scale_GX" in params else jnp.ones(number)
    )
    inner = [
        jnp.einsum("TD,EDF->TEF", x_TD, params[n])
        for n in ("up_EDF", "gate_EDF")
        if n in params
    ]
    y_TED = jnp.einsum("TEF,EFD->TED", ffn.act(kind, *inner), params["down_EFD"])
    return (
        jnp.einsum("TE,TED->TD", scores_TE * scale_E, y_TED) * valid_BL.reshape(-1, 1)
    ).reshape(x_BLD.shape)


@functools.cache
def compiled(module):
    return jax.jit(lambda params, *rows: module.apply({"params": params}, *rows))


@functools.cache
def differentiated(module):
    def loss(params, x_BLD, valid_BL, ratio_B):
        y_BLD, routed = module.apply({"params": params}, x_BLD, valid_BL, ratio_B)
        return jnp.sum(jnp.sin(y_BLD)), (y_BLD, routed)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def value_and_gradients(module, *inputs):
    return differentiated(module)(*inputs)


@pytest.mark.parametrize("name", DROPLESS)
def test_it_is_a_loop_over_tokens_and_experts(name):
    router = ROUTERS[name][2]
    params, x_BLD, valid_BL, ratio_B = inputs_of(name)
    (_, (y_BLD, _)), grads = value_and_gradients(
        layer(name), params, x_BLD, valid_BL, ratio_B
    )
    picked = np.array(picks(name, params, x_BLD))

    def loss(p, x):
        return (jnp.sum(jnp.sin(y := plain(name, p, x, valid_BL, picked))), y)

    theirs, their_grads = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x_BLD)[
        ::-1
    ]
    tiny.close(y_BLD, theirs, 1e-6)
    if not router.z and not router.balance.weight:  # else the gradient holds theirs too
        tiny.close(grads, their_grads, 1e-6)


@pytest.mark.parametrize(
    "kind, backend, block",
    [
        ("swiglu", "blocks", 0),
        ("swiglu", "blocks", 12),
        ("swiglu", "blocks", 100),
        ("swiglu", "ragged", 0),
        ("relu2", "blocks", 1),
        ("gelu", "blocks", 4),
    ],
)
def test_every_back_end_is_the_loop_over_experts(kind, backend, block):
    with jax.enable_x64(True):
        is_the_loop(kind, backend, block, jnp.float64, 1e-12)


def test_many_experts_in_the_order_of_their_loads_are_the_loop_over_them():
    """The heaviest ten of 22 have first blocks of 232 rows, then fours of 216, 200 and 192.

    Some loads are beyond that.
    """
    assert Plan.of(16, 64, 0, 0.25).products == ((1, 64, 8),), (
        "a few rows are one product"
    )
    plan = Plan.of(4400, 22, 0, 200.0)
    assert plan.products == (
        (2, 4, 232),
        (1, 2, 232),
        (1, 4, 216),
        (1, 4, 200),
        (1, 4, 192),
    )
    fair = np.random.default_rng(1).multinomial(4400, [1 / 22] * 22)
    first_E = plan.first_E(RowRanges.of(jnp.array(fair)).order_E)
    assert (first_E[fair.argmax()], first_E[fair.argmin()]) == (232, 192)
    crowded = [0, 2000, 3, 300, *[90] * 18]
    with jax.enable_x64(True):
        is_the_loop(
            "swiglu",
            "blocks",
            0,
            jnp.float64,
            1e-12,
            R=4400,
            loads=(fair, fair[::-1], crowded, [*[0] * 21, 4400]),
        )


FEW = (
    [5, 0, 9, 1, 9],
    [0, 0, 24, 0, 0],
    [3, 3, 3, 3, 3],
    [0, 0, 0, 0, 0],
    [24, 0, 0, 0, 0],
)


def is_the_loop(kind, backend, block, dtype, tolerance, R=24, loads=FEW):
    """Values and gradients of all, for loads from nothing to everything."""
    rng, E = np.random.default_rng(0), len(loads[0])
    x_RD = jnp.asarray(rng.normal(size=(R, D)), dtype)
    names = {"up_EDF": (E, D, F), "gate_EDF": (E, D, F), "down_EFD": (E, F, D)}
    weights = {
        n: jnp.asarray(0.3 * rng.normal(size=s), dtype)
        for n, s in names.items()
        if kind == "swiglu" or n != "gate_EDF"
    }

    def run(sizes_E, x_RD, weights, **how):
        y_RD = expert_matmul.apply(
            x_RD, sizes_E, weights, expert_matmul.Method(kind, **how)
        )
        return jnp.sum(jnp.sin(y_RD)), y_RD

    def all_of(**how):
        return jax.jit(
            jax.value_and_grad(functools.partial(run, **how), (1, 2), has_aux=True)
        )

    fast, slow = all_of(backend=backend, block=block), all_of(backend="loop")
    for sizes in loads:
        tiny.close(
            fast(jnp.array(sizes), x_RD, weights),
            slow(jnp.array(sizes), x_RD, weights),
            tolerance,
        )


# ---------------------------------------------------------------------------------- meshes


def mesh(data=1, **sizes):
    return run_mesh.make(MeshConfig(data=data, **sizes))


MESHES = dict(
    expert=dict(expert=4),
    both=dict(expert=2, tensor=2),
    rows=dict(data=2, expert=2),
    tensor=dict(fsdp=2, tensor=2),
)  # one router on all of them, the others where their rows go another way


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes",
    [
        *(("moge", sizes) for sizes in MESHES.values()),
        ("moge-1", MESHES["expert"]),
        ("moge-16", MESHES["expert"]),
        ("topk", MESHES["expert"]),
        ("topk", MESHES["both"]),
        ("limited", MESHES["expert"]),
        ("limited", MESHES["rows"]),
        ("choice", MESHES["expert"]),
        ("choice", MESHES["both"]),
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(name, sizes):
    """Values, sums and gradients, the router's losses included, are those of one device."""
    params, *inputs = inputs_of(name)
    one = value_and_gradients(layer(name), params, *inputs)
    tiny.close(
        value_and_gradients(layer(name, mesh=mesh(**sizes)), params, *inputs), one, 2e-6
    )


@pytest.mark.slow
def test_eight_devices_change_nothing():
    """In a process of its own: the others have four."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.nn.eight"],
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.count("moge") == 2, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moge", "choice"])
def test_few_rows_on_many_devices(name):
    """Three rows on four devices, as when sampling: padded, and the same."""
    params, *inputs = inputs_of(name)
    inputs = [a[:3] for a in inputs]
    one = value_and_gradients(layer(name), params, *inputs)
    tiny.close(
        value_and_gradients(layer(name, mesh=mesh(expert=2, data=2)), params, *inputs),
        one,
        2e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [dict(expert=4), dict(data=2, expert=2)], ids=str)
def test_a_capacity_is_that_of_a_device(sizes):
    """Each device's rows as if they were alone."""
    params, x_BLD, valid_BL, ratio_B = inputs_of("capacity")
    y_BLD, routed = compiled(layer("capacity", mesh=mesh(**sizes)))(
        params, x_BLD, valid_BL, ratio_B
    )
    alone = compiled(layer("capacity"))
    parts = [
        alone(params, x_BLD[b : b + 1], valid_BL[b : b + 1], ratio_B[b : b + 1])
        for b in range(B)
    ]
    tiny.close(y_BLD, jnp.concatenate([y for y, _ in parts]), 1e-6)
    tiny.close(routed, jax.tree.map(lambda *x: sum(x), *(r for _, r in parts)), 1e-6)
    assert routed["dropped_Z"].sum() > 0


# ---------------------------------------------------------------------------------- claims


ADVERSARIES = {  # what the router's matrix w and the tokens x become
    "all want one expert": lambda w, x: (
        jnp.zeros_like(w).at[:, 0, 0].set(5.0),
        jnp.abs(x),
    ),
    "ties": lambda w, x: (jnp.zeros_like(w), x),
    "all tokens alike, as at t = 1": lambda w, x: (
        w,
        jnp.broadcast_to(x[:1, :1], x.shape),
    ),
    "anything": lambda w, x: (w, x),
}


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_every_group_of_moge_has_the_same_load(adversary):
    params, x_BLD, valid_BL, ratio_B = inputs_of("moge")
    params["router_DGX"], x_BLD = ADVERSARIES[adversary](params["router_DGX"], x_BLD)
    _, routed = compiled(layer("moge"))(params, x_BLD, valid_BL, ratio_B)
    load_M = routed["load_ZE"].sum(0).reshape(4, 4).sum(1)
    assert load_M.tolist() == [2.0 * valid_BL.sum()] * 4
    metrics = router_metrics.means(
        {k.replace("_", "_N", 1): v[None] for k, v in routed.items()}, 8, 4
    )
    assert metrics["router_imbalance"] == 0 and metrics["router_dropped"] == 0


def test_experts_of_a_group_may_change_their_names():
    """Experts relabelled within groups give the same, with tokens in another order too."""
    params, x_BLD, valid_BL, ratio_B = inputs_of("moge")
    rng = np.random.default_rng(1)
    order_E = np.concatenate([4 * g + rng.permutation(4) for g in range(4)])
    other = {
        k: (
            v.reshape(*v.shape[:-2], 16)[..., order_E].reshape(v.shape)
            if k.endswith("GX")
            else v[order_E]
        )
        for k, v in params.items()
    }
    order_B = np.array([2, 0, 3, 1])
    y_BLD, _ = compiled(layer("moge"))(params, x_BLD, valid_BL, ratio_B)
    there_BLD, _ = compiled(layer("moge"))(
        other, x_BLD[order_B], valid_BL[order_B], ratio_B[order_B]
    )
    tiny.close(there_BLD, y_BLD[order_B], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
def test_whether_a_row_depends_on_its_batch_is_as_its_router_states(name):
    """A row is computed beside rows that pick the same experts, and beside none.

    It changes only where tokens of a batch compete.
    """
    params, x_BLD, valid_BL, ratio_B = inputs_of(name)
    x_BLD = x_BLD[:1] + 0.01 * x_BLD
    whole, _ = compiled(layer(name))(params, x_BLD, valid_BL, ratio_B)
    alone, _ = compiled(layer(name))(
        params, x_BLD, valid_BL & (jnp.arange(B) == 3)[:, None], ratio_B
    )
    same = float(jnp.abs(whole[3] - alone[3]).max()) < 1e-5
    assert same == (ROUTERS[name][2].competing != "batch")


@pytest.mark.parametrize("name", ROUTERS)
def test_padding_takes_no_room(name):
    """Whatever stands in padding, no real token's answer changes, and padding's answer is 0."""
    params, x_BLD, valid_BL, ratio_B = inputs_of(name)
    y_BLD, routed = compiled(layer(name))(params, x_BLD, valid_BL, ratio_B)
    again, sums = compiled(layer(name))(
        params, jnp.where(valid_BL[..., None], x_BLD, 9.0), valid_BL, ratio_B
    )
    tiny.identical((y_BLD, routed), (again, sums))
    assert not jnp.any(jnp.where(valid_BL[..., None], 0, y_BLD))
    assert routed["tokens_Z"].tolist() == [6, 4, 6, 5]


def test_experts_take_their_best_tokens_and_less_where_more_is_masked():
    """Each expert's tokens have its largest scores in the row: ⌈n K/E (1 + slope (1 − 2r))⌉."""
    params, x_BLD, valid_BL, ratio_B = inputs_of("choice")
    _, routed = compiled(layer("choice"))(params, x_BLD, valid_BL, ratio_B)
    n_B = np.array([6, 4, 6, 5])
    room_B = np.ceil(n_B * 3 / 16 * (1 + 0.5 * (1 - 2 * np.asarray(ratio_B))) - 1e-4)
    assert routed["load_ZE"].tolist() == (
        np.ones((1, 16)) * room_B[:, None]
    ).tolist() and room_B.tolist() == [2, 1, 2, 1]
    scores_BLE = (
        Choice()
        .scores(x_BLD.reshape(-1, D) @ params["router_DGX"].reshape(D, -1))
        .reshape(B, L, 16)
    )
    places_BEC, taken_BEC = Choice(slope=0.5).choose(scores_BLE, valid_BL, ratio_B, 3)
    for b, e in itertools.product(range(B), range(16)):
        best = np.argsort(-np.asarray(scores_BLE[b, : n_B[b], e]))[: int(room_B[b])]
        assert sorted(best) == sorted(
            np.asarray(places_BEC[b, e])[np.asarray(taken_BEC[b, e])]
        )


def test_what_a_capacity_drops_comes_last():
    """All want expert 0: it takes the first C tokens, and drops are counted."""
    params, x_BLD, *_ = inputs_of("capacity")
    valid_BL, ratio_B = jnp.ones((B, L), bool), jnp.zeros(B)
    params["router_DGX"] = (
        jnp.zeros_like(params["router_DGX"]).at[..., :3].set(jnp.array([3.0, 2.0, 1.0]))
    )
    y_BLD, routed = compiled(layer("capacity"))(
        params, jnp.abs(x_BLD), valid_BL, ratio_B
    )
    C = 5  # ⌈3 · 24 / 16⌉
    assert (
        routed["dropped_Z"].sum() == 3 * (B * L - C)
        and routed["load_ZE"].sum() == 3 * B * L
    )
    assert (jnp.abs(y_BLD.reshape(-1, D)).max(1) > 0).tolist() == [True] * C + [
        False
    ] * (B * L - C)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_largest_are_found_without_a_sort_too(k):
    x = jnp.asarray(
        np.random.default_rng(0).integers(0, 4, (50, 6)), jnp.float32
    )  # with ties
    assert largest(x, k).tolist() == jax.lax.top_k(x, k)[1].tolist()


def test_a_mesh_that_no_config_has_is_refused():
    """Experts that a mesh cannot deal out in whole groups, or whose width it cannot."""
    params, *rows = inputs_of("moge")
    for name, changes, sizes, why in (
        (
            "moge",
            {},
            dict(expert=8),
            "mesh.expert=8 must divide nn.experts.router.groups=4",
        ),
        ("topk", {}, dict(expert=3), "mesh.expert=3 must divide nn.experts.count=16"),
        ("moge", {}, dict(tensor=5), "mesh.tensor=5 must divide nn.experts.width=12"),
    ):
        with pytest.raises(ValueError, match=why):
            module = layer(
                name, mesh=run_mesh.abstract_mesh(MeshConfig(**sizes)), **changes
            )
            jax.eval_shape(module.init, jax.random.key(0), *rows)
