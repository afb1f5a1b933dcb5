"""What an update would cost on chips that are not there; here the tests' own devices stand for
them, since libtpu may be missing.
"""

import importlib.util
import json

import jax
import pytest

from dlm import bench
from dlm.app import cli
from dlm.benches import aot
from dlm.core.errors import UserError
from dlm.core.run import build_run
from tests import tiny
from tests.drills.test_stablehlo import MOGE


@pytest.fixture
def here(monkeypatch):
    """The tests' devices in the place of a topology's."""
    monkeypatch.setattr(aot, "_devices", lambda topology: jax.devices()[:4])
    before = jax.config.jax_exec_time_optimization_effort
    yield
    jax.config.update("jax_exec_time_optimization_effort", before)
    jax.config.update("jax_memory_fitting_effort", before)


def tiny_run(**changes):
    return build_run(
        tiny.recipe("nowhere.txt", nn__layers=1, data__length=16, **MOGE | changes)
    )


@pytest.mark.slow
def test_memory_flops_and_collectives_are_told(here):
    run = tiny_run(mesh=dict(data=1, expert=4))
    results = aot.measured(run, "v5e:2x2", quick=True)
    memory = results["memory"]
    assert (
        results["mesh"] == dict(data=1, fsdp=1, tensor=1, expert=4)
        and results["capacity"] == 16e9
        and results["fits"]
    )
    assert (
        4 * 3 * run.nn.parameters / 4 < memory["arguments"] < 4 * 3 * run.nn.parameters
    ), "a part of the state, and of its experts"
    assert (
        memory["whole"]
        == memory["arguments"]
        + memory["results"]
        - memory["aliased"]
        + memory["temporaries"]
    )
    assert (
        results["flops"] > 0
        and results["model_flops"] == run.flops_per_token * 8 * 16 / 4
    )
    assert {"all-gather", "reduce-scatter"} <= set(
        results["sent"]["in_loops"] | results["sent"]["once"]
    )
    assert "GB (0%)" in aot.table(results) and "expert=4" in aot.table(results)
    assert (
        jax.config.jax_exec_time_optimization_effort
        == jax.config.jax_memory_fitting_effort
        == -1.0
    )
    with pytest.raises(UserError, match="config.mesh covers 1 of the 4 chips"):
        aot.measured(tiny_run(mesh=dict(data=1, expert=1)), "v5e:2x2", quick=True)


def test_what_does_not_fit_is_told(here, monkeypatch):
    class Lowered:
        def __init__(self, cause):
            self.cause = cause

        def lower(self, state, batch):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError(self.cause)

    from dlm.app.experiment import Experiment

    monkeypatch.setattr(
        Experiment, "update", Lowered("RESOURCE_EXHAUSTED: Used 120G of 95G hbm.\nmore")
    )
    run = tiny_run(mesh=dict(data=1, expert=4))
    results = aot.measured(run, "v5e:2x2", quick=False)
    assert not results[
        "fits"
    ] and "does not fit a chip: RESOURCE_EXHAUSTED: Used 120G of 95G hbm." in aot.table(
        results
    )
    monkeypatch.setattr(Experiment, "update", Lowered("INTERNAL: a bug"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        aot.measured(run, "v5e:2x2", quick=False)


def test_the_command_tells_mistakes_and_fails_where_it_does_not_fit(
    monkeypatch, capsys
):
    recipe = "--config=configs/masked.py:size=tiny"
    for topology in ("v5q:2x2", "v5p", "v5p:2", "v5p:2xtwo"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(bench.main, ["aot", recipe, f"--topology={topology}"])
        assert "v5p:2x2x2" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SystemExit, match="2"):
            cli.main(bench.main, ["aot", recipe, "--topology=v5p:2x2x2"])
        assert "pip install -r requirements-aot.txt" in capsys.readouterr().err
    calls = []
    shown = dict(
        topology="v5p:2x2",
        mesh={},
        parameters=1,
        tokens=1,
        fits=False,
        cause="too much",
    )
    monkeypatch.setattr(
        aot, "measured", lambda *arguments: calls.append(arguments) or shown
    )
    with pytest.raises(SystemExit, match="1"):
        cli.main(
            bench.main,
            [
                "aot",
                recipe,
                "--topology=v5p:2x2",
                "--config.data.length=64",
                "--quick",
                "--json",
            ],
        )
    run, topology, quick = calls[0]
    out, err = capsys.readouterr()
    assert (
        (run.data.length, topology, quick) == (64, "v5p:2x2", True)
        and json.loads(out) == shown
        and "too much" in err
    )
