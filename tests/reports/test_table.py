"""The table: the last score of a name, its claim and interval, the median speed; and a line for each unfair comparison."""

import csv
import json

import pytest

from dlm.reports import record, table
from dlm.reports.groups import grouped
from dlm.run.spec import UserError
from tests.reports.conftest import lines, write


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
        f.write(json.dumps(dict(name="brackets_accuracy", value=0.25, se=0.1, claims="samples", step=40)) + "\n")
    head, _, masked, ar, _ = table.as_text(table.rows(groups(runs))).splitlines()
    at = head.index("brackets accuracy")
    assert masked[at : at + 13] == "0.250 ± 0.196" and ar[at : at + 13] == " " * 13 and head.index("seeds") > at


def test_csv_has_a_line_for_each_run_with_every_score_its_error_and_origin(runs):
    masked, ar = csv.DictReader(table.as_csv(groups(runs)).splitlines())
    assert (ar["model"], ar["seed"], ar["bits_per_byte"], ar["bits_per_byte_claims"]) == ("ar", "3", "2.1512", "exact")
    assert (masked["bits_per_byte_se"], masked["gzip_bits_per_byte"], masked["objective.name"]) == ("0.006", "2.7", "objectives.masked")
    assert (ar["updates"], ar["parameters"], ar["commit"], ar["workdir"]) == ("40", "1049600", "abc123", str(runs[1]))
    assert (ar["tokens"], ar["seconds"], ar["flops"]) == (str(40 * 8 * 16), str(40 * 8 * 16 / 7012.0), str(2.0 * 40 * 8 * 16))


def test_only_the_newest_samples_are_shown(runs):
    masked, ar = record.read(runs)
    assert [(s["kind"], s["seed"]) for s in masked.shown()] == [("sample", 1), ("sample", 2), ("sample", 3), ("infill", 0)]
    assert len(ar.shown()) == 3 and ar.one_sided and not masked.one_sided


def test_unfair_comparisons_are_named(runs):
    assert table.warnings(groups(runs)) == []
    with (runs[1] / "evals.jsonl").open("a") as f:
        f.write(json.dumps(dict(name="bits_per_byte", value=1.0, se=0.0, claims="exact", step=40, data="other.txt")) + "\n")
    with (runs[1] / "metrics.jsonl").open("a") as f:
        f.write(json.dumps(dict(step=60, loss=1.0)) + "\n")
    (runs[0] / "evals.jsonl").unlink()
    (runs[0] / "commit.txt").write_text("def456\n")
    said = "\n".join(table.warnings(groups(runs)))
    for part in (
        "embedded, other.txt",
        "masked has no held-out",
        "step 40, but trained to step 60",
        "2 versions of the code (abc123, def456)",
    ):
        assert part in said
    assert said.count("\n") == 3


def test_an_older_steps_score_does_not_replace_a_newer_ones_and_part_of_the_text_is_named(runs):
    with (runs[0] / "evals.jsonl").open("a") as f:
        f.write(json.dumps(dict(name="bits_per_byte", value=9.0, se=0.0, claims="bound", step=20, data="embedded")) + "\n")
    assert table.rows(groups(runs))[0].bits_per_byte == 3.014 and table.warnings(groups(runs)) == []
    with (runs[0] / "evals.jsonl").open("a") as f:
        f.write(json.dumps(dict(name="bits_per_byte", value=3.0, se=0.0, step=40, data="embedded", settings=dict(windows=9))) + "\n")
    (said,) = table.warnings(groups(runs))
    assert said == "bits per byte are of all, 9 windows of the held-out text, gzip, xz and order-0 of all of it"


def test_a_folder_of_runs_is_read_in_the_order_of_its_numbers_and_what_has_not_begun_is_left_out(tmp_path):
    for n in (10, 9):
        write(tmp_path / f"width={n}", "masked", 3.0, 0.0, "bound")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "config.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    assert [r.workdir.name for r in record.read([tmp_path, tmp_path / "width=9"])] == ["width=9", "width=10"]


@pytest.mark.parametrize("name, said", [("config.json", "is not a run directory"), ("metrics.jsonl", "train it first")])
def test_a_missing_file_is_told(runs, name, said):
    (runs[0] / name).unlink()
    with pytest.raises(UserError, match=said):
        record.read(runs)


def test_a_directory_without_a_run_is_told(tmp_path):
    for path, said in [(tmp_path, "is not a run directory, and no folder in it is"), (tmp_path / "none", "no run directory")]:
        with pytest.raises(UserError, match=said):
            record.read([path])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    (tmp_path / "run" / "metrics.jsonl").write_text(lines([dict(step=1)]))
    with pytest.raises(UserError, match="config.json is damaged"):
        record.read([tmp_path])


def test_equal_names_of_unequal_text_are_noticed(runs):
    for run, size in zip(runs, (1000, 1001), strict=True):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(dict(config, data={"source": {"name": "data.local"}})))
        scores = (run / "evals.jsonl").read_text().replace('"embedded"', '"held_out"')
        (run / "evals.jsonl").write_text(scores + json.dumps(dict(name="held_out_bytes", value=size, data="held_out")) + "\n")
    assert table.rows(groups(runs))[0].data == "held-out split of local"
    assert table.warnings(groups(runs)) == ["scored on different text (1,000 bytes, 1,001 bytes): these bits per byte do not compare"]
