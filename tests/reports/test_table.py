"""The table: the last score of a name, its claim and error, the median speed; and a line for each unfair comparison."""

import json

import pytest

from dlm.reports import table
from dlm.run.spec import UserError


def test_the_table_of_two_runs(runs):
    assert table.as_text(table.rows(table.read(runs))).splitlines() == [
        "model     claim   held-out bits/byte   tokens/s   parameters",
        "─" * 60,
        "masked    bound   3.014 ± 0.006           7,012    1,049,600",
        "ar        exact   2.151                   7,012    1,049,600",
        "gzip -9   exact   2.700",
    ]


def test_csv_holds_full_precision_and_origin(runs):
    head, _, ar, gzip = table.as_csv(table.rows(table.read(runs))).splitlines()
    assert head == "model,claim,bits_per_byte,standard_error,tokens_per_s,parameters,step,seed,data,commit,workdir"
    assert ar == f"ar,exact,2.1512,,7012.0,1049600,40,3,embedded,abc123,{runs[1]}"
    assert gzip.startswith("gzip -9,exact,2.7,")


def test_only_the_newest_samples_are_shown(runs):
    masked, ar = table.read(runs)
    assert [(s["kind"], s["seed"]) for s in masked.shown()] == [("sample", 1), ("sample", 2), ("sample", 3), ("infill", 0)]
    assert len(ar.shown()) == 3 and ar.one_sided and not masked.one_sided


def test_unfair_comparisons_are_named(runs):
    assert table.warnings(table.read(runs)) == []
    with (runs[1] / "evals.jsonl").open("a") as f:
        f.write(json.dumps(dict(name="bits_per_byte", value=1.0, se=0.0, claims="exact", step=20, data="other.txt")) + "\n")
    (runs[0] / "evals.jsonl").unlink()
    different, unscored, stale = sorted(table.warnings(table.read(runs)), key=lambda w: ("other.txt" not in w, "no held-out" not in w))
    assert "embedded, other.txt" in different and "masked has no held-out score" in unscored and "step 20, but trained to step 40" in stale


def test_two_runs_of_one_objective_have_two_names(runs):
    (runs[1] / "config.json").write_text((runs[0] / "config.json").read_text())
    assert [r.model for r in table.read(runs)] == ["masked (masked)", "masked (ar)"]


@pytest.mark.parametrize("name, said", [("config.json", "is not a run directory"), ("metrics.jsonl", "train it first")])
def test_a_missing_file_is_told(runs, name, said):
    (runs[0] / name).unlink()
    with pytest.raises(UserError, match=said):
        table.read(runs)


def test_equal_names_of_unequal_text_are_noticed(runs):
    for run, size in zip(runs, (1000, 1001), strict=True):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(dict(config, data={"source": {"name": "data.local"}})))
        scores = (run / "evals.jsonl").read_text().replace('"embedded"', '"held_out"')
        (run / "evals.jsonl").write_text(scores + json.dumps(dict(name="held_out_bytes", value=size, data="held_out")) + "\n")
    assert table.rows(table.read(runs))[0].data == "held-out split of local"
    assert table.warnings(table.read(runs)) == ["scored on different text (1,000 bytes, 1,001 bytes): these bits per byte do not compare"]
