"""`dlm.bench sample` and `dlm.bench caches` on tiny runs: the arms do what they say, and the usual
loop is the loop without a cache.
"""

import json
import types
from functools import partial

import numpy as np
import pytest

from dlm import bench
from dlm.app.open_run import reopen
from dlm.benches import caches, sample
from dlm.benches.sampling import plain
from dlm.core.errors import UserError
from dlm.samplers.plan import Cache

pytestmark = pytest.mark.slow


def test_every_arm_is_told_beside_the_usual_loop(trained, capsys):
    masked = f"--workdir={trained('masked')}"
    flags = ["--length=40", "--rows=2", "--steps=4", "--repeats=1", "--quality=4"]
    others = [
        f"--ar={trained('ar')}",
        f"--block={trained('block')}",
        "--only=dual,refreshed,ar,speculative",
    ]
    capsys.readouterr()
    bench.main(["sample", masked, *flags, *others, "--json"])
    out, err = capsys.readouterr()
    results = json.loads(out)
    assert set(results["arms"]) == {"dual", "refreshed", "ar", "speculative"} and set(
        results["quality"]
    ) == {"plain", "dual", "refreshed"}
    assert results["plain"]["nfe"] == results["arms"]["dual"]["nfe"] == 8
    assert sample._sampler(
        types.SimpleNamespace(steps=8), **sample.ARMS["refreshed"]
    ).cache == Cache("dual", refresh=2)
    assert (
        results["arms"]["ar"]["nfe"] == 40
        and 10 * 2 + 1 <= results["arms"]["speculative"]["nfe"] <= 81
    )
    assert all(
        arm["ratio"]["min"] > 0 and arm["loop"]["min"] > 0
        for arm in results["arms"].values()
    )
    assert (
        all(
            0 < q["entropy"] < np.log(260) and q["nll"] > 0
            for q in results["quality"].values()
        )
        and "quality of dual" in err
    )
    for flag, words in (
        ("--only=duel", "no arm 'duel'"),
        ("--quality=2", "needs a judge"),
        ("--rows=0", "at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            bench.main(["sample", masked, flag])
    with pytest.raises(UserError, match="no masked model"):
        bench.main(["sample", f"--workdir={trained('ar')}"])


def sharpened(forward, params, z_BL):
    return 1e4 * forward(params, z_BL)


def test_the_usual_loop_reveals_the_same_where_it_is_judged(trained):
    """Where nothing is left to chance, whatever noise is drawn: the tokens, and the order in which
    they come.
    """
    experiment, state = reopen(trained("masked"))
    args, samples = types.SimpleNamespace(length=40, rows=2, steps=4), []
    for judged in (False, True):
        loop = plain.Plain(experiment, state.averaged, args, judged)
        forward = loop._forward
        vars(loop)["_forward"] = partial(sharpened, forward)
        samples.append(loop.draw(3))
    np.testing.assert_array_equal(*samples)
    assert (np.array(samples) != experiment.run.nn.vocab.mask).all()


def test_each_step_of_the_usual_loop_reveals_as_many_as_the_others():
    assert plain._shares(32, 5) == [7, 7, 6, 6, 6] and plain._shares(3, 8) == [
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        0,
    ]


def test_caches_are_compared_with_none(trained, capsys, monkeypatch):
    monkeypatch.setattr(caches, "KINDS", ("prefix", "dual"))
    masked = f"--workdir={trained('masked')}"
    capsys.readouterr()
    flags = ["--length=40", "--rows=2", "--repeats=1", "--blocks=8", "--json"]
    bench.main(["caches", masked, *flags, "--refresh=0,1"])
    out, err = capsys.readouterr()
    rows = json.loads(out)["caches"]
    assert [(r["kind"], r["refresh"]) for r in rows] == [
        (k, n) for k in caches.KINDS for n in (0, 1)
    ]
    assert all(
        r["agree"] == r["until"] == 1 for r in rows if r["refresh"] == 1
    ) and all(0 <= r["until"] <= r["agree"] <= 1 for r in rows)
    assert "as without" in err and "temperature 0" in err
    monkeypatch.setattr(caches, "KINDS", ("dual",))
    bench.main(["caches", masked, *flags, "--refresh=0,1", "--temperature=1"])
    warm = json.loads(capsys.readouterr().out)
    seldom, always = warm["caches"]
    assert warm["temperature"] == 1 and seldom["agree"] < min(r["agree"] for r in rows)
    assert always["agree"] == 1, "the same random numbers with a cache as without"
    for flag, words in (
        ("--blocks=8,x", "whole numbers"),
        ("--refresh=-1", "whole numbers"),
        ("--rows=10000", "held-out texts"),
        ("--temperature=-1", "not be neg"),
    ):
        with pytest.raises(UserError, match=words):
            bench.main(["caches", masked, flag])
