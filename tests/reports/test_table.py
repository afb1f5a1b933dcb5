"""The table: the last score of a name, its claim and interval, the median speed."""

import csv
import json

import pytest

from dlm.core.errors import UserError
from dlm.reports import record, table
from dlm.reports.groups import grouped
from tests.reports.conftest import lines, score, write


def groups(runs):
    return grouped(record.read(runs))


def test_the_table_of_two_runs(runs):
    assert table.as_text(table.rows(groups(runs))).splitlines() == [
        "model     claim   held-out bits/byte   seeds   tokens/s   parameters",
        "─" * 68,
        "masked    bound   3.014 ± 0.012            1      7,012    1,049,600",
        "ar        exact   2.151                    1      7,012    1,049,600",
        "gzip -9   exact   2.700",
    ]


def test_accuracies_have_columns_of_their_own(runs):
    with (runs[0] / "evals.jsonl").open("a") as f:
        f.write(
            json.dumps(
                dict(
                    name="brackets_accuracy",
                    value=0.25,
                    se=0.1,
                    claims="samples",
                    step=40,
                )
            )
            + "\n"
        )
    head, _, masked, ar, _ = table.as_text(table.rows(groups(runs))).splitlines()
    at = head.index("brackets accuracy")
    assert masked[at : at + 13] == "0.250 ± 0.196"
    assert ar[at : at + 13] == " " * 13
    assert head.index("seeds") > at


def test_csv_has_a_line_for_each_run_with_every_score_its_error_and_origin(runs):
    masked, ar = csv.DictReader(table.as_csv(groups(runs)).splitlines())
    assert (
        ar["model"],
        ar["seed"],
        ar["bits_per_byte"],
        ar["bits_per_byte_claims"],
    ) == (
        "ar",
        "3",
        "2.1512",
        "exact",
    )
    assert (
        masked["bits_per_byte_se"],
        masked["gzip_bits_per_byte"],
        masked["objective.name"],
    ) == (
        "0.006",
        "2.7",
        "objectives.masked",
    )
    assert (ar["updates"], ar["parameters"], ar["commit"], ar["workdir"]) == (
        "40",
        "1049600",
        "abc123",
        str(runs[1]),
    )
    assert (ar["tokens"], ar["seconds"], ar["flops"]) == (
        str(40 * 8 * 16),
        str(40 * 8 * 16 / 7012.0),
        str(2.0 * 40 * 8 * 16),
    )


def test_only_the_newest_samples_are_shown(runs):
    masked, ar = record.read(runs)
    assert [(s["kind"], s["seed"]) for s in masked.shown()] == [
        ("sample", 1),
        ("sample", 2),
        ("sample", 3),
        ("infill", 0),
    ]
    assert len(ar.shown()) == 3
    assert ar.one_sided
    assert not masked.one_sided


def test_a_folder_of_runs_is_read_in_the_order_of_its_numbers_and_what_has_not_begun_is_left_out(
    tmp_path,
):
    for n in (10, 9):
        write(tmp_path / f"width={n}", "masked", 3.0, 0.0, "bound")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "config.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    assert [r.workdir.name for r in record.read([tmp_path, tmp_path / "width=9"])] == [
        "width=9",
        "width=10",
    ]


def test_a_folder_without_a_config_is_no_run(runs):
    (runs[0] / "config.json").unlink()
    with pytest.raises(UserError, match="is not a run directory"):
        record.read(runs)


def test_a_run_without_a_row_is_named_and_left_out(runs, capsys):
    (runs[0] / "metrics.jsonl").unlink()
    assert [r.workdir for r in record.read(runs)] == runs[1:]
    assert (
        capsys.readouterr().err
        == f"left out: {runs[0]} has no metrics.jsonl yet: train it first\n"
    )
    with pytest.raises(UserError, match="train it first"):
        record.read(runs[:1])


def test_a_directory_without_a_run_is_refused(tmp_path):
    for path, said in [
        (tmp_path, "is not a run directory, and no folder in it is"),
        (tmp_path / "none", "no run directory"),
    ]:
        with pytest.raises(UserError, match=said):
            record.read([path])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(lines([dict(step=1)]))
    for damaged in ("{", "[]"):
        (tmp_path / "run" / "config.json").write_text(damaged)
        with pytest.raises(UserError, match="config.json is damaged"):
            record.read([tmp_path])


def test_calls_that_differ_have_lines_of_their_own_and_change_no_other(runs):
    """Another text, other settings, another sampler and another seed.

    An earlier version did not record the first two.
    """
    config = json.loads((runs[0] / "config.json").read_text()) | dict(
        evals=dict(bound=dict(name="evals.bound", samples=4, windows=0))
    )
    (runs[0] / "config.json").write_text(json.dumps(config))
    before = table.as_text(table.rows(groups(runs))), table.as_csv(groups(runs))
    there = [
        dict(
            text=dict(sha256=letter * 64, bytes=162, documents=1),
            data="x.txt",
            differs=dict(data="x.txt"),
        )
        for letter in "ab"
    ]
    calls = [
        *there,
        dict(differs={"evals.bound.windows": 2}),
        dict(differs={"sampler.steps": 4}),
        dict(differs=dict(seed=1), seed=1),
    ]
    rows = [score("bits_per_byte", 1.0, se=0.01, **changes) for changes in calls]
    old = [
        score("bits_per_byte", 1.0, se=0.01, **changes)
        for changes in (dict(data="y.txt"), dict(settings=dict(samples=4, windows=2)))
    ]
    for row in old:
        del row["differs"], row["text"]
    with (runs[0] / "evals.jsonl").open("a") as file:
        file.write(
            lines(
                [
                    *rows,
                    *old,
                    score("bits_per_byte", 2.0, step=20, differs=dict(seed=1)),
                ]
            )
        )
    assert (
        table.as_text(table.rows(groups(runs))),
        table.as_csv(groups(runs)),
    ) == before
    described = table.others_as_text(table.others(groups(runs)))
    for words in (
        "masked, data=x.txt (162 bytes, aaaaaaaa): bits_per_byte 1.000 ± 0.020",
        "masked, data=x.txt (162 bytes, bbbbbbbb): bits_per_byte 1.000 ± 0.020",
        "masked, evals.bound.windows=2: bits_per_byte 1.000 ± 0.020",
        "masked, sampler.steps=4: bits_per_byte 1.000 ± 0.020",
        "masked, seed=1: bits_per_byte 1.000 ± 0.020",
        "masked, data=y.txt: bits_per_byte 1.000 ± 0.020",
    ):
        assert f"  {words}\n" in described
    assert len(table.others(groups(runs))) == 6
    assert table.others_as_text([]) == ""
