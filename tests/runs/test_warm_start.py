"""A run that begins with another run's weights, on any mesh and with any objective."""

import json

import jax
import numpy as np
import pytest

from dlm import train
from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.app.open_run import reopen
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.runs import directory
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """An autoregressive run that has learned something of the embedded text."""
    workdir = tmp_path_factory.mktemp("start") / "ar"
    train.train(build_run(recipe("ar", 120)), workdir)
    return workdir


def recipe(objective, steps, **changes):
    return (
        dict(
            steps=steps,
            text=dict(name="bpe", size=512),
            data=dict(
                source=dict(name="embedded", parts=("prose",)), batch=8, length=64
            ),
            nn=dict(
                layers=2,
                width=64,
                attention=dict(heads=2, kv_heads=2, head_size=32),
                ffn=dict(kind="relu2", width=256),
            ),
            objective=objective,
            sampler=dict(steps=1, block=1) if objective == "ar" else {},
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=5),
            evals=dict(bound=dict(samples=4, windows=64)),
            intervals=dict(log=50, save=0),
        )
        | changes
    )


def nats(workdir, windows=96):
    """The bound of each held-out window, under the same noise for every run."""
    experiment, state = reopen(workdir)
    subject, bound = (
        RunContext(experiment, state.averaged, experiment.run.data.source),
        experiment.bound(4),
    )
    return np.concatenate(
        [
            np.asarray(bound(state.averaged, batch, subject.key).nats_BL).sum(1)
            for batch in subject.held_out(windows)
        ]
    )


def test_what_is_taken_is_what_was_left(learned):
    want = reopen(learned)[1].params
    for mesh in ({}, dict(data=1, fsdp=2)):
        run = build_run(
            recipe("adapted", 10, start=str(learned), mesh=mesh, optim=dict(ema=0.9))
        )
        state = Experiment(run, run.text.restore(learned)).new_state()
        tiny.identical(
            *(jax.tree.map(np.asarray, tree) for tree in (want, state.params))
        )
        tiny.identical(*(jax.tree.map(np.asarray, tree) for tree in (want, state.ema)))


def test_an_autoregressive_start_beats_fresh_weights_at_equal_updates(
    learned, tmp_path
):
    """By more than four standard errors of the mean difference over the windows."""
    count = dict(pattern="count")
    ways = dict(
        scratch=recipe(dict(name="masked", **count), 40),
        adapted=recipe(
            dict(name="adapted", reach_warmup=0.3, **count), 40, start=str(learned)
        ),
    )
    for name, way in ways.items():
        train.train(build_run(way), tmp_path / name)
    gain = nats(tmp_path / "scratch") - nats(tmp_path / "adapted")
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5, gain.mean()
    assert json.loads((tmp_path / "adapted" / directory.CONFIG).read_text())[
        "start"
    ] == str(learned)
    again = train.train(build_run(ways["adapted"]), tmp_path / "adapted")
    assert again["updates"] == 40, "a finished run is not begun again"


def test_what_does_not_fit_is_told(learned, tmp_path):
    wide = dict(recipe("masked", 5)["nn"], ffn=dict(kind="relu2", width=128))
    gated = dict(recipe("masked", 5)["nn"], ffn=dict(kind="swiglu", width=256))
    fewer = dict(
        recipe("masked", 5)["nn"],
        attention=dict(heads=2, kv_heads=2, head_size=32, qk_norm="none"),
    )
    for changes, words in (
        (dict(start=str(tmp_path / "none")), "is not a run directory"),
        (dict(start=str(learned), nn=wide), "down_FD has the shape"),
        (
            dict(start=str(learned), nn=fewer),
            "attention/k_norm_K, which this network has not",
        ),
        (
            dict(start=str(learned), text=dict(name="bpe", size=300)),
            "not a tokenizer of 300 ids",
        ),
    ):
        with pytest.raises(UserError, match=words):
            train.train(build_run(recipe("masked", 5, **changes)), tmp_path / "run")
        assert not (tmp_path / "run" / "checkpoints").exists()
    said = []
    run = build_run(recipe("masked", 5, start=str(learned), nn=gated))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlm.core.console.say", said.append)
        Experiment(run, run.text.restore(learned)).new_state()
    assert "new: gate_DF" in said[-1]
