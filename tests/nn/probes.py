"""The outcomes that fields of the network, its experts and routers change.

The rows of tests/test_fields.py call these functions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.evals.routing import Routing
from dlm.machine import mesh
from dlm.machine.config import MeshConfig
from dlm.nn import experts
from dlm.nn.config import Experts, Latent, Norm, Rope
from dlm.nn.routers.base import Balance
from dlm.nn.routers.choice import Choice
from dlm.nn.routers.limited import Limited
from dlm.nn.routers.moge import MoGE
from dlm.nn.routers.topk import TopK
from dlm.nn.visibility.causal import Causal
from tests import tiny

SOME = Experts(count=4, per_token=2, width=6, router=MoGE(groups=2))
_KINDS = dict(
    moge=MoGE(groups=2), topk=TopK(), limited=Limited(groups=2, kept=2), choice=Choice()
)
_MADE: dict = {}


def network(**changes):
    """The masked loss of a batch."""
    config = tiny.model_config(**changes)
    objective = build_member("masked", "objectives", tiny.VOCAB)
    params, batch = tiny.shapes(config), tiny.batch(tiny.tokens(2, 6))
    return tiny.program(
        lambda p, key: objective.loss(tiny.models(config, p), batch, key).nats_sum,
        params,
        jax.random.key(0),
    )


def judged_by(**changes):
    """What the network says beside its prediction."""
    net = tiny.net(tiny.model_config(**changes))
    return jax.eval_shape(
        lambda: net(tiny.under(tiny.canvas(tiny.tokens(2, 6)), Causal())).heads
    )


def attention(**changes):
    return network(attention=dataclasses.replace(tiny.ATTENTION, **changes))


def latent(**changes):
    return attention(
        latent=Latent(**dict(kv_rank=4, q_rank=3, nope=4, rope=2, value=3) | changes)
    )


def turning(**changes):
    return attention(
        rope=Rope(**dict(base=100.0, kind="llama3", original=20) | changes)
    )


def normed(**changes):
    return network(norm=Norm(**changes))


def ffn(**changes):
    return network(ffn=dataclasses.replace(tiny.model_config().ffn, **changes))


def routed(router, over=None, **changes):
    """A layer, its figures and the gradient of its parameters."""
    settings = dataclasses.replace(SOME, count=8, router=router, **changes)
    layer = experts.Experts(settings, "swiglu", 8, 2, over)
    rows = jnp.zeros((2, 5, 8)), jnp.ones((2, 5), bool), jnp.zeros(2)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), *rows))

    def loss(params, *rows):
        y_BLD, sums = layer.apply(params, *rows)
        return 1e-3 * y_BLD.sum(), (y_BLD, sums)

    return tiny.program(jax.grad(loss, has_aux=True), params, *rows)


def router_of(kind):
    """A probe: what a router's field changes in a layer."""

    def probe(**changes):
        return routed(dataclasses.replace(_KINDS[kind], **changes))

    probe.__name__ = f"router_{kind}"
    return probe


def balanced(**changes):
    """The router's gradient under a balance loss, on two devices."""
    router = dataclasses.replace(
        _KINDS["moge"], balance=Balance(**dict(weight=0.5) | changes)
    )
    return routed(router, mesh.make(MeshConfig(data=2)))


def several(**changes):
    """The shapes of a network's parameters, and the layer's answers."""
    rows = dataclasses.replace(SOME, **changes)
    shapes = tiny.shapes(tiny.model_config(layers=3, experts=rows))
    return jax.tree.map(lambda p: np.array(p.shape), shapes), routed(
        MoGE(groups=2), per_token=rows.per_token
    )


def computed(**changes):
    """The program that computes the same."""
    layer = experts.Experts(dataclasses.replace(SOME, **changes), "swiglu", 8, 2)
    rows = jnp.zeros((2, 5, 8)), jnp.ones((2, 5), bool), jnp.zeros(2)
    return str(
        jax.make_jaxpr(lambda: layer.init_with_output(jax.random.key(0), *rows)[0][0])()
    )


