"""Layers that predict from further back: what they attend to, their training, and their neutrality.

Also: norms on both sides of a sub-layer.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Layout, UnbiasedLoss
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.nn import layer, norms, rope, router_metrics, transformer
from dlm.nn.attend.base import Case
from dlm.nn.attend.dense import DenseAttention
from dlm.nn.config import Experts, Norm
from dlm.nn.routers.topk import TopK
from dlm.objectives.ar import AR
from tests import tiny

L, MASK = 6, AR(vocab=tiny.VOCAB).visibility
CONFIG = tiny.model_config(mtp_layers=2, norm=Norm("sandwich"))
PARAMS = tiny.random_params(CONFIG)
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2]])
X_BL = np.arange(L)[None]


@functools.cache
def forward(config):
    """The output's hidden states, and the logits of the main prediction and of every head."""

    def run(params, z_BL, segments_BL):
        output = tiny.net(config, params)(
            tiny.under(tiny.canvas(z_BL, segments_BL=segments_BL), MASK)
        )
        names = ["ahead", "ahead2"]
        logits = {
            name: head.logits_BLV[..., : tiny.VOCAB.eos + 1]
            for name, head in zip(names, output.heads.get("mtp", ()), strict=False)
        }
        return logits | dict(
            main=output.prediction.logits_BLV[..., : tiny.VOCAB.eos + 1],
            hidden=output.hidden_BLD,
        )

    return jax.jit(run)


@pytest.mark.slow
def test_every_layer_sees_the_tokens_before_its_own_in_their_segment():
    """By gradient: all earlier tokens, and none from its own position on."""
    known_V = jnp.arange(1.0, tiny.VOCAB.eos + 2)

    def out(table_VD):
        heads = forward(CONFIG)({**PARAMS, "embed_VD": table_VD}, X_BL, SEGMENTS)
        return {name: heads[name][0] @ known_V for name in ("main", "ahead", "ahead2")}

    want = np.tri(L, k=-1) * (SEGMENTS[0][:, None] == SEGMENTS[0])
    for name, grad_LVD in jax.jit(jax.jacrev(out))(PARAMS["embed_VD"]).items():
        assert ((np.abs(grad_LVD).max(-1)[:, :L] > 1e-6) == want).all(), name


def test_layer_k_hears_the_last_k_tokens_through_their_embeddings_alone():
    """Without embeddings, layer k predicts token i independently of the k tokens before.

    The half of M that multiplies embeddings is zero for this.
    """
    deaf = {
        **PARAMS,
        "ahead": {
            **PARAMS["ahead"],
            "read_DD": jnp.zeros_like(PARAMS["ahead"]["read_DD"]),
        },
    }
    plain, i = forward(CONFIG)(deaf, X_BL, np.ones((1, L))), 4
    for back in (1, 2, 3):
        other = forward(CONFIG)(
            deaf, np.where(np.arange(L) == i - back, 9, X_BL), np.ones((1, L))
        )
        moved = [
            bool(np.abs(other[name] - plain[name])[0, i].max() > 1e-4)
            for name in ("main", "ahead", "ahead2")
        ]
        assert moved == [True, back > 1, back > 2]


def test_it_is_the_equation():
    """h' = M [rms h_{i−1} ; rms embed x_{i−1}], then a block, the shared norm and head."""
    config = tiny.model_config(layers=1, mtp_layers=1)
    params, layout = (
        tiny.random_params(config),
        Layout(jnp.asarray(SEGMENTS)).complete(L),
    )
    angles = rope.angles(
        jnp.arange(L)[None], config.attention.rotary, config.attention.rope
    )
    allowed = DenseAttention().prepare(Case(MASK, layout, layout, 1))
    shared = tiny.layer_inputs(*angles, allowed, jnp.ones((1, L), bool))
    block = jax.jit(
        lambda p, h_BLD: layer.Block(config).apply({"params": p}, h_BLD, None, shared)[
            0
        ]
    )
    first, further = (
        jax.tree.map(lambda x: x[0], params[name]) for name in ("layers", "ahead")
    )
    read_BLD = params["embed_VD"][
        jnp.asarray([[tiny.VOCAB.bos, 0, 1, 2, tiny.VOCAB.bos, 4]])
    ]
    h_BLD = block(first, read_BLD)
    before_BLD = jnp.stack(
        [
            0 * h_BLD[:, 0],
            h_BLD[:, 0],
            h_BLD[:, 1],
            h_BLD[:, 2],
            0 * h_BLD[:, 0],
            h_BLD[:, 4],
        ],
        1,
    )
    both = jnp.concatenate(
        [
            norms.rms(before_BLD, further["before_norm_D"]),
            norms.rms(read_BLD, further["read_norm_D"]),
        ],
        -1,
    )
    joined_BLD = both @ jnp.concatenate([further["before_DD"], further["read_DD"]])
    want = (
        norms.rms(block(further["block"], joined_BLD), params["norm_D"])
        @ params["unembed_VD"].T
    )
    tiny.close(
        forward(config)(params, X_BL, SEGMENTS)["ahead"],
        want[..., : tiny.VOCAB.eos + 1],
    )


