"""Warnings about unfair comparisons and narrow means, and no others."""

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.reports import figures, record, table
from dlm.reports.fairness import warnings
from dlm.reports.groups import grouped
from dlm.reports.record import Record
from tests.reports.conftest import TEXT, lines, score


def groups(runs):
    return grouped(record.read(runs))


def add(run, *rows):
    with (run / "evals.jsonl").open("a") as file:
        file.write(lines(rows))


def test_equal_runs_get_no_warning_and_unfair_comparisons_do(runs):
    assert warnings(groups(runs)) == []
    add(
        runs[1],
        score(
            "bits_per_byte",
            1.0,
            claims="exact",
            text=dict(TEXT, sha256="f" * 64, bytes=4577),
        ),
    )
    with (runs[1] / "metrics.jsonl").open("a") as f:
        f.write(json.dumps(dict(step=60, loss=1.0)) + "\n")
    (runs[0] / "commit.txt").write_text("def456\n")
    text, step, commits = warnings(groups(runs))
    one, other = (
        "held-out split of the run's data, 4,577 bytes, ffffffff: ar",
        "held-out split of the run's data, 4,934 bytes, a1b2c3d4: masked, ar",
    )
    assert (
        text
        == f"scored on different text ({one} | {other}): these scores do not compare"
    ), "its gzip was measured on the old text"
    assert "ar was scored at step 40, but trained to step 60" in step
    assert "2 versions of the code (abc123, def456)" in commits
    (runs[0] / "evals.jsonl").unlink()
    assert any(
        line.startswith("masked has no held-out score")
        for line in warnings(groups(runs))
    )


def test_a_figure_of_different_texts_has_a_warning(runs):
    infill = dict(eval="infill", claims="samples", over="documents", settings={})
    for run, digest in zip(runs, "ef", strict=True):
        add(
            run,
            score(
                "token_accuracy",
                0.5,
                se=0.1,
                text=dict(TEXT, sha256=digest * 64),
                **infill,
            ),
        )
    result = groups(runs)
    drawn = list(filter(None, figures.figures(result, table.rows(result))))
    titles = {
        f.partition("<h2>")[2].partition("</h2>")[0]: "class=warning" in f
        for f in drawn
    }
    assert titles["Infilled tokens that are the original ones"]
    assert not titles["Held-out bits per byte"]
    assert not titles["Training"]


def test_judges_tasks_and_settings_that_differ_are_named(runs):
    for run, n in zip(runs, (1, 2), strict=True):
        judge = dict(dir="there", step=n, config="c" * 64)
        add(
            run,
            score(
                "gen_ppl",
                3.0,
                eval="gen_ppl",
                judge=judge,
                settings=dict(judge=f"{n}/there", num=n),
            ),
        )
        add(
            run,
            score(
                "sudoku_accuracy",
                0.5,
                eval="tasks",
                text=None,
                task=dict(sha256=str(n) * 64, rows=9),
                settings={},
            ),
        )
    judges, tasks, num = warnings(groups(runs))
    assert judges.startswith(
        "gen_ppl: judged by different models "
        "(there at step 1, config cccccccc: masked | there at step 2"
    )
    assert tasks.startswith(
        "sudoku_accuracy: asked different tasks (9 rows, 11111111: masked | 9 rows, 22222222: ar)"
    )
    assert num == "evals.gen_ppl.num is not the same: 1 (masked) | 2 (ar)"


def test_an_older_steps_score_does_not_replace_a_newer_ones_and_part_of_the_text_is_named(
    runs,
):
    add(runs[0], score("bits_per_byte", 9.0, step=20))
    assert groups(runs)[0].score("bits_per_byte")[0] == 3.014
    assert warnings(groups(runs)) == []
    add(runs[0], score("bits_per_byte", 3.0, settings=dict(windows=9)))
    (said,) = warnings(groups(runs))
    assert said == (
        "bits per byte are of all, 9 windows of the held-out text, "
        "gzip, xz and order-0 of all of it"
    )


def test_rows_of_an_earlier_version_are_shown_and_their_missing_facets_reported(runs):
    for run, size in zip(runs, (1000, 1001), strict=True):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(
            json.dumps(dict(config, data={"source": {"name": "data.local"}}))
        )
        rows = [
            dict(json.loads(line))
            for line in (run / "evals.jsonl").read_text().splitlines()
        ]
        for row in rows:
            for new in ("text", "differs", "commit", "over"):
                del row[new]
        rows.append(dict(name="held_out_bytes", value=size, data="held_out"))
        (run / "evals.jsonl").write_text(lines(rows))
    masked, ar = groups(runs)
    split, (text, unknown) = "held-out split of local", warnings([masked, ar])
    assert masked.score("bits_per_byte") == (3.014, pytest.approx(0.01176))
    assert table.rows([masked])[0].data == split
    sizes = f"{split}, 1,000 bytes: masked | {split}, 1,001 bytes: ar"
    assert text == f"scored on different text ({sizes}): these scores do not compare"
    assert unknown.startswith(
        f"an earlier version scored {runs[0]}, {runs[1]}, and did not record: "
    )
    assert "text" in unknown


def test_data_that_were_accepted_are_named(runs):
    add(runs[0], score("bits_per_byte", 3.0, accepted_data="training"))
    (said,) = warnings(groups(runs))
    assert said == f"masked was scored after its training text had changed ({runs[0]})"


# ------------------------------------------------------------------------------------- means

CONFIG = {
    "objective": "objectives.masked",
    "steps": 40,
    "data": {"batch": 8, "length": 16},
}


