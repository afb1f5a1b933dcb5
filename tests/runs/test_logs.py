"""Logs: resuming drops later rows, a broken last line is ignored, the live line has all figures."""

import io
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.app import cli
from dlm.core import files
from dlm.core.config import to_json
from dlm.core.contracts import Mean
from dlm.core.errors import UserError
from dlm.runs import logs

ROW = dict(loss=2.0, bits_per_byte=3.5, tokens_per_s=1500.0, share_of_peak=0.25)


def test_resuming_drops_what_will_come_again(tmp_path):
    first = logs.Logs(tmp_path, 0, 9, io.StringIO())
    for step in range(1, 6):
        first.write(dict(step=step, loss=float(step)))
    first.close()
    path = tmp_path / logs.METRICS
    path.write_text(path.read_text() + '{"step": 6, "lo')
    assert [row["step"] for row in logs.rows(path)] == [1, 2, 3, 4, 5]
    second = logs.Logs(tmp_path, 3, 9, io.StringIO())
    second.write(dict(step=4, loss=0.0))
    second.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]
    assert logs.rows(tmp_path / "none") == []


def test_what_a_stopped_run_owes_is_kept_for_its_step_alone(tmp_path):
    log, load_pending = (
        logs.Logs(tmp_path, 0, 9, io.StringIO()),
        dict(
            rows=[dict(loss=1.5, metrics=dict(share=Mean(1.0, 2.0)))], evaluation=True
        ),
    )
    assert log.load_pending(3) is None
    log.save_pending(3, load_pending)
    assert log.load_pending(3) == load_pending and log.load_pending(2) is None
    sums = dict(loss=math.nan, skipped_sum=1.0, metrics=dict(share=Mean(math.nan, 2.0)))
    log.save_pending(3, dict(rows=[sums], evaluation=False))
    assert str(log.load_pending(3)["rows"]) == str([sums])
    for damaged in (
        "",
        "[3]",
        '{"step": 3}',
        '{"step": 3, "rows": [3], "evaluation": true}',
        '{"step": 3, "rows": [{"loss": "a", "metrics": {}}], "evaluation": true}',
        '{"step": 3, "rows": [{"metrics": {"share": [1]}}], "evaluation": true}',
    ):
        (tmp_path / logs.OWED).write_text(damaged)
        with pytest.raises(UserError, match="owed.json is damaged: delete it"):
            log.load_pending(3)
    log.close()


def test_an_unfinished_row_of_an_earlier_version_is_dropped_with_one_line(tmp_path):
    """Its sums had no denominators; an evaluation that it owes is made up for."""
    log = logs.Logs(tmp_path, 0, 9, stream := io.StringIO())
    row = '{"loss_sum": 3.0, "masked_sum": 2.0}'
    (tmp_path / logs.OWED).write_text(
        f'{{"step": 3, "rows": [{row}], "evaluation": true}}'
    )
    assert log.load_pending(3) == dict(rows=[], evaluation=True)
    log.close()
    assert (
        stream.getvalue().count("\n") == 1
        and "is of an earlier version" in stream.getvalue()
    )


def test_an_evaluation_made_up_for_by_a_process_that_was_killed_then_is_not_kept_twice(
    tmp_path,
):
    log = logs.Logs(tmp_path, 0, 9, io.StringIO())
    log.write(dict(step=3, loss=1.0, lr=0.1))
    log.save_pending(3, dict(rows=[], evaluation=True))
    log.close()
    for _ in range(2):
        log = logs.Logs(tmp_path, 3, 9, io.StringIO())
        log.write({"step": 3, "bound.bits_per_byte": 2.0})
        log.close()
    assert logs.rows(tmp_path / logs.METRICS) == [
        dict(step=3, loss=1.0, lr=0.1),
        {"step": 3, "bound.bits_per_byte": 2.0},
    ]


def test_rows_with_any_text_in_them_and_behind_a_line_cut_short_are_found(tmp_path):
    path = tmp_path / "evals.jsonl"
    for text in ("a\u2028b", "c\x85d"):
        logs.append(path, [dict(text=text)])
    path.write_bytes(path.read_bytes() + '{"text": "é'.encode()[:-1])
    logs.append(path, [dict(text="e"), dict(text="f")])
    assert [row["text"] for row in logs.rows(path)] == ["a\u2028b", "c\x85d", "e", "f"]


def test_tensorboard_files_are_written(tmp_path):
    log = logs.Logs(tmp_path, 0, 1, io.StringIO())
    log.write(dict(step=1, loss=1.0, phases=dict(data=1.0)))
    log.close()
    assert [
        p.stat().st_size > 0 for p in (tmp_path / "tensorboard").glob("events*")
    ] == [True]


def test_the_live_line(tmp_path):
    stream = io.StringIO()
    log = logs.Logs(tmp_path, 0, 100, stream)
    for step in (1, 2, 100):
        log.progress(dict(step=step, **ROW))
    log.progress(dict(step=100, skipped=20, tokens_per_s=0.0, share_of_peak=0.0))
    log.close()
    log.progress(dict(step=100, empty=2, tokens_per_s=0.0, share_of_peak=0.0))
    log.progress(
        dict(step=100, empty=2, skipped=3, tokens_per_s=0.0, share_of_peak=0.0)
    )
    *lines, skipped, empty, both = stream.getvalue().splitlines()
    assert (
        "step 100/100  2 empty batches  0.0k" in empty
        and "3 updates left out, 2 empty batches  0.0k" in both
    )
    assert (
        "step 100/100  20 updates left out  0.0k tok/s" in skipped and len(lines) == 2
    ), "a log file gets a line every ten seconds, and the last one"
    assert (
        "step 100/100  loss 2.000  3.500 bits/byte  1.5k tok/s  25% of peak  ETA 0s"
        in lines[-1]
    )
    assert [logs.clock(s) for s in (12, 187, 3725)] == ["12s", "3m07s", "1h02m"]


