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
    value = row["value"]
    test = stats.binomtest(right, trials)
    low, high = test.proportion_ci(method="wilson")
    farther = max(high - value, value - low)
    assert scores.interval(row) == pytest.approx(farther, rel=1e-4)
    rows = [dict(row, seed=seed) for seed in range(seeds)]
    mean, half = scores.combined(rows)
    assert mean == pytest.approx(value)
    assert 2 * half >= 1 / trials


def half_of(items_N):
    mean, error = intervals.jackknife(np.mean, items_N)
    return intervals.half(mean, error, trials=len(items_N))


def test_dependent_trials_are_worth_less():
    """Tokens of 16 documents, all right or all wrong in each, against independent ones."""
    rng = np.random.default_rng(0)
    whole_N = np.repeat([1.0, 0.0], 8)
    share_N = rng.binomial(8, 0.5, 16) / 8
    together = half_of(whole_N)
    alone = half_of(share_N)
    assert together > 1.5 * alone
    assert half_of(np.zeros(16)) == intervals.wilson(0.0, 16)


def test_an_unknown_error_is_reported_as_unknown():
    def shown(row):
        mean, half = scores.combined([row])
        return scores.shown("{:.3f}".format, mean, half)

    assert shown(score("a", 1.0, se=None)) == "1.000 ± unknown"
    assert shown(score("a", 1.0)) == "1.000"
    assert shown(score("a", None, finite=False)) == "not finite"


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
    """500 repeats of five seeds with a spread, and evaluation noise of 0.01.

    The noise is drawn for each seed, or is the same for all.
    """
    rng = np.random.default_rng(4)
    own = over == "noise" and len(set(seeds)) == 5
    covered = 0
    for _ in range(500):
        values = 3.0 + rng.normal(0, spread, 5)
        values = values + rng.normal(0, 0.01, 5 if own else 1)
        rows = []
        for value, seed in zip(values.tolist(), seeds, strict=True):
            row = score("a", value, se=0.01, over=over, seed=seed)
            rows.append(row)
        mean, half = scores.combined(rows)
        covered += abs(mean - 3.0) <= half
    assert 0.93 <= covered / 500 <= 0.97


def test_the_interval_of_a_single_run_is_that_of_its_own_error():
    single = score("a", 3.0, se=0.01)
    assert scores.combined([single]) == (3.0, pytest.approx(0.0196))
    rows = [score("a", value, se=0.01, seed=0) for value in (2.999, 3.001)]
    mean, half = scores.combined(rows)
    assert mean == pytest.approx(3.0)
    expected = math.hypot(12.7062 * 0.001, 0.0196)
    assert half == pytest.approx(expected, rel=1e-4)


CONFIG = dict(
    sampler=dict(steps=4, temperature=1.0),
    evals=dict(bound=dict(name="evals.bound", samples=4)),
)


@pytest.mark.parametrize(
    "row, expected",
    [
        (dict(eval="infill", sampler=dict(steps=4, temperature=0.0)), {}),
        (
            dict(eval="samples", sampler=dict(steps=8, temperature=1.0)),
            {"sampler.steps": 8},
        ),
        (dict(eval="exact", sampler=dict(steps=8, temperature=1.0)), {}),
        (dict(eval="bound", settings=dict(samples=4, later=1)), {}),
        (dict(eval="bound", settings=dict(samples=8)), {"evals.bound.samples": 8}),
        (dict(eval="bound", data="x.txt"), {"data": "x.txt"}),
        (dict(eval="bound", data="held_out", differs=dict(seed=1)), dict(seed=1)),
    ],
)
def test_differences_are_found_in_rows_of_an_earlier_version(row, expected):
    """Infilling has its own temperature, and `exact` a sampler; a later field is no difference."""
    assert scores.differs(dict(row, name="a", value=1.0), CONFIG) == expected


def test_scores_of_one_judge_are_alike_by_any_path_and_the_unknown_is_taken_for_usual():
    judge = dict(dir="/there", step=1, config="c")
    rows = []
    for path in ("there", "../there"):
        settings = dict(judge=path)
        rows.append(score("gen_ppl", 1.0, judge=judge, settings=settings))
    assert scores.alike(rows) == ([0, 1], {})
    old = dict(rows[0])
    del old["text"], old["commit"]
    assert scores.alike([*rows, old]) == ([0, 1, 2], {})
    assert scores.alike([*rows, dict(old, step=20)]) == ([0, 1], {2: ["step"]})


def test_other_scores_by_another_judge_are_others():
    calls = []
    for step in (1, 2):
        calls.append(dict(judge=dict(dir="/there", step=step, config="c")))
    for sign in "ab":
        calls.append(dict(task=dict(sha256=sign * 64)))
    differs = {"evals.gen_ppl.num": 2}
    rows = [score("gen_ppl", 1.0, differs=differs, **call) for call in calls]
    assert scores.others([*rows, rows[0]], {}) == [rows[0], *rows[1:]]
