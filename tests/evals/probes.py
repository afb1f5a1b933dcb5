"""Probes for tests/test_fields.py: results that the fields of evaluators and tasks change."""

import contextlib
import sys
import types
from unittest import mock

import jax.numpy as jnp
import numpy as np

from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.evals import lm_eval
from tests import tiny
from tests.evals import test_calibration
from tests.evals.asked import Asked, scores


def asked(name, defaults):
    """A probe: what an evaluator that draws asks of the model, and what it makes of the answers."""

    def probe(**changes):
        context = Asked(
            documents=[
                "the cat sat on a mat and saw dogs run up",
                "while it rained on red barns and mats, dogs ran",
            ]
            * 3
        )

        def open_run(workdir):
            raise UserError(workdir)

        context.open_run = open_run
        evaluator = build_member(
            dict(name=f"evals.{name}", **defaults | changes), "evals"
        )
        try:
            return scores(evaluator, context), str(context.asked)
        except UserError as error:
            # It names the judge.
            return str(error), str(context.asked)

    probe.__name__ = name
    return probe


def judged(**changes):
    """The requests for samples that a judge would score."""
    context = Asked()
    objective = types.SimpleNamespace(claims="exact")
    judge = types.SimpleNamespace(objective=objective)

    def open_run(workdir):
        return judge

    context.open_run = open_run
    evaluator = build_member(dict(name="evals.gen_ppl", judge="a", **changes), "evals")
    # This judge has no folder, so it ends the evaluation after the samples are drawn.
    try:
        list(evaluator.run(context, 0))
    except AttributeError:
        return str(context.asked)


def calibration(**changes):
    objective = build_member("ar", "objectives", tiny.VOCAB)
    logits_LV = (
        jnp.where(jnp.arange(20) < 4, jnp.arange(20.0), -jnp.inf)
        * jnp.linspace(0.1, 1, 8)[:, None]
    )
    rows = test_calibration.measured(
        objective, np.arange(64).reshape(8, 8) % 5, logits_LV, **changes
    )
    return str(rows)


def harness(**changes):
    """The calls of lm_eval and of the model; stand-ins answer, so lm_eval may be missing."""
    said, quiet = [], contextlib.nullcontext()

    def told(name, answer=None):
        return lambda *arguments, **options: (
            said.append((name, arguments, options)) or answer
        )

    task = types.SimpleNamespace(
        OUTPUT_TYPE="loglikelihood_rolling",
        _metric_fn_list={},
        get_config=told("get"),
        set_config=told("set"),
        set_fewshot_seed=told("seed"),
    )
    loaded = dict(tasks=dict(a=task))
    local = types.SimpleNamespace(guarded=lambda: quiet, tasks=told("tasks", loaded))
    bridge = types.SimpleNamespace(HarnessLM=told("model"))
    answers = types.SimpleNamespace(
        evaluate=lambda lm, tasks, **options: (
            said.append(("evaluate", options)) or dict(results={})
        )
    )
    fakes = {"lm_eval": types.ModuleType("lm_eval"), "lm_eval.evaluator": answers}
    here, render = "dlm.evals.harness", str
    with contextlib.ExitStack() as stack:
        for name, fake in dict(
            _prepare_lm_eval=lambda: None,
            Model=told("scores"),
            _template=lambda context: render,
        ).items():
            stack.enter_context(mock.patch(f"{here}.{name}", fake))
        stack.enter_context(
            mock.patch.dict(
                sys.modules,
                fakes
                | {
                    "dlm.evals.lm_eval.local_tasks": local,
                    "dlm.evals.lm_eval.adapter": bridge,
                },
            )
        )
        for name, fake in dict(local=local, bridge=bridge).items():
            stack.enter_context(mock.patch.object(lm_eval, name, fake, create=True))
        evaluator = build_member(
            dict(name="evals.harness", **dict(tasks=("a",), dir="d") | changes), "evals"
        )
        list(evaluator.run(None, 0))
    return str(said)


HARNESS = {
    f"Harness.{name}": (harness, other, {})
    for name, other in dict(
        tasks=("b",),
        dir="e",
        data="f",
        limit=3,
        fewshot=2,
        samples=4,
        pattern="own",
        likelihood="exact",
        batch=3,
        chat="template",
        code="jail",
    ).items()
}


def task(name):
    """A probe: the first problems of a task."""

    def probe(**changes):
        member = build_member(dict(name=f"tasks.{name}", **changes), "tasks")
        return str([member[i] for i in range(6)])

    probe.__name__ = name
    return probe


def generated(**changes):
    return str(
        build_member(
            dict(name="problems", **dict(count=300) | changes), "data"
        ).documents("train")[:9]
    )


def _scored(corpus, name, **changes):
    """What an evaluator says of a real network on a few held-out windows."""
    from tests.evals.test_exact import context, says_e

    evaluator = build_member(dict(name=f"evals.{name}", windows=4) | changes, "evals")
    run_context = context(corpus)
    return str(
        scores(evaluator, says_e(run_context) if name == "tokens" else run_context)
    )


def exact(corpus, **changes):
    return _scored(corpus, "exact", **dict(steps=4, samples=4) | changes)


def tokens(corpus, **changes):
    return _scored(corpus, "tokens", **changes)
