"""Routers beside their picks: room of experts, losses of the gradient, the balancing bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.nn import expert_layer, experts, ffn, router_metrics
from dlm.nn.config import Experts
from dlm.nn.routers.base import Balance
from dlm.nn.routers.choice import Choice
from dlm.nn.routers.moge import MoGE
from dlm.nn.routers.topk import TopK
from tests import tiny
from tests.nn.test_experts import (
    ROUTERS,
    B,
    D,
    F,
    L,
    inputs_of,
    layer,
    mesh,
    value_and_gradients,
)


@pytest.mark.slow
def test_the_room_of_an_expert_is_that_of_the_formula():
    """The room is ⌈n K/E (1 + slope (1 − 2r))⌉, and never more than there are tokens."""
    n_B, ratio_B = (
        np.array([6, 6, 6, 6, 6, 4, 4]),
        np.array([0.1, 0.4, 0.5, 0.6, 1.0, 0.6, 0.0]),
    )
    select_BLE = jnp.asarray(np.random.default_rng(0).normal(size=(7, 6, 16)))
    for slope, K, room in (
        (0.5, 8, [5, 4, 3, 3, 2, 2, 3]),
        (1.0, 8, [6, 4, 3, 3, 0, 2, 4]),
        (0.0, 8, [3, 3, 3, 3, 3, 2, 2]),
        (0.5, 16, [6, 6, 6, 6, 3, 4, 4]),
    ):
        _, taken_BEC = Choice(slope=slope).choose(
            select_BLE, jnp.arange(6) < n_B[:, None], jnp.asarray(ratio_B), K
        )
        assert (taken_BEC.sum(-1) == np.array(room)[:, None]).all(), (
            slope,
            K,
            taken_BEC[:, 0].sum(-1),
        )
    _, taken_BEC = Choice(slope=1.0).choose(
        jnp.zeros((1, 10, 16)), jnp.ones((1, 10), bool), jnp.array([0.9]), 8
    )
    assert (taken_BEC.sum(-1) == 1).all(), (
        "10 · 8/16 · 0.2, which rounding makes a little more than 1"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["choice", "capacity"])
def test_a_token_is_the_weighed_sum_of_the_experts_that_take_it(name):
    """A token's experts, one by one: those that choose it, or still have room for it."""
    params, x_BLD, valid_BL, ratio_B = inputs_of(name)
    number, active, router = ROUTERS[name]
    x_BLD, params["router_DGX"] = (
        x_BLD.at[..., 0].set(2.0),
        params["router_DGX"].at[0, 0, -1].set(3.0),
    )  # the last is wanted by all
    (_, (y_BLD, _)), grads = value_and_gradients(
        layer(name), params, x_BLD, valid_BL, ratio_B
    )
    x_TD, valid_T = np.asarray(x_BLD).reshape(-1, D), np.asarray(valid_BL).reshape(-1)
    scores_TE = np.asarray(
        router.scores(x_TD @ np.asarray(params["router_DGX"]).reshape(D, -1))
    )
    taken_TE = np.zeros((B * L, number), bool)
    if name == "choice":
        n_B = np.asarray(valid_BL).sum(1)
        room_B = np.ceil(
            n_B * active / number * (1 + router.slope * (1 - 2 * np.asarray(ratio_B)))
            - 1e-4
        ).astype(int)
        for b in range(B):
            best_NE = np.argsort(-scores_TE[b * L : b * L + n_B[b]], 0)[: room_B[b]]
            taken_TE[b * L + best_NE, np.arange(number)] = True
        assert taken_TE.sum(1).max() > 1, "else nothing is added up"
    else:
        room, load_E = int(np.ceil(active * B * L / number)), np.zeros(number, int)
        for t in np.flatnonzero(valid_T):
            for e in np.argsort(-scores_TE[t])[:active]:
                taken_TE[t, e], load_E[e] = load_E[e] < room, load_E[e] + 1
        assert load_E.max() > room, "else nothing is dropped"

    def plain(params, x_BLD):
        x_TD = x_BLD.reshape(-1, D)
        weight_TE = router.scores(x_TD @ params["router_DGX"].reshape(D, -1)) * params[
            "scale_GX"
        ].reshape(-1)
        inner = [
            jnp.einsum("TD,EDF->TEF", x_TD, params[n]) for n in ("up_EDF", "gate_EDF")
        ]
        answers_TED = jnp.einsum(
            "TEF,EFD->TED", ffn.act("swiglu", *inner), params["down_EFD"]
        )
        y_TD = jnp.einsum(
            "TE,TED->TD", jnp.where(taken_TE, weight_TE, 0.0), answers_TED
        )
        return jnp.sum(jnp.sin(y_TD)), y_TD.reshape(x_BLD.shape)

    their_grads, theirs = jax.jit(jax.grad(plain, (0, 1), has_aux=True))(params, x_BLD)
    tiny.close((y_BLD, grads), (theirs, their_grads), 1e-5)


