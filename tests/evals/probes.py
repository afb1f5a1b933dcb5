"""What the fields of evaluators, tasks and generated corpora change; the rows of tests/test_fields.py ask here."""

import types

import jax.numpy as jnp
import numpy as np

from dlm.run import spec
from tests import tiny
from tests.evals import test_calibration
from tests.evals.asked import Asked, scores


def asked(name, defaults):
    """A probe: what an evaluator that draws asks of the model, and what it makes of the answers."""

    def probe(**changes):
        subject = Asked(documents=["the cat sat on a mat and saw dogs run up", "while it rained on red barns and mats, dogs ran"] * 3)
        subject.other = lambda workdir: (_ for _ in ()).throw(spec.UserError(workdir))
        evaluator = spec.build(dict(name=f"evals.{name}", **defaults | changes), "evals")
        try:
            return scores(evaluator, subject), str(subject.asked)
        except spec.UserError as error:  # the judge that is asked for
            return str(error), str(subject.asked)

    probe.__name__ = name
    return probe


def judged(**changes):
    """What a judge is given to read."""
    subject, judge = Asked(), types.SimpleNamespace(objective=types.SimpleNamespace(claims="exact"))
    subject.other = lambda workdir: judge
    try:
        list(spec.build(dict(name="evals.gen_ppl", judge="a", **changes), "evals").run(subject, 0))
    except AttributeError:  # this judge cannot read
        return str(subject.asked)


def calibration(**changes):
    objective = spec.build("ar", "objectives", tiny.VOCAB)
    logits_LV = jnp.where(jnp.arange(20) < 4, jnp.arange(20.0), -jnp.inf) * jnp.linspace(0.1, 1, 8)[:, None]
    rows = test_calibration.measured(objective, np.arange(64).reshape(8, 8) % 5, logits_LV, **changes)
    return str(rows)


def task(name):
    """A probe: the first problems of a task."""

    def probe(**changes):
        member = spec.build(dict(name=f"tasks.{name}", **changes), "tasks")
        return str([member[i] for i in range(6)])

    probe.__name__ = name
    return probe


def generated(**changes):
    return str(spec.build(dict(name="problems", **dict(count=300) | changes), "data").documents("train")[:9])


def _scored(corpus, name, **changes):
    """What an evaluator says of a real network on a few held-out windows."""
    from tests.evals.test_exact import says_e, subject

    evaluator = spec.build(dict(name=f"evals.{name}", windows=4) | changes, "evals")
    made = subject(corpus)
    return str(scores(evaluator, says_e(made) if name == "tokens" else made))


def exact(corpus, **changes):
    return _scored(corpus, "exact", **dict(steps=4, samples=4) | changes)


def tokens(corpus, **changes):
    return _scored(corpus, "tokens", **changes)
