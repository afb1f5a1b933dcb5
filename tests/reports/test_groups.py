"""Models: which runs are one, what they are called, and how far their mean can be trusted."""

import pytest
from scipy import stats

from dlm.core import intervals
from dlm.reports import fairness, groups, record, scores
from tests.reports.conftest import write


def made(tmp_path, *changes):
    paths = [
        write(
            tmp_path / f"run{i}",
            c.pop("objective", "masked"),
            2.0 + i,
            0.1,
            "bound",
            **c,
        )
        for i, c in enumerate(changes)
    ]
    return groups.grouped(record.read(paths))


def test_seeds_of_one_config_are_one_model_with_students_interval(tmp_path):
    one, other = made(
        tmp_path,
        dict(seed=0),
        dict(seed=1),
        dict(seed=2),
        dict(seed=0, nn=dict(width=8)),
    )
    assert [r.workdir.name for r in one.records] == ["run0", "run1", "run2"]
    assert len(other.records) == 1
    mean, half = one.score("bits_per_byte")
    low, high = stats.t.interval(0.95, 2, loc=3.0, scale=1.0 / 3**0.5)
    assert (mean, half) == (3.0, pytest.approx((high - low) / 2, rel=1e-3))
    assert other.score("bits_per_byte") == (5.0, pytest.approx(0.196))
    assert other.score("nothing") is None


def test_the_quantiles_are_students():
    assert [intervals.student(n) for n in range(1, 60)] == pytest.approx(
        stats.t.ppf(0.975, range(1, 60))
    )
    for count in (31, 40):
        values = [float(i % 2) for i in range(count)]
        low, high = stats.t.interval(
            0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values)
        )
        assert scores.spread(values) == (
            pytest.approx((low + high) / 2),
            pytest.approx((high - low) / 2),
        )


def test_names_are_as_short_as_distinguishes_the_models(tmp_path):
    linear, cosine = (
        dict(name="objectives.masked", process=dict(schedule=s))
        for s in ("linear", "cosine")
    )
    models = made(
        tmp_path,
        dict(objective="ar", sampler=dict(steps=1)),
        *(
            dict(objective_=0, nn=dict(width=w), sampler=dict(steps=9))
            | {"objective": "masked"}
            for w in (8, 16)
        ),
    )
    assert [g.label for g in models] == ["ar", "masked, width=8", "masked, width=16"]
    configs = [
        dict(objective=o, nn=dict(width=w, wide=w > 8), seed=s)
        for o in (linear, cosine)
        for w in (8, 16)
        for s in (0, 1)
    ]
    names = groups.labels([groups.flattened(c) for c in configs])
    assert names[::2] == [
        f"masked, schedule={s}, {w}"
        for s in ("linear", "cosine")
        for w in ("wide=False", "wide=True")
    ]
    assert groups.labels(
        [
            {"objective.name": "objectives.ar", "text.name": t}
            for t in ("text.bpe", "text.bytes")
        ]
    ) == [
        "ar, text=bpe",
        "ar, text=bytes",
    ]


def test_runs_that_are_short_of_their_steps_are_a_model_of_their_own_and_marked(
    tmp_path,
):
    models = made(tmp_path, dict(seed=0), dict(seed=1), dict(seed=2, steps=40))
    half = models[0].records[1]
    (half.workdir / "metrics.jsonl").write_text('{"step": 20, "loss": 1.0}\n')
    (half.workdir / "evals.jsonl").write_text(
        (half.workdir / "evals.jsonl").read_text().replace('"step": 40', '"step": 20')
    )
    whole, short = groups.grouped(record.read([tmp_path]))
    assert [len(g.records) for g in (whole, short)] == [2, 1]
    assert (whole.label, short.label) == (
        "masked",
        "masked, 20 of 40 updates",
    )
    (whole.records[1].workdir / "commit.txt").write_text("fedcba9876\n")
    assert [g.label for g in groups.grouped(record.read([tmp_path]))] == [
        "masked (commit abc123)",
        "masked, 20 of 40 updates",
        "masked (commit fedcba9)",
    ]


VERSIONS = {
    "fedcba98": "fedcba9",
    "abc123+changes": "abc123+changes",
    "src-0123456789 of dlm 0.1": "src-0123456",
    "": "unknown",
}


@pytest.mark.parametrize("commit", VERSIONS)
def test_code_with_changes_differs_from_its_commit_wherever_it_is_named(
    commit, tmp_path
):
    models = made(tmp_path, dict(seed=0), dict(seed=1))
    (models[0].records[1].workdir / "commit.txt").write_text(f"{commit}\n")
    models = groups.grouped(record.read([tmp_path]))
    assert [g.label for g in models] == [
        "masked (commit abc123)",
        f"masked (commit {VERSIONS[commit]})",
    ]
    (line,) = [
        line for line in fairness.warnings(models) if "versions of the code" in line
    ]
    assert line.endswith(
        f"({', '.join(sorted(['abc123', models[1].records[0].code(12)]))})"
    )
    assert ("+changes" in line) == ("+" in commit)


def test_runs_of_one_config_and_one_seed_stay_apart(tmp_path):
    assert [g.label for g in made(tmp_path, {}, {})] == [
        "masked (run0)",
        "masked (run1)",
    ]


def test_differences_leave_out_the_seed_and_what_is_shared(tmp_path):
    fields, values = groups.differences(
        made(tmp_path, dict(seed=0, steps=1), dict(seed=1, steps=2, extra="x"))
    )
    assert (fields, values) == (["steps", "extra"], [["1", ""], ["2", "x"]])
