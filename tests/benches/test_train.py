"""`dlm.bench train`: what it tells of a tiny model is consistent, and each ratio means what it
says.
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dlm import bench
from dlm.app import cli
from dlm.benches import startup, train
from dlm.core.config import load_recipe
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.machine import peak_flops
from tests import tiny


@pytest.fixture
def recipe(corpus, tmp_path):
    path = tmp_path / "tiny.py"
    config = f"{tiny.recipe(corpus)!r} | (dict(objective='ar') if arg else {{}})"
    path.write_text(f"def get_config(arg=None):\n    return {config}\n")
    return path


@pytest.mark.slow
def test_tells_every_part_of_a_run(recipe, monkeypatch, capsys):
    monkeypatch.setattr(peak_flops, "measure", lambda dtype: 1e12)
    bench.main(
        [
            "train",
            f"--config={recipe}",
            "--config.data.length=16",
            "--repeats=2",
            "--json",
        ]
    )
    out, err = capsys.readouterr()
    (model,) = json.loads(out)["models"]
    data = dict(tiny.recipe("x")["data"], length=16)
    run = build_run(load_recipe(str(recipe)) | dict(data=data))
    assert model["parameters"] == run.nn.parameters
    assert (model["batch"], model["length"]) == (8, 16)
    step, loop, sampling = model["step"], model["loop"], model["sampling"]
    flops = run.nn.flops_per_token(16) * 8 * 16
    seconds, speed = step["seconds"], step["flops_per_s"]
    np.testing.assert_allclose(speed["min"], flops / seconds["max"])
    np.testing.assert_allclose(step["share"]["min"], speed["min"] / 1e12)
    np.testing.assert_allclose(step["tokens_per_s"]["max"], 8 * 16 / seconds["min"])
    for phase in ("data", "step", "eval", "save"):
        assert loop["phases_seconds"][phase]["min"] > 0
    assert 0 < loop["data_share"]["median"] < 1
    assert 0 < loop["ratio"]["min"] <= loop["ratio"]["median"]
    assert sampling["rows"] == 4
    assert 2 <= sampling["steps"] <= 64
    assert sampling["ratio"]["min"] > 0
    assert sampling["pass_seconds"]["min"] > 0
    assert "GFLOP/s" in err
    assert "data wait" in err


def phases(data, step, eval):
    whole = data + step + eval
    return dict(data=data, step=step, eval=eval, save=0.0, all=whole)


def spread(low, median, high):
    return dict(median=median, min=low, max=high)


def test_ratios_pair_what_was_measured_in_the_same_round(recipe):
    nn = dict(layers=1, compute=dict(dtype="bfloat16"))
    run = build_run(load_recipe(str(recipe)) | dict(nn=nn))
    params = dict(a=np.zeros((3, 5)))
    trial = SimpleNamespace(
        flops=300.0,
        updates=2,
        steps=2,
        params=params,
    )
    raw = {
        "peak.float32": [300.0, 30.0],
        "peak.bfloat16": [600.0, 100.0],
        "bare": [[1.0, 3.0], [10.0, 30.0]],
        "loop": [
            phases(1.0, 4.0, 5.0),
            phases(0.0, 40.0, 0.0),
        ],
        "sampling": [1.0, 4.0],
        "passes": [1.0, 2.0],
        "peer": [2.0, 5.0],
    }
    results = train.report("x", run, trial, raw)
    assert results["parameters"] == 15
    assert results["flops_per_update"] == 300.0
    # The ratio of the medians would be another one.
    step, loop = results["step"], results["loop"]
    assert step["share"] == spread(0.3, 0.4, 0.5)
    assert step["share_of_float32"] == spread(1.0, 1.0, 1.0)
    assert step["tokens_per_s"]["max"] == 8 * 32
    assert loop["ratio"] == spread(1.0, 1.125, 1.25)
    assert loop["data_share"]["max"] == 0.2
    assert loop["phases_share"]["eval"] == 0.1
    assert results["sampling"]["ratio"]["max"] == 2.0
    del raw["sampling"], raw["passes"]
    assert "sampling" not in train.report("x", run, trial, raw)
    twin = SimpleNamespace(name="twin", parameters=15, difference=0.0)
    report = train.peer_report(twin, raw)
    assert report["ratio"] == spread(0.5, 1.25, 2.0)


def test_a_missing_peer_names_its_requirements(recipe, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "dlm.benches.peers.torch", raising=False)
    with pytest.raises(SystemExit, match="2"):
        cli.main(bench.main, ["train", f"--config={recipe}", "--peer=torch"])
    assert "requirements-parity.txt" in capsys.readouterr().err


@pytest.mark.slow
def test_startup_is_measured_from_outside(recipe, capsys):
    bench.main(["startup", f"--config={recipe}", "--config.nn.layers=1", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert (
        results["cold"]["median"] > results["help"]["median"] > 0
        and results["warm"]["median"] > results["print_config"]["median"]
    )


@pytest.mark.slow
def test_startup_tells_why_a_run_failed(recipe):
    with pytest.raises(UserError, match="did not reach its first update.*nn.layerz"):
        startup.measure(str(recipe), [("config.nn.layerz", "1")], 1)