def penalty(router, number=16, active=4, params=None, seed=0, sizes=None, scale=1.0):
    """The gradient's extra part: that of the router's losses alone, over the number of tokens."""
    module = experts.Experts(
        Experts(count=number, per_token=active, width=F, router=router),
        "swiglu",
        D,
        2,
        mesh(**sizes) if sizes else None,
    )
    rng = np.random.default_rng(seed)
    x_BLD, valid_BL, ratio_B = (
        jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32),
        jnp.ones((B, L), bool),
        jnp.zeros(B),
    )
    params = params or jax.tree.map(
        lambda p: jnp.asarray(scale * rng.normal(size=p.shape), jnp.float32),
        jax.eval_shape(module.init, jax.random.key(0), x_BLD, valid_BL, ratio_B),
    )
    return (
        jax.jit(
            jax.grad(lambda p: 0 * module.apply(p, x_BLD, valid_BL, ratio_B)[0].sum())
        )(params)["params"]["router_DGX"]
        / (B * L),
        params,
        x_BLD,
    )


@pytest.mark.parametrize("within", ["all", "group"])
def test_the_balance_loss_has_the_gradient_of_its_formula(within):
    """α Σ f_i p_i with constant f; with 'group' the mean of the groups' own losses.

    It is α at perfect balance.
    """
    router = MoGE(groups=4, balance=Balance(weight=0.3, within=within))
    grad, params, x_BLD = penalty(router)

    def formula(w_DGX):
        p_TGX = jax.nn.softmax(
            (x_BLD.reshape(-1, D) @ w_DGX.reshape(D, 16)), -1
        ).reshape(-1, 4, 4)
        picked_TGX = jax.lax.stop_gradient(p_TGX == p_TGX.max(-1, keepdims=True)) * 1.0
        if within == "all":
            return 0.3 * (16 / 4 * picked_TGX.mean(0) * p_TGX.mean(0)).sum()
        own_TGX = p_TGX / p_TGX.sum(-1, keepdims=True)
        return 0.3 * (4 / 1 * picked_TGX.mean(0) * own_TGX.mean(0)).sum(1).mean()

    tiny.close(grad, jax.grad(formula)(params["params"]["router_DGX"]), 1e-6)
    even = jnp.full((16, 16), 1 / 16.0)
    layer_ = expert_layer.ExpertLayer(
        Experts(count=16, per_token=4, width=F, router=router), "swiglu", None
    )
    charge = layer_.penalty(
        jnp.zeros((16, 16)), even, jnp.full((16, 16), 0.25), jnp.ones(16, bool)
    )
    np.testing.assert_allclose(charge / 16, 0.3, rtol=1e-6)


@pytest.mark.slow
def test_pools_differ_and_the_widest_is_that_of_one_device():
    """A loss pooled over the expert axis or over all devices equals that of one device.

    Over each device's own tokens it differs.
    """
    grads = {}
    for pool in ("all", "expert", "device"):
        router = TopK(balance=Balance(weight=0.5, pool=pool))
        alone, params, _ = penalty(router)
        grads[pool] = [
            penalty(router, params=params, sizes=dict(expert=4))[0],
            penalty(router, params=params, sizes=dict(data=2, expert=2))[0],
        ]
    for g in (*grads["all"], grads["expert"][0]):
        tiny.close(g, alone, 1e-6)
    for g in (grads["expert"][1], *grads["device"]):
        assert float(jnp.abs(g - alone).max()) > 1e-5


@pytest.mark.slow
def test_padding_counts_in_no_router_loss():
    """Two rows beside two of padding are two rows."""
    router = MoGE(groups=4, balance=Balance(weight=0.3), z=0.2)
    module = experts.Experts(
        Experts(count=16, per_token=4, width=F, router=router), "swiglu", D, 2
    )
    _, params, x_BLD = penalty(router)
    charge = jax.jit(
        jax.grad(
            lambda p, x, valid: (
                0 * module.apply(p, x, valid, jnp.zeros(len(x)))[0].sum()
            )
        )
    )
    alone, padded = (
        charge(params, x_BLD[:2], jnp.ones((2, L), bool)),
        charge(params, x_BLD, jnp.arange(B)[:, None] < jnp.full((B, L), 2)),
    )
    assert jnp.abs(alone["params"]["router_DGX"]).max() > 1e-2
    tiny.close(padded, alone, 1e-6)


def test_the_z_loss_has_the_gradient_of_its_formula():
    grad, params, x_BLD = penalty(TopK(z=0.2))

    def formula(w_DGX):
        return (
            0.2
            * (
                jax.nn.logsumexp(x_BLD.reshape(-1, D) @ w_DGX.reshape(D, 16), -1) ** 2
            ).mean()
        )

    tiny.close(grad, jax.grad(formula)(params["params"]["router_DGX"]), 1e-6)


def test_the_bias_moves_against_the_load_and_changes_no_weight():
    routed = dict(load_NZE=jnp.array([[[1.0, 5, 3, 3], [0, 0, 0, 0]]]))
    moved = router_metrics.updated_biases(
        {"layers": {"bias_GX": jnp.zeros((1, 2, 2)), "other_D": jnp.ones(3)}},
        routed,
        0.5,
    )
    assert moved["layers"]["bias_GX"].tolist() == [[[0.5, -0.5], [0, 0]]] and moved[
        "layers"
    ]["other_D"].tolist() == [1, 1, 1]