def made(seed, updates=40, commit="abc", config=None, **changes):
    measured = dict(
        judge=dict(dir="j", step=1, config="c"),
        task=dict(sha256="t"),
        se=0.01,
        seed=seed,
        value=3.0 + seed / 100,
    )
    row = score("bits_per_byte", **measured | changes)
    for name in [name for name, value in row.items() if value is ...]:
        del row[name]
    metrics = [dict(step=updates, loss=1.0)]
    return Record(
        Path(f"run{seed}"),
        CONFIG | {"seed": seed} | (config or {}),
        metrics,
        [row],
        [],
        {},
        commit,
    )


TEXTS = st.text("abcdef", min_size=64, max_size=64).map(
    lambda digest: dict(TEXT, sha256=digest)
)
DIFFERENT = dict(
    updates=st.integers(1, 39),
    commit=st.text("0123456789abcdef", min_size=1),
    config=st.fixed_dictionaries(
        dict(nn=st.fixed_dictionaries(dict(width=st.integers())))
    ),
    step=st.integers(0, 39) | st.just(...),
    text=TEXTS | st.just(...) | st.none(),
    settings=st.dictionaries(
        st.sampled_from(["samples", "windows", "pattern"]), st.integers(0, 3)
    )
    | st.just(...),
    sampler=st.dictionaries(
        st.sampled_from(["steps", "block"]), st.integers(1, 9), min_size=1
    ),
    claims=st.sampled_from(["exact", "heuristic", ...]),
    judge=st.fixed_dictionaries(
        dict(dir=st.just("j"), step=st.integers(2, 9), config=st.just("c"))
    )
    | st.just(...),
    task=st.fixed_dictionaries(dict(sha256=st.text("abc", min_size=2))) | st.just(...),
)
PAIRS = st.sampled_from(sorted(DIFFERENT)).flatmap(
    lambda name: DIFFERENT[name].map(lambda value: {name: value})
)


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.permutations(range(3)))
def test_a_score_that_differs_in_one_facet_is_excluded_with_a_warning(change, order):
    records = [made(0), made(1), made(2, **change)]
    result = grouped([records[i] for i in order])
    whole = next(g for g in result if records[0] in g.records)
    if records[2] not in whole.kept("bits_per_byte"):
        assert whole.score("bits_per_byte")[0] == pytest.approx(3.005)
        named = len(result) > 1 and len({g.label for g in result}) > 1
        assert named or any(
            "run2 is not in the mean" in line for line in warnings(result)
        ), change
    else:
        assert ... in change.values()
        assert any(
            "run2" in line and "did not record" in line for line in warnings(result)
        ), change


def test_equal_runs_are_one_mean_in_any_order():
    for order in itertools.permutations(range(3)):
        (one,) = grouped([made(i) for i in order])
        assert len(one.kept("bits_per_byte")) == 3
        assert warnings([one]) == []


def test_a_seed_that_is_not_finite_makes_the_mean_not_finite_in_words():
    (one,) = grouped([made(0), made(1), made(2, value=None, finite=False)])
    mean, half = one.score("bits_per_byte")
    assert math.isnan(mean)
    assert math.isnan(half)
    assert any("not finite (run2)" in line for line in warnings([one]))


def test_a_score_that_one_seed_lacks_is_named():
    records = [made(0), made(1)]
    records[0].evals.append(score("ece", 0.1, eval="calibration"))
    assert "masked: run1 is not in the mean of ece, missing" in warnings(
        grouped(records)
    )
    assert table.rows(grouped(records))[0].seeds == 2
    records[0].evals.append(
        score("gzip_bits_per_byte", 2.0, eval="compression", settings={})
    )
    assert len(warnings(grouped([made(0), made(1)]))) == 0
    assert not any("gzip" in line for line in warnings(grouped(records)))
    records[1].evals.clear()
    records = [Record(**vars(r) | dict(evals=r.evals)) for r in (made(0), made(1))]
    records[1].evals.clear()
    assert [line.partition(":")[0] for line in warnings(grouped(records))] == [
        "masked has no held-out score"
    ]
    assert table.rows(grouped(records))[0].seeds == 1, (
        "of the two runs, one is in the mean"
    )


def test_an_unknown_text_is_no_other_one_and_runs_of_one_model_are_named():
    old = made(1, text=..., differs=...)
    assert not any(
        "different text" in line for line in warnings(grouped([made(0), old]))
    )
    result = warnings(
        grouped([made(0), made(1), made(2, text=dict(TEXT, sha256="f" * 64))])
    )
    assert any(
        "a1b2c3d4: run0, run1 | " in line and "ffffffff: run2)" in line
        for line in result
    )


def test_other_scores_say_the_step_that_they_are_of():
    records = [made(0), made(1)]
    for record_, step in zip(records, (40, 20), strict=True):
        record_.evals.append(
            score("bits_per_byte", 1.0, step=step, differs=dict(seed=9))
        )
    described = table.others_as_text(table.others(grouped(records)))
    assert "masked, seed=9: bits" in described
    assert "masked, seed=9, at step 20: bits" in described
    same = [made(0), made(1)]
    for record_ in same:
        record_.evals.append(
            score("bits_per_byte", 1.0, differs=dict(seed=9), seed=9, se=0.01)
        )
    assert (
        "masked, seed=9: bits_per_byte 1.000 ± 0.020 (2 seeds)"
        in table.others_as_text(table.others(grouped(same)))
    )
