"""Logs: rows past the step a run resumes from are dropped, broken last lines are forgiven, the live line has every figure."""

import io
import json

import pytest

from dlm.run import logs
from dlm.run.spec import UserError

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
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert logs.rows(tmp_path / "none") == []


def test_what_a_stopped_run_owes_is_kept_for_its_step_alone(tmp_path):
    log, owed = logs.Logs(tmp_path, 0, 9, io.StringIO()), dict(rows=[dict(loss=1.5)], evaluation=True)
    assert log.owed(3) is None
    log.owe(3, owed)
    assert log.owed(3) == owed and log.owed(2) is None
    for damaged in ("", "[3]", '{"step": 3}'):
        (tmp_path / logs.OWED).write_text(damaged)
        with pytest.raises(UserError, match="owed.json is damaged: delete it"):
            log.owed(3)
    log.close()


def test_an_evaluation_made_up_for_by_a_process_that_was_killed_then_is_not_kept_twice(tmp_path):
    log = logs.Logs(tmp_path, 0, 9, io.StringIO())
    log.write(dict(step=3, loss=1.0, lr=0.1))
    log.owe(3, dict(rows=[], evaluation=True))
    log.close()
    for _ in range(2):
        log = logs.Logs(tmp_path, 3, 9, io.StringIO())
        log.write({"step": 3, "bound.bits_per_byte": 2.0})
        log.close()
    assert logs.rows(tmp_path / logs.METRICS) == [dict(step=3, loss=1.0, lr=0.1), {"step": 3, "bound.bits_per_byte": 2.0}]


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
    assert [p.stat().st_size > 0 for p in (tmp_path / "tensorboard").glob("events*")] == [True]


def test_the_live_line(tmp_path):
    stream = io.StringIO()
    log = logs.Logs(tmp_path, 0, 100, stream)
    for step in (1, 2, 100):
        log.progress(dict(step=step, **ROW))
    log.progress(dict(step=100, skipped=20, tokens_per_s=0.0, share_of_peak=0.0))
    log.close()
    *lines, skipped = stream.getvalue().splitlines()
    assert "step 100/100  20 updates left out  0.0k tok/s" in skipped and len(lines) == 2, (
        "a log file gets a line every ten seconds, and the last one"
    )
    assert "step 100/100  loss 2.000  3.500 bits/byte  1.5k tok/s  25% of peak  ETA 0s" in lines[-1]
    assert [logs.clock(s) for s in (12, 187, 3725)] == ["12s", "3m07s", "1h02m"]
