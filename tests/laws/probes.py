"""What the fields of objectives and of noise change; the rows of tests/test_fields.py ask here."""

import dataclasses

import jax
import jax.numpy as jnp

from dlm.core.config import build_member
from dlm.core.contracts import Models
from tests import tiny
from tests.samplers import test_blockwise as sampler_tests


def objective(**changes):
    """The loss of a network that reads neighbours."""
    return loss_program(
        build_member(dict(name="masked") | changes, "objectives", tiny.VOCAB)
    )


def loss_program(member):
    """The program of an objective's loss, for a network that reads neighbours."""
    batch = tiny.batch(tiny.tokens(4, sampler_tests.L))
    models = Models(sampler_tests.neighbours, statistics=jnp.arange(32.0) + 1)
    return tiny.program(
        lambda key: member.loss(models, batch, key).nats_sum, jax.random.key(0)
    )


def blocks(**changes):
    """The loss of block diffusion half-way through a run."""
    member = build_member(
        dict(name="block", size=2) | changes, "objectives", tiny.VOCAB
    )
    batch = tiny.batch(tiny.tokens(8, 6))
    models = tiny.models(tiny.model_config(), progress=jnp.float32(0.1))
    return tiny.program(
        lambda key: member.loss(models, batch, key).nats_sum, jax.random.key(0)
    )


def kin(name):
    """A probe: the loss of another kind of diffusion."""

    def probe(**changes):
        member = build_member(
            dict(name=name.lower()) | changes, "objectives", tiny.VOCAB
        )
        batch = tiny.batch(tiny.tokens(4, sampler_tests.L))
        batch = dataclasses.replace(batch, marked_BL=batch.tokens_BL % 2)
        if name == "Adapted":  # the network is called otherwise early in training
            config = tiny.model_config()

            def early(params, key):
                models = tiny.models(config, params, progress=jnp.float32(0.1))
                return member.loss(models, batch, key).nats_sum

            return tiny.program(early, tiny.shapes(config), jax.random.key(0))
        models = Models(sampler_tests.neighbours, statistics=jnp.arange(32.0) + 1)
        return tiny.program(
            lambda key: member.loss(models, batch, key).nats_sum, jax.random.key(0)
        )

    probe.__name__ = name
    return probe


COSINE = dict(name="mask", schedule="cosine")
KIN = {
    "Adapted": dict(
        times="iid",
        process=COSINE,
        pattern="count",
        coupling="complementary",
        weights="flat",
        steps=2,
        shift=0,
        reach_warmup=0.5,
    ),
    "Hybrid": dict(times="iid", process=dict(name="uniform"), weights="dynamic"),
    "Learned": dict(times="iid"),
    "Partition": dict(times="iid"),
    "Priority": dict(
        times="iid", coupling="complementary", strength=3.0, marks="permuted"
    ),
    "Span": dict(
        times="iid",
        process=COSINE,
        coupling="complementary",
        weights="flat",
        steps=2,
        length=2,
    ),
    "Prism": dict(
        times="iid",
        process=COSINE,
        pattern="count",
        coupling="complementary",
        weights="flat",
        steps=2,
    )
    | dict(tokens=1, quality_weight=3.0, temperature=0.0),
    "ProSeCo": dict(
        times="iid",
        process=COSINE,
        pattern="count",
        coupling="complementary",
        weights="flat",
        steps=2,
    )
    | dict(correction=1.0, temperature=0.0),
}


def noise(**changes):
    process = build_member(dict(name="mask") | changes, "noise", tiny.VOCAB)
    return process.schedule.noised(jnp.array([0.2, 0.7]))


def polynomial(**changes):
    return noise(schedule=dict(name="polynomial") | changes)


def uniform(**changes):
    process = build_member(dict(name="uniform") | changes, "noise", tiny.VOCAB)
    return process.alpha(jnp.array([0.2, 0.7]))


def hybrid(**changes):
    return build_member(dict(name="hybrid") | changes, "noise", tiny.VOCAB).noise_probs(
        jnp.array([0.2, 0.7])
    )


def dropped(**changes):
    """The loss of an autoregressive model with a layer that predicts from further back."""
    member, config = (
        build_member(dict(name="ar", **changes), "objectives", tiny.VOCAB),
        tiny.model_config(mtp_layers=1),
    )
    batch, params = tiny.batch(tiny.tokens(2, 6)), tiny.shapes(config)
    return tiny.program(
        lambda p, key: member.loss(Models(tiny.net(config, p)), batch, key).nats_sum,
        params,
        jax.random.key(0),
    )
