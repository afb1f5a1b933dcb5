"""Evaluators of held-out text with a tiny network: exact likelihood and masked tokens."""

import dataclasses

import jax
import numpy as np
import pytest

from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.evals.bound import HeldOut
from dlm.evals.exact import Exact
from dlm.evals.tokens import MaskedTokens
from tests import tiny
from tests.evals.asked import scores

pytestmark = pytest.mark.slow


def context(corpus, objective="masked", **changes):
    run = build_run(
        tiny.recipe(
            corpus,
            nn__layers=1,
            data__marked_characters="aeiou",
            objective=objective,
            **changes,
        )
    )
    experiment = Experiment(run, run.text.fit(()))
    return RunContext(
        experiment, tiny.random_params(run.nn, scale=0.3), run.data.source
    )


def exact(**fields):
    return build_member(dict(name="exact") | fields, "evals")


def says_e(context):
    """The same with parameters that answer every mask with an 'e'."""
    params = jax.tree.map(lambda p: 0 * p, context.params)
    always_VD = np.full_like(params["embed_VD"], 1e-3)
    always_VD[ord("e")] = 1.0
    return dataclasses.replace(
        context,
        params={
            **params,
            "embed_VD": always_VD,
            "norm_D": np.ones_like(params["norm_D"]),
        },
    )


@pytest.fixture(scope="module")
def masked(corpus):
    return context(corpus)


def test_the_gap_is_the_bound_less_the_exact_likelihood(masked):
    results = scores(exact(windows=8, steps=4, samples=2), masked)
    bits, gap = results["exact_bits_per_byte"], results["gap_bits_per_byte"]
    batch = next(iter(masked.held_out(8)))
    bound = masked.experiment.bound(2)(masked.params, batch, masked.key)
    size = (masked.tokenizer.bytes_V[batch.tokens_BL] * batch.weights_BL).sum()
    assert bits[0] + gap[0] == pytest.approx(
        float(bound.nats_BL.sum()) / np.log(2) / float(size), rel=1e-5
    )
    assert bits[1] == 0
    assert gap[1] == pytest.approx(
        float(bound.variance_B.sum()) ** 0.5 / np.log(2) / float(size), rel=1e-5
    )
    assert masked.details["nfe"] == 4
    assert masked.details["sampler"]["rule"]["order"] == "left_to_right"


def test_an_autoregressive_model_has_no_gap_and_blocks_have_their_own_passes(corpus):
    ar = scores(
        exact(windows=8, samples=2),
        context(corpus, "ar", sampler=dict(steps=1, block=1)),
    )
    assert ar["gap_bits_per_byte"] == (0.0, 0.0)
    blocks = context(corpus, dict(name="block", size=8))
    scores(exact(windows=8, samples=2), blocks)
    assert blocks.details["nfe"] == 32
    assert blocks.details["sampler"]["block"] == 8


def test_bytes_of_prompts_are_not_counted(corpus):
    """Nats and bytes are of the same text: of each paragraph all that follows its first space."""
    run_context = context(
        corpus, "ar", sampler=dict(steps=1, block=1), data__prompt=" "
    )
    answers = [text.partition(" ")[2] for text in run_context.held_out_documents]
    size, tokens = (
        sum(len(a.encode()) for a in answers),
        sum(len(a.encode()) + 1 for a in answers),
    )
    bound = scores(HeldOut(samples=2), run_context)
    nats = bound["nats_per_token"][0] * tokens
    assert bound["bits_per_byte"][0] == pytest.approx(nats / np.log(2) / size, rel=1e-5)
    assert scores(exact(windows=0, samples=2), run_context)["exact_bits_per_byte"][
        0
    ] == pytest.approx(nats / np.log(2) / size, rel=1e-5)


def test_the_sampler_of_the_command_line_is_scored(masked):
    confident = dataclasses.replace(
        masked.experiment.run.sampler,
        rule=build_member(dict(name="confident", confidence="top"), "samplers.rules"),
        steps=3,
    )
    scores(
        exact(windows=8, samples=2),
        run_context := dataclasses.replace(masked, sampler=confident, details={}),
    )
    assert run_context.details["nfe"] == 3
    assert run_context.details["sampler"]["rule"]["name"] == "samplers.rules.confident"
    with pytest.raises(
        UserError, match="samplers.rules.ancestral reveals positions at random"
    ):
        scores(
            exact(windows=8),
            dataclasses.replace(masked, sampler=masked.experiment.run.sampler),
        )


def test_masked_tokens_are_scored_by_kind(corpus, masked):
    """A model that always predicts 'e' is right only where an e was masked, a marked vowel."""
    results = scores(MaskedTokens(windows=8, rate=0.5), says_e(masked))
    text = np.concatenate(
        [
            np.asarray(b.tokens_BL)[np.asarray(b.weights_BL) > 0]
            for b in masked.held_out(8)
        ]
    )
    vowels = np.isin(text, [*b"aeiou"])
    assert results["unmarked_token_accuracy"][0] == 0
    assert results["marked_token_accuracy"][0] == pytest.approx(
        (text[vowels] == ord("e")).mean(), abs=0.12
    )
    assert results["token_accuracy"][0] == pytest.approx(
        (text == ord("e")).mean(), abs=0.05
    )
    assert results["token_accuracy"][1] > 0
    with pytest.raises(UserError, match="predicts none"):
        scores(MaskedTokens(), context(corpus, "ar", sampler=dict(steps=1, block=1)))


def test_mistakes():
    for cls, wrong in [
        (Exact, dict(samples=3)),
        (Exact, dict(windows=-1)),
        (MaskedTokens, dict(rate=0.0)),
        (MaskedTokens, dict(windows=-1)),
    ]:
        with pytest.raises(ValueError, match="must"):
            cls(**wrong)
