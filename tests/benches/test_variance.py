"""`dlm.bench variance`: its arithmetic against a plain loop, and what it refuses."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from dlm import bench
from dlm.app import cli
from dlm.app.open_run import reopen
from dlm.benches import variance


@pytest.mark.slow
def test_both_variances_are_those_of_a_plain_loop(trained, capsys, monkeypatch):
    run = trained("masked")
    known = variance.ways(False)
    assert (
        known[0] == variance.PLAIN
        and variance.GOOD in known
        and len(known) == 16
        and len(variance.ways(True)) == 48
    )
    assert {way["times"] for way in known} >= {"importance", "antithetic"}
    some = [
        known[0],
        variance.GOOD,
        dict(variance.GOOD, times="importance", coupling="single"),
    ]
    monkeypatch.setattr(variance, "ways", lambda every: some)
    capsys.readouterr()
    bench.main(["variance", f"--workdir={run}", "--draws=3", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [{k: row[k] for k in variance.AXES} for row in rows] == some
    for row in rows:
        passes = 1 + (row["coupling"] == "complementary")
        assert (
            row["loss_variance"]
            == pytest.approx(3 * passes * row["loss_se"] ** 2, rel=1e-4)
            and row["gradient_noise"] > 0
        )
    experiment, state = reopen(run)
    objective, batch = (
        replace(experiment.objective, times="iid"),
        next(experiment.batches(0)),
    )
    value = jax.jit(
        jax.value_and_grad(
            lambda p, key: (
                (loss := objective.loss(experiment.models(p), batch, key)).nats_sum
                / loss.weight_sum
            )
        )
    )
    from dlm.core import keys

    draws = [
        value(state.params, key)
        for key in jax.random.split(keys.key(experiment.root, "noise"), 3)
    ]
    flat = np.stack(
        [
            np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])
            for _, grads in draws
        ]
    )
    assert rows[0]["loss_variance"] == pytest.approx(
        np.var([float(v) for v, _ in draws], ddof=1), rel=1e-3
    )
    assert rows[0]["gradient_variance"] == pytest.approx(
        flat.var(0, ddof=1).sum(), rel=1e-3
    )


def test_mistakes(capsys, tmp_path):
    for words, said in [
        (["--draws=1"], "--draws=1 must be at least 2"),
        ([], "is not a run directory"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            cli.main(bench.main, ["variance", f"--workdir={tmp_path}", *words])
        assert said in capsys.readouterr().err
