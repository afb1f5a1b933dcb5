"""The context of evaluators: distinct samples in all batches, one compilation, a stop."""

import jax
import pytest

from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.run import build_run
from dlm.machine.interrupts import Preempted
from tests import tiny


@pytest.fixture(scope="module")
def experiment(corpus):
    run = build_run(tiny.recipe(corpus, nn__layers=1, sampler__steps=2))
    return Experiment(run, run.text.fit(()))


@pytest.mark.slow
def test_samples_are_numbered_through_all_batches(experiment):
    params = experiment.new_state().params
    context = RunContext(experiment, params, experiment.run.data.source)
    drawn = [tuple(reply.ids) for reply in context.draw(20, 6)]
    assert (
        len(drawn) == len(set(drawn)) == 20
        and context.details["nfe"] == 2
        and context.details["sampler"]["steps"] == 2
    )
    assert [
        tuple(r.ids) for r in RunContext(experiment, params, None).draw(17, 6)
    ] == drawn[:17], "another batch, the same samples"
    assert [
        tuple(r.ids) for r in RunContext(experiment, params, None, seed=1).draw(3, 6)
    ] != drawn[:3]
    zeros = RunContext(experiment, jax.tree.map(lambda p: 0 * p, params), None)
    assert [tuple(r.ids) for r in zeros.draw(3, 6)] != drawn[:3], (
        "the compiled sampler takes the parameters that it is given"
    )
    assert len(experiment._generators) == 1
    assert (
        len(context.generate([("ab", 4)], temperature=0.0)) == 1
        and len(experiment._generators) == 2
    )


def test_a_wish_to_stop_ends_drawing_and_reading(experiment):
    context = RunContext(experiment, {}, experiment.run.data.source, stop=lambda: True)
    for ask in (lambda: context.draw(2, 6), lambda: next(context.held_out())):
        with pytest.raises(Preempted):
            ask()
