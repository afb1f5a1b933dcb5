"""Intervals: what ± means, and that it covers what it should."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dlm.core import intervals
from dlm.reports import scores
from tests.reports.conftest import score


def share(right, trials):
    """What an evaluator makes of so many right answers."""
    value, se = intervals.jackknife(np.mean, [1] * right + [0] * (trials - right))
    return score("accuracy", value, se=se, over="problems", trials=trials)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(1, 4),
)
def test_no_share_of_trials_has_an_interval_narrower_than_one_trial(counts, seeds):
    right, trials = counts
    row = share(right, trials)
    low, high = stats.binomtest(right, trials).proportion_ci(method="wilson")
    assert scores.interval(row) == pytest.approx(
        max(high - row["value"], row["value"] - low), rel=1e-4
    )
    mean, half = scores.combined([dict(row, seed=seed) for seed in range(seeds)])
    assert mean == pytest.approx(row["value"]) and 2 * half >= 1 / trials


def test_trials_that_hang_together_are_worth_less():
    """Tokens of 16 documents, right all together or not at all, against as many that are right by themselves."""
    together = intervals.jackknife(np.mean, np.repeat([[1.0], [0.0]], 8, 0).mean(1))
    alone = intervals.jackknife(np.mean, np.random.default_rng(0).binomial(8, 0.5, 16) / 8)
    assert intervals.half(*together, trials=16) > 1.5 * intervals.half(*alone, trials=16)
    assert intervals.half(
        *intervals.jackknife(np.mean, np.zeros(16)), trials=16
    ) == intervals.wilson(0.0, 16)


def test_an_error_that_is_not_known_is_said_to_be_unknown():
    assert (
        scores.shown("{:.3f}".format, *scores.combined([score("a", 1.0, se=None)]))
        == "1.000 ± unknown"
    )
    assert scores.shown("{:.3f}".format, *scores.combined([score("a", 1.0)])) == "1.000"
    assert (
        scores.shown("{:.3f}".format, *scores.combined([score("a", None, finite=False)]))
        == "not finite"
    )


@pytest.mark.parametrize(
    "over, seeds",
    [
        ("noise", [0, 1, 2, 3, 4]),
        ("noise", [0] * 5),
        ("problems", [0, 1, 2, 3, 4]),
        (None, [0] * 5),
    ],
)
@pytest.mark.parametrize("spread", [0.004, 0.03])
def test_the_interval_covers_the_true_value(over, seeds, spread):
    """500 repeats of five seeds whose values spread, with a noise of evaluation of 0.01 that is each seed's own, or the same for all."""
    rng = np.random.default_rng(4)
    own = over == "noise" and len(set(seeds)) == 5
    covered = 0
    for _ in range(500):
        values = 3.0 + rng.normal(0, spread, 5) + rng.normal(0, 0.01, 5 if own else 1)
        mean, half = scores.combined(
            [
                score("a", v, se=0.01, over=over, seed=s)
                for v, s in zip(values.tolist(), seeds, strict=True)
            ]
        )
        covered += abs(mean - 3.0) <= half
    assert 0.93 <= covered / 500 <= 0.97


def test_noise_that_a_single_run_has_is_told_by_its_own_error():
    assert scores.combined([score("a", 3.0, se=0.01)]) == (3.0, pytest.approx(0.0196))
    mean, half = scores.combined([score("a", v, se=0.01, seed=0) for v in (2.999, 3.001)])
    assert (mean, half) == (
        pytest.approx(3.0),
        pytest.approx(math.hypot(12.7062 * 0.001, 0.0196), rel=1e-4),
    )


CONFIG = dict(
    sampler=dict(steps=4, temperature=1.0), evals=dict(bound=dict(name="evals.bound", samples=4))
)


@pytest.mark.parametrize(
    "row, told",
    [
        (dict(eval="infill", sampler=dict(steps=4, temperature=0.0)), {}),
        (dict(eval="samples", sampler=dict(steps=8, temperature=1.0)), {"sampler.steps": 8}),
        (dict(eval="exact", sampler=dict(steps=8, temperature=1.0)), {}),
        (dict(eval="bound", settings=dict(samples=4, later=1)), {}),
        (dict(eval="bound", settings=dict(samples=8)), {"evals.bound.samples": 8}),
        (dict(eval="bound", data="x.txt"), {"data": "x.txt"}),
        (dict(eval="bound", data="held_out", differs=dict(seed=1)), dict(seed=1)),
    ],
)
def test_what_an_earlier_version_asked_otherwise_is_found_where_its_row_tells_it(row, told):
    """Filling takes the temperature 0, and `exact` a sampler of its own; a field that came later is no difference."""
    assert scores.differs(dict(row, name="a", value=1.0), CONFIG) == told


def test_scores_of_one_judge_are_alike_by_whatever_path_it_was_named_and_what_is_unknown_is_taken_for_usual():
    judge = dict(dir="/there", step=1, config="c")
    rows = [
        score("gen_ppl", 1.0, judge=judge, settings=dict(judge=path))
        for path in ("there", "../there")
    ]
    assert scores.alike(rows) == ([0, 1], {})
    old = {key: value for key, value in rows[0].items() if key not in ("text", "commit")}
    assert scores.alike([*rows, old]) == ([0, 1, 2], {})
    assert scores.alike([*rows, dict(old, step=20)]) == ([0, 1], {2: ["step"]})


def test_other_scores_by_another_judge_are_others():
    asked = [dict(judge=dict(dir="/there", step=n, config="c")) for n in (1, 2)] + [
        dict(task=dict(sha256=sign * 64)) for sign in "ab"
    ]
    rows = [score("gen_ppl", 1.0, differs={"evals.gen_ppl.num": 2}, **changes) for changes in asked]
    assert scores.others([*rows, rows[0]], {}) == [rows[0], *rows[1:]]