# -------------------------------------------------------------------------------- training


def losses(**options):
    """(objective, its loss and the gradient) on a packed batch with padding."""
    objective, batch = (
        AR(vocab=tiny.VOCAB, **options),
        tiny.batch(tiny.tokens(2, L), segments_BL=PACKED),
    )

    def loss_of(params):
        loss = objective.loss(tiny.models(CONFIG, params), batch, jax.random.key(0))
        return loss.nats_sum, loss

    grads, loss = jax.jit(jax.grad(loss_of, has_aux=True))(PARAMS)
    return objective, loss, grads


PACKED = np.array([[1, 1, 1, 1, 2, 0], [1, 1, 1, 1, 1, 1]])


@pytest.mark.slow
def test_the_loss_has_the_mean_of_the_layers_and_what_is_reported_has_not():
    """Positions without a token k + 1 back in their segment do not count, nor does padding."""
    objective, loss, grads = losses(mtp_weight=0.4)
    _, plain, plain_grads = losses()
    x_BL = tiny.tokens(2, L)
    heads = forward(CONFIG)(PARAMS, x_BL, PACKED)
    counted = dict(
        ahead=[(0, 2), (0, 3), *((1, i) for i in range(2, 6))],
        ahead2=[(0, 3), *((1, i) for i in range(3, 6))],
    )
    log_p = {name: np.asarray(jax.nn.log_softmax(heads[name], -1)) for name in counted}
    want = (
        -sum(
            log_p[name][b, i, x_BL[b, i]]
            for name, places in counted.items()
            for b, i in places
        )
        / 2
    )
    assert float(loss.metrics["ahead_loss"].value_sum) == pytest.approx(want, rel=1e-5)
    assert float(loss.nats_sum - plain.nats_sum) == pytest.approx(0.4 * want, rel=1e-4)
    assert float(loss.exact_sum) == pytest.approx(float(plain.nats_sum), rel=1e-6), (
        "what is told in bits per byte"
    )
    assert (
        isinstance(plain, UnbiasedLoss)
        and not isinstance(loss, UnbiasedLoss)
        and (objective.loss_claims, objective.claims) == ("heuristic", "exact")
    )
    batch = tiny.batch(x_BL, segments_BL=PACKED)
    bound = jax.jit(
        lambda p: objective.bound(
            tiny.models(CONFIG, p), batch, jax.random.key(0), 2
        ).nats_BL.sum()
    )(PARAMS)
    assert float(bound) == pytest.approx(float(plain.nats_sum), rel=1e-6)
    assert all(np.abs(g).max() > 1e-6 for g in jax.tree.leaves(grads["ahead"])), (
        "all of its parameters are trained"
    )
    assert all(not np.any(g) for g in jax.tree.leaves(plain_grads["ahead"]))
    assert (
        np.abs(
            grads["layers"]["attention"]["q_DHK"]
            - plain_grads["layers"]["attention"]["q_DHK"]
        ).max()
        > 1e-4
    ), "and those below"


def test_with_masked_inputs_no_likelihood_is_told():
    objective, batch = (
        AR(vocab=tiny.VOCAB, mtp_weight=0.4, dropout=0.5),
        tiny.batch(tiny.tokens(2, L)),
    )
    loss = jax.eval_shape(
        lambda p: objective.loss(tiny.models(CONFIG, p), batch, jax.random.key(0)),
        PARAMS,
    )
    assert set(loss.metrics) == {"ahead_loss"} and loss.exact_sum is None