def routing(corpus, **changes):
    """The scores of a fresh model's routers."""
    from dlm.app.context import RunContext
    from dlm.app.experiment import Experiment

    if not _MADE:
        run = build_run(
            tiny.recipe(
                corpus,
                nn__layers=1,
                nn__experts=dict(
                    count=4, per_token=2, width=6, router=dict(name="moge", groups=2)
                ),
            )
        )
        experiment_run = Experiment(run, run.text.fit(()))
        _MADE["subject"] = RunContext(
            experiment_run, experiment_run.new_state().params, run.data.source
        )
    return [
        (name, value) for name, value, _ in Routing(**changes).run(_MADE["subject"], 0)
    ]


def began(corpus, **changes):
    """What a run begins with."""
    from dlm.app.experiment import Experiment

    run = build_run(tiny.recipe(corpus, nn__layers=1, **changes))
    try:
        return jax.tree.map(
            np.asarray, Experiment(run, run.text.fit(())).new_state().params
        )
    except UserError as error:
        return str(error)


_OTHER = dict(score="sigmoid", weights="renormalised", scale="none", z=0.1, bias=0.1)
ROWS = {
    **{
        f"Experts.{k}": (several, v, {})
        for k, v in dict(
            count=8, per_token=4, width=12, shared=1, first_dense=1, period=3
        ).items()
    },
    "Experts.router": (several, TopK(bias=0.1), {}),
    **{
        f"Experts.{k}": (computed, v, {})
        for k, v in dict(backend="loop", block=2).items()
    },
    **{
        f"{c}.{k}": (router_of(c.lower()), v, {})
        for c in ("MoGE", "TopK", "Limited")
        for k, v in _OTHER.items()
    },
    **{
        f"Choice.{k}": (router_of("choice"), v, {})
        for k, v in dict(score="sigmoid", scale="none", z=0.1, slope=0.9).items()
    },
    **{
        f"{c}.balance": (router_of(c.lower()), Balance(weight=0.5), {})
        for c in ("MoGE", "TopK", "Limited")
    },
    **{
        f"Balance.{k}": (balanced, v, {})
        for k, v in dict(weight=0.1, pool="device", within="group").items()
    },
    "MoGE.groups": (router_of("moge"), 1, {}),
    "TopK.capacity": (router_of("topk"), 0.5, {}),
    "Limited.capacity": (router_of("limited"), 0.5, {}),
    "Limited.groups": (router_of("limited"), 4, {}),
    "Limited.kept": (router_of("limited"), 1, {}),
    **{f"Routing.{k}": (routing, v, {}) for k, v in dict(windows=1, devices=4).items()},
}
NETWORK = {
    "Run.start": (began, "nowhere", {}),
    **{
        f"Attention.{k}": (attention, v, {})
        for k, v in dict(
            heads=2, kv_heads=4, head_size=8, qk_norm="none", bias="qkv"
        ).items()
    },
    "Attention.rope": (attention, Rope(100.0), {}),
    **{
        f"Rope.{k}": (turning, v, {})
        for k, v in dict(
            base=50.0, kind="linear", factor=3.0, low=0.1, high=9.0, original=64
        ).items()
    },
    "Attention.latent": (attention, Latent(kv_rank=4, nope=4, rope=2, value=4), {}),
    **{
        f"Latent.{k}": (latent, v, {})
        for k, v in dict(kv_rank=5, q_rank=0, nope=5, rope=4, value=4).items()
    },
    **{f"FFN.{k}": (ffn, v, {}) for k, v in dict(kind="relu2", width=16).items()},
    "Compute.dtype": (network, "bfloat16", {}),
    **{
        f"ModelConfig.{k}": (network, v, {})
        for k, v in dict(layers=3, width=16, embeddings="tied", time="adaln").items()
    },
    **{
        f"ModelConfig.{k}": (judged_by, v, {})
        for k, v in dict(heads=("quality",), mtp_layers=1).items()
    },
    "ModelConfig.attention": (
        network,
        dataclasses.replace(tiny.ATTENTION, head_size=8),
        {},
    ),
    "ModelConfig.ffn": (
        network,
        dataclasses.replace(tiny.model_config().ffn, kind="gelu"),
        {},
    ),
    "ModelConfig.compute": (
        network,
        dataclasses.replace(tiny.model_config().compute, dtype="bfloat16"),
        {},
    ),
    "ModelConfig.norm": (network, Norm("sandwich"), {}),
    **{
        f"Norm.{k}": (normed, v, {})
        for k, v in dict(kind="sandwich", epsilon=1e-5).items()
    },
    "ModelConfig.experts": (network, SOME, {}),
}