def strictly(text):
    """As browsers, databases and most languages read JSON."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_not_finite_is_null_and_said_beside_it(tmp_path, capsys):
    diverged = dict(
        step=1,
        loss=float("nan"),
        phases=dict(data=1.0),
        bins=[1.0, float("-inf")],
        name="é\ud800",
    )
    as_read = dict(
        step=1,
        loss=None,
        phases=dict(data=1.0),
        bins=[1.0, None],
        name="é\ud800",
        finite=False,
    )
    cli.emit(diverged)
    log = logs.Logs(tmp_path, 0, 9, io.StringIO())
    log.write(diverged)
    log.close()
    logs.append(tmp_path / "evals.jsonl", [diverged])
    files.write(tmp_path / "config.json", to_json(diverged))
    texts = [
        capsys.readouterr().out,
        *(path.read_text() for path in sorted(tmp_path.glob("*.json*"))),
    ]
    assert [strictly(text) for text in texts] == [as_read] * 4 and texts[0].isascii()
    (tmp_path / "evals.jsonl").write_text(
        '{"step": 1, "loss": NaN, "a": {"b": -Infinity, "c": 1e999}}\n'
    )
    assert logs.rows(tmp_path / "evals.jsonl") == [
        dict(step=1, loss=None, a=dict(b=None, c=None, finite=False), finite=False)
    ]


KEYS = (
    "data/content.py",
    "evals/harness.py",
    "reports/figures.py",
    "reports/groups.py",
    "reports/docstring_results.py",
    "reports/replay.py",
    "reports/scores.py",
    "reports/summary.py",
)
KEYS += (
    "machine/hosts.py",
    "machine/isolation.py",
    "core/config.py",
    "text/bpe_bytes.py",
    "text/quoted.py",
)
THEIRS = (
    "app/hf_export.py",
    "app/hf_import.py",
    "hf/shards.py",
    "runs/checksums.py",
    "text/bpe.py",
    "text/chat.py",
    "text/pretrained.py",
    "text/template_sandbox.py",
)


def test_records_are_written_by_the_strict_writer_alone():
    """Other uses of json.dumps are keys, messages between our processes, or foreign formats."""
    folder = Path(logs.__file__).parents[1]
    calls = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if "json.dump" in path.read_text()
    }
    calls = {name for name in calls if not name.startswith(("benches/", "drills/"))}
    assert calls <= {"core/files.py", *KEYS, *THEIRS}


RIGHT = dict(
    metrics=(logs.METRIC, dict(step=3, loss=1.5)),
    evals=(logs.SCORE, dict(step=3, name="bits_per_byte", value=2.0, se=0.1)),
    samples=(logs.SAMPLE, dict(kind="sample", text="abc", pieces=[["abc", False]])),
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.just(10**400),
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(st.sampled_from(["step", "name", "value"]), below, max_size=2)
    ),
    max_leaves=4,
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    kind=st.sampled_from(sorted(RIGHT)),
    changes=st.dictionaries(
        st.sampled_from(
            ["step", "name", "value", "se", "kind", "text", "pieces", "loss"]
        ),
        ANYTHING,
        min_size=1,
        max_size=2,
    ),
    cut=st.integers(0, 60),
)
def test_a_damaged_row_is_of_its_kind_or_left_out_and_said(
    tmp_path, kind, changes, cut
):
    test, right = RIGHT[kind]
    good, damaged = json.dumps(right), json.dumps(right | changes)
    path, said = tmp_path / "rows.jsonl", []
    # A short row is cut as well: without its last character it is no JSON.
    part = damaged[: min(cut, len(damaged) - 1)]
    path.write_text(
        f"{good}\n{part}\n{damaged}\nnull\n{'[' * 5000}\n{good}\n{good[:9]}"
    )
    parsed = logs.rows(path, test, said.append)
    assert (
        parsed[0] == parsed[-1] == right
        and len(parsed) in (2, 3)
        and all(map(test, parsed))
        and len(said) == 1
    )
    assert re.fullmatch(
        rf"{path}: \d line\(s\) left out that are no rows of this file, the first is line \d",
        said[0],
    )
    for row in parsed:
        if kind == "evals":
            assert (
                float(row["value"]) == row["value"]
                if row.get("finite") is not False
                else row["value"] is None or float(row["value"])
            )


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        3,
        {},
        dict(value=1.0),
        dict(name="a"),
        dict(name="a", value=None),
        dict(name="a", value=True),
        dict(name=3, value=1.0),
        dict(name="a", value=10**400),
        dict(name="a", value=1.0, step="3"),
    ],
    ids=str,
)
def test_no_score(row):
    assert (
        not logs.SCORE(row)
        and logs.SCORE(dict(name="a", value=None, finite=False))
        and logs.SCORE(dict(name="a", value=1))
    )