def test_where_nobody_asks_they_are_not_computed():
    """With a memory (sampling), and under a mask that reads a token in its own place."""
    index_BL, empty = (
        jnp.arange(L)[None],
        transformer.empty_cache(transformer.Transformer(CONFIG), 1, L),
    )
    cached = tiny.canvas(
        X_BL,
        visibility=MASK,
        cache=dataclasses.replace(empty, slots_BL=index_BL, start=0),
        index_BL=index_BL,
        before_B=jnp.full(1, tiny.VOCAB.bos),
    )
    for canvas in (cached, tiny.canvas(X_BL)):
        output = jax.eval_shape(lambda canvas=canvas: tiny.net(CONFIG, PARAMS)(canvas))
        assert output.heads == {}


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(nn__mtp_layers=1, objective="masked"),
            "nn.mtp_layers=1 is trained by objectives.ar alone",
        ),
        (
            dict(tiny.AR, nn__mtp_layers=1),
            r"nn.mtp_layers=1 needs objective.mtp_weight, its weight in the loss \(0.3\)",
        ),
        (
            dict(tiny.AR, objective=dict(name="ar", mtp_weight=0.3)),
            "objective.mtp_weight=0.3 needs layers .*: set nn.mtp_layers=1",
        ),
        (
            dict(tiny.AR, objective=dict(name="ar", mtp_weight=-1.0)),
            "config.objective: mtp_weight=-1.0 must not be negative",
        ),
        (dict(nn__mtp_layers=-1), "mtp_layers=-1 not negative"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes, said):
    with pytest.raises(UserError, match=said) as error:
        build_run(tiny.recipe("corpus.txt", **changes))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_layer_ahead_has_experts_where_the_last_layer_has_and_they_are_balanced_too():
    experts = Experts(
        count=4, per_token=2, width=6, first_dense=1, router=TopK(bias=0.5)
    )
    config = tiny.model_config(layers=3, mtp_layers=1, experts=experts)
    params = tiny.random_params(config)
    routing = jax.jit(
        lambda p: (
            tiny.net(config, p)(
                tiny.under(tiny.canvas(tiny.tokens(2, L)), MASK)
            ).routing
        )
    )(params)
    assert (
        routing["load_NZE"].shape == (3, 4, 4) and "experts" in params["ahead"]["block"]
    )
    moved = router_metrics.updated_biases(params, routing, 0.5)
    for name, rows in (("layers", slice(0, 2)), ("ahead", slice(2, 3))):
        block = moved[name] if name == "layers" else moved[name]["block"]
        old = params[name] if name == "layers" else params[name]["block"]
        load_NE = np.asarray(routing["load_NZE"].sum(1))[rows]
        push = 0.5 * np.sign(load_NE.mean(1, keepdims=True) - load_NE)
        tiny.close(
            block["experts"]["bias_GX"] - old["experts"]["bias_GX"],
            push.reshape(old["experts"]["bias_GX"].shape),
            1e-6,
        )


# --------------------------------------------------------------------- norms on both sides


@pytest.mark.slow
def test_a_sandwich_starts_by_its_depth_and_hears_no_loudness():
    """The outer gains start at 0.283/√N and 0.432/√N, with N layers in the stack.

    A sub-layer adds the same, however large its output is.
    """
    config = tiny.model_config(layers=4, norm=Norm("sandwich"), mtp_layers=1)
    fresh = jax.jit(
        lambda: transformer.initialise(
            transformer.Transformer(config), jax.random.key(0)
        )
    )()
    for block, n in ((fresh["layers"], 4), (fresh["ahead"]["block"], 1)):
        for name, size in (("attend", 0.283), ("ffn", 0.432)):
            np.testing.assert_allclose(
                block[f"{name}_out_norm_D"], np.full((n, 8), size / 4**0.5), rtol=1e-6
            )
            assert (block[f"{name}_norm_D"] == 1).all()
    louder = jax.tree_util.tree_map_with_path(
        lambda path, p: p * 50 if path[-1].key in ("o_HKD", "down_FD") else p, PARAMS
    )
    quiet, loud = (
        forward(CONFIG)(params, X_BL, np.ones((1, L))) for params in (PARAMS, louder)
    )
    tiny.close(quiet, loud, 1e-4)
    # The sum is h + g · rms(output), so nothing is added with gains at zero.
    silent = jax.tree_util.tree_map_with_path(
        lambda path, p: 0 * p if path[-1].key.endswith("_out_norm_D") else p, PARAMS
    )
    read_BLD = PARAMS["embed_VD"][jnp.asarray([[tiny.VOCAB.bos, *range(L - 1)]])]
    tiny.close(
        forward(CONFIG)(silent, X_BL, np.ones((1, L)))["hidden"],
        norms.rms(read_BLD, PARAMS["norm_D"]),
    )
