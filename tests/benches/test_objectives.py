"""`dlm.bench objectives`: it times what it says, as ratios to plain masked diffusion, and tells the
limits.
"""

import json

import pytest

from dlm import bench
from dlm.app import cli
from tests import tiny


@pytest.mark.slow
def test_ratios_of_updates_and_of_an_evaluation(corpus, tmp_path, capsys):
    recipe = tiny.recipe(corpus, nn__layers=1, intervals=dict(log=1))
    (tmp_path / "r.py").write_text(
        f"def get_config(arg=None):\n    return {recipe!r}\n"
    )
    bench.main(
        [
            "objectives",
            f"--config={tmp_path / 'r.py'}",
            "--only=ar,block:8",
            "--repeats=1",
            "--json",
        ]
    )
    out, err = capsys.readouterr()
    results = json.loads(out)
    assert set(results["updates"]) == {"ar", "block:8"} and results["limits"] == dict(
        block=2.2, evaluation=0.8
    )
    assert all(
        0 < r["min"] <= r["median"] <= r["max"]
        for r in (
            *results["updates"].values(),
            results["evaluation"],
            results["masked_seconds"],
        )
    )
    assert "block:8" in err and "at most 2.2" in err and "at least 0.8" in err


def test_mistakes(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(bench.main, ["objectives", "--repeats=0"])
    assert "--repeats=0 must be at least 1" in capsys.readouterr().err
