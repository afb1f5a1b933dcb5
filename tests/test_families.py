"""Every member of every family keeps its contract and its family's laws; new files are found.

One table lists the families. The checks of a contract are in `tests/listing.py`; a law is here, or
in the file of tests that the table names, which lists the family's members itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import contracts
from dlm.core.config import build_member
from dlm.core.families import FAMILIES
from dlm.data.tfds import prepare
from dlm.nn.attend.base import Backend, Case
from dlm.nn.attend.dense import DenseAttention
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers.plan import Sampler
from dlm.samplers.remask.base import largest
from dlm.samplers.rules.base import StepView
from tests import listing, tiny
from tests.evals.asked import Asked, scores
from tests.laws import probes as law_probes
from tests.nn import probes as network_probes
from tests.samplers import probes as sampler_probes
from tests.samplers import test_blockwise as sampler_tests
from tests.samplers import test_cached_reader as reading
from tests.samplers import test_speculative as speculating
from tests.test_fields import ROWS, same

PROTOCOLS: dict[str, type] = {
    "objectives": contracts.Objective,
    "noise": contracts.Process,
    "noise.schedules": contracts.Schedule,
    "nn.visibility": contracts.Visibility,
    "nn.attend": Backend,
    "nn.heads": contracts.Head,
    "nn.routers": contracts.Router,
    "samplers.rules": contracts.Rule,
    "samplers.remask": contracts.Remask,
    "samplers.drivers": contracts.Driver,
    "evals": contracts.Evaluator,
    "tasks": contracts.Task,
    "text": contracts.TokenizerConfig,
    "data": contracts.Source,
}
MEMBERS = [(family, stem) for family in PROTOCOLS for stem in listing.names(family)]
every_member = pytest.mark.parametrize(("family", "stem"), MEMBERS)


def members(family):
    """Parametrize a law over the members of one family."""
    return pytest.mark.parametrize("stem", listing.names(family))


def test_the_table_names_every_family():
    assert set(PROTOCOLS) == set(FAMILIES)


@every_member
def test_a_member_has_what_its_protocol_declares(family, stem):
    cls = listing.member(family, stem)
    listing.check_attributes(cls, PROTOCOLS[family])
    listing.check_signatures(cls, PROTOCOLS[family])


@every_member
def test_a_member_names_its_source(family, stem):
    listing.check_source(family, stem)


# ---------------------------------------------------------------------------------- noise schedules


@members("noise.schedules")
def test_a_schedule_destroys_nothing_at_first_and_everything_at_last(stem):
    schedule = build_member(stem, "noise.schedules")
    t_T = jnp.linspace(1e-3, 1 - 1e-3, 200)
    noised_T = schedule.noised(t_T)
    assert float(schedule.noised(jnp.float32(0))) == 0
    assert float(schedule.noised(jnp.float32(1))) == 1
    assert float(schedule.noised(jnp.float32(1e-6))) <= 1e-3
    assert (jnp.diff(noised_T) >= 0).all()
    inverse_T = schedule.time_of(noised_T)
    # Near 1 several times have the same float32.
    np.testing.assert_allclose(
        inverse_T[noised_T < 0.999], t_T[noised_T < 0.999], atol=2e-3
    )


@members("noise.schedules")
def test_the_rate_of_a_schedule_is_its_logarithmic_derivative(stem):
    schedule = build_member(stem, "noise.schedules")
    t_T = jnp.linspace(0.01, 0.99, 99)
    derivative_T = jax.vmap(jax.grad(lambda t: jnp.log(schedule.noised(t))))(t_T)
    np.testing.assert_allclose(schedule.rate(t_T), derivative_T, rtol=2e-3, atol=1e-5)


# ------------------------------------------------------------------------------------------ network


@members("nn.attend")
def test_a_backend_agrees_with_the_dense_reference(stem):
    """Values and gradients, under every kind of visibility that it supports."""
    backend = listing.member("nn.attend", stem)()
    rng = np.random.default_rng(0)
    for visibility in (Full(), Causal(), Block(size=2)):
        streams = visibility.streams
        layout = contracts.Layout().complete(6)
        case = Case(visibility, layout, layout, streams)
        if backend.supports(case) is not None:
            continue
        shapes = [(2, streams * 6, heads, 4) for heads in (4, 2, 2)]
        inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
        tiny.close(
            _attention(backend, case, inputs),
            _attention(DenseAttention(), case, inputs),
        )


def _attention(backend, case, inputs):
    prepared = backend.prepare(case)

    def attend(q_BLHK, k_BMJK, v_BMJK):
        out_BLHK = backend.attend(q_BLHK, k_BMJK, v_BMJK, prepared, 0.5)
        return jnp.square(out_BLHK).sum(), out_BLHK

    return jax.jit(jax.value_and_grad(attend, (0, 1, 2), has_aux=True))(*inputs)


@members("nn.heads")
def test_a_head_counts_the_parameters_that_it_makes(stem):
    head = listing.member("nn.heads", stem)()
    sizes = []

    def param(name, init, shape):
        sizes.append(int(np.prod(shape)))
        return init(jax.random.key(0), shape)

    result = head(param, jnp.ones((2, 3, 8)))
    assert sum(sizes) == head.parameters(8, tiny.VOCAB.size) > 0
    assert all(leaf.shape[:2] == (2, 3) for leaf in jax.tree.leaves(result))


@members("nn.routers")
def test_a_router_scores_every_expert_and_refuses_too_many(stem):
    router = build_member(stem, "nn.routers")
    logits_TE = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.float32)
    scores_TE = router.scores(logits_TE)
    assert scores_TE.shape == (5, 8) and (scores_TE >= 0).all()
    np.testing.assert_allclose(router.shares(scores_TE).sum(-1), 1, rtol=1e-5)
    router.check(64, 8)
    with pytest.raises(ValueError, match="per_token=65"):
        router.check(64, 65)


# ----------------------------------------------------------------------------- text, data and tasks

TEXTS = ["The cat sat.", "naïve 北京 🙂", "", " two  spaces\n\ttab"]


@members("text")
def test_a_tokenizer_gives_every_text_back_and_counts_its_bytes(stem):
    tokenizer = build_member(stem, "text").fit(TEXTS * 20)
    vocab = tokenizer.vocab
    assert len({vocab.bos, vocab.eos, vocab.pad, vocab.mask}) == 4
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.bytes_V[ids].sum() == len(text.encode())
        assert not set(ids.tolist()) & {vocab.bos, vocab.eos, vocab.pad, vocab.mask}


@pytest.fixture
def source(corpus, tmp_path):
    """Build a source; those that read files are told which."""
    local = dict(paths=(str(corpus),), unit="paragraph", held_out=0.3)

    def build(stem):
        options = dict(name=stem)
        if stem == "local":
            options |= local
        if stem == "tfds":
            folder = tmp_path / "prepared"
            if not folder.exists():
                prepare(
                    build_member(dict(name="local", **local), "data"),
                    "one",
                    str(folder),
                )
            options |= dict(dataset="one", data_dir=str(folder))
        return build_member(options, "data")

    return build


@members("data")
def test_a_source_gives_the_same_documents_again_and_holds_some_out(stem, source):
    first, again = source(stem), source(stem)
    train, held_out = (list(first.documents(split)) for split in ("train", "held_out"))
    assert train and held_out and not set(train) & set(held_out)
    assert train == list(again.documents("train"))
    assert first.documents("train")[len(train) - 1] == train[-1]
    assert first.fingerprint("train") == again.fingerprint("train")


# ----------------------------------------------------------------------------------------- sampling


def _view(process, s, seed=0):
    """A step of a half-filled canvas in which the first and the last position may not change."""
    rng = np.random.default_rng(seed)
    z_BL = rng.integers(0, tiny.VOCAB.eos, (3, 10))
    z_BL[:, 1:9:2] = tiny.VOCAB.mask
    z_BL[:, [0, 9]] = tiny.VOCAB.mask
    canvas = tiny.canvas(z_BL)
    canvas = dataclasses.replace(canvas, layout=canvas.layout.complete(10))
    active_BR = np.ones((3, 10), bool)
    active_BR[:, [0, 9]] = False
    log_prob_BR = jnp.asarray(np.log(rng.uniform(0.1, 1, (3, 10))), jnp.float32)
    times = (jnp.full(3, 0.6), jnp.full(3, s))
    return StepView(canvas, process, jnp.asarray(active_BR), *times, log_prob_BR)


@pytest.mark.slow
@members("samplers.rules")
@pytest.mark.parametrize("s", [0.3, 0.0])
def test_a_rule_changes_active_positions_alone_and_fills_all_at_the_end(stem, s):
    rule = build_member(stem, "samplers.rules")
    process = build_member("mask", "noise", tiny.VOCAB)
    view = _view(process, s)
    key_B = jax.random.split(jax.random.key(0), 3)
    output = sampler_tests.neighbours(view.canvas)
    state = rule.init(view.canvas)
    z_BR, _ = jax.jit(lambda keys: rule.step(keys, output, view, state))(key_B)
    before_BR, after_BR = np.asarray(view.canvas.z_BL), np.asarray(z_BR)
    assert (after_BR == before_BR)[~np.asarray(view.active_BR)].all()
    open_BR = np.asarray(view.undecided())
    filled_BR = open_BR & (after_BR != tiny.VOCAB.mask)
    if s == 0:
        assert (filled_BR == open_BR).all()
    assert filled_BR.any(1).all() or not rule.always_progresses
    if not rule.edits_tokens:
        assert (after_BR == before_BR)[~open_BR].all()


@members("samplers.remask")
def test_a_remask_gives_probabilities_within_what_it_claims(stem):
    remask = build_member(stem, "samplers.remask")
    view = _view(build_member("mask", "noise", tiny.VOCAB), 0.3)
    output = sampler_tests.neighbours(view.canvas)
    sigma_BR = np.asarray(remask.sigma(output, view))
    assert (sigma_BR >= 0).all() and (sigma_BR <= 1).all()
    if remask.marginals == "kept":
        assert (sigma_BR <= np.asarray(largest(view)) + 1e-6).all()


@pytest.mark.slow
@members("samplers.drivers")
def test_a_driver_keeps_anchors_and_leaves_nothing_undecided(stem):
    driver = build_member(stem, "samplers.drivers")
    plan = Sampler(driver=driver, block=4, steps=2)
    draw = speculating.drawing(plan, Block(size=1, any_order=True), cached=False)
    start = reading.canvas()
    done = jax.jit(draw)(start, reading.KEY_B)
    z_BL, frozen_BL = np.asarray(done.canvas.z_BL), np.asarray(start.frozen_BL)
    assert (z_BL == np.asarray(start.z_BL))[frozen_BL].all()
    assert (z_BL != tiny.VOCAB.mask).all()
    assert np.isfinite(done.log_prob_BL).all()


@members("evals")
def test_an_evaluator_declares_its_claims_and_the_source_of_its_errors(stem):
    cls = listing.member("evals", stem)
    # None: the claims are those of each score, or of the objective.
    assert cls.claims in (None, "exact", "bound", "heuristic", "samples")
    assert cls.over in (
        None,
        "noise",
        "samples",
        "windows",
        "documents",
        "batches",
        "problems",
    )
    assert isinstance(cls.reads, bool)


# --------------------------------------------------------------------------------- no field is idle


def _problems(task):
    return [task[i] for i in range(6)]


def _documents(source):
    return list(source.documents("train")), list(source.documents("held_out"))


def _ids(config):
    tokenizer = config.fit(TEXTS * 20)
    return [tokenizer.encode(text).tolist() for text in TEXTS], tokenizer.content()


def _noised(process):
    key_B = jax.random.split(jax.random.key(0), 2)
    x_BL = jnp.asarray(tiny.tokens(2, 8))
    t_BL = jnp.linspace(0.1, 0.9, 8)[None]
    z_BL = process.corrupt(key_B, x_BL, t_BL, jnp.ones((2, 8), bool))
    return z_BL, process.log_q(z_BL, t_BL, x_BL)


def _allowed(visibility):
    """Who attends to whom, and what the capabilities say."""
    layout = contracts.Layout().complete(6)
    allowed = [visibility.allowed(layout, layout, pair) for pair in ("zz", "zx", "xx")]
    declared = [visibility.shift, visibility.any_order, visibility.exact_cache]
    return allowed, [str(value) for value in declared]


OUTCOMES = {
    "tasks": _problems,
    "data": _documents,
    "text": _ids,
    "noise": _noised,
    "noise.schedules": lambda schedule: schedule.noised(jnp.linspace(0, 1, 9)),
    "nn.visibility": _allowed,
    "nn.routers": lambda router: network_probes.routed(router),
    "objectives": lambda objective: law_probes.loss_program(objective),
    "samplers.rules": lambda rule: sampler_probes.sample(rule=rule, steps=3),
    "samplers.remask": lambda remask: sampler_probes.sample(remask=remask, steps=12),
    "samplers.drivers": lambda driver: sampler_probes.driven(driver),
    "evals": lambda evaluator: scores(evaluator, Asked()),
}
FIELDS = [
    (family, stem, field, value)
    for family, stem in MEMBERS
    for field, values in listing.other_values(listing.member(family, stem)).items()
    for value in values[:1]
    if f"{listing.member(family, stem).__name__}.{field}" not in ROWS
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stem", "field", "value"), FIELDS)
def test_another_value_of_a_field_changes_the_outcome(family, stem, field, value):
    outcome = OUTCOMES[family]
    plain, changed = (
        build_member(dict(name=stem) | change, family, tiny.VOCAB)
        for change in ({}, {field: value})
    )
    assert not same(outcome(plain), outcome(changed))
