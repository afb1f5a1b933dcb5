"""Runs side by side: an outcome for each, failures stop no other, stopping reaches all."""

import io
import json
import os
import subprocess
import sys
import time

import pytest

from dlm.runs import directory
from dlm.sweeps import worker_pool
from dlm.sweeps.worker_pool import Fleet, Job
from tests import tiny

CODE = """
import json, os, signal, sys, time
what, place = sys.argv[1:]
print("step 1 of", what, file=sys.stderr, flush=True)
if what == "fails":
    print("error: no such thing", file=sys.stderr); sys.exit(2)
if what == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    time.sleep(60)
if what == "claims":
    sys.exit(0)
devices = os.environ.get("CUDA_VISIBLE_DEVICES")
json.dump([sorted(os.sched_getaffinity(0)), devices], open(place, "w"))
"""


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """Sends out jobs, each named after what it does."""
    (tmp_path / "act.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stream = io.StringIO()

    def job(n, what):
        place = tmp_path / f"{n}-{what}"
        return Job(
            place.name, tmp_path / "none", ((("act", what, str(place)), place.exists),)
        )

    def send(*whats, parallel=2, stop=lambda: False):
        jobs = [job(n, what) for n, what in enumerate(whats)]
        return Fleet(jobs, parallel, tmp_path / "logs", stream)(stop), stream

    send.folder = tmp_path
    return send


def test_outcomes_and_logs(sent):
    outcomes, stream = sent("writes", "fails", "writes", "claims")
    assert [o.kind for o in outcomes] == ["finished", "failed", "finished", "failed"]
    assert [o.error for o in outcomes] == [
        "",
        "no such thing",
        "",
        "step 1 of claims",
    ], "a command that ends well and leaves nothing has failed"
    log = (sent.folder / "logs" / "1-fails.log").read_text()
    command = f"$ python -m act fails {sent.folder / '1-fails'}"
    assert log == f"{command}\nstep 1 of fails\nerror: no such thing\n"
    said = stream.getvalue().splitlines()
    assert any(
        line.startswith("[2/4] 1-fails") and line.endswith("failed: no such thing")
        for line in said
    )
    assert [line.split("  ")[-1] for line in said if line.startswith("[3/4]")] == [
        "act",
        "step 1 of writes",
        "finished",
    ]
    again, _ = sent("writes", "fails", "writes", "claims")
    assert [o.kind for o in again] == ["skipped", "failed", "skipped", "failed"]


@pytest.mark.slow
def test_a_wish_to_stop_reaches_all_and_begins_no_more(sent):
    began = time.monotonic()
    outcomes, _ = sent(
        "waits", "waits", "writes", stop=lambda: time.monotonic() - began > 1
    )
    assert [o.kind for o in outcomes] == [
        "stopped",
        "stopped",
        "waiting",
    ]
    assert time.monotonic() - began < 20


def test_slots_share_cores_and_accelerators(sent, monkeypatch):
    cores = os.sched_getaffinity(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    sent("writes", "writes", parallel=2)
    shares = [json.loads((sent.folder / f"{n}-writes").read_text()) for n in range(2)]
    if len(cores) > 1:
        assert all(len(share[0]) < len(cores) for share in shares)
    assert {share[1] for share in shares} <= {"4,6", "5"}
    assert worker_pool._shares(1) == [({}, set())]


@pytest.mark.slow
def test_a_directory_that_is_still_being_left_is_waited_for(sent, tmp_path):
    with directory.locked(tmp_path / "busy"):
        job = Job("a", tmp_path / "busy", ())
    code = (
        "import sys, time; from pathlib import Path; from dlm.runs import directory\n"
    )
    code += "with directory.locked(Path(sys.argv[1])):\n    print(flush=True); time.sleep(1.5)"
    words, env = (
        [sys.executable, "-c", code, str(tmp_path / "busy")],
        dict(os.environ, PYTHONPATH=str(tiny.ROOT)),
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=env) as other:
        other.stdout.readline()
        began = time.monotonic()
        Fleet([job], 1, tmp_path / "logs", io.StringIO())._wait_for_directory(job)
        assert 0.5 < time.monotonic() - began < 20


def test_the_slurm_script_runs_its_task_and_requeues_a_preempted_one(tmp_path):
    job = Job(
        "it's", tmp_path, ((("act", "x y", "$HOME"), bool), (("act", "second"), bool))
    )
    script = worker_pool.slurm(
        [Job("a", tmp_path, ((("no",), bool),)), job], 3, python="echo python"
    )
    (tmp_path / "s.sh").write_text(script)
    assert "#SBATCH --array=0-1%3" in script
    assert "#SBATCH --requeue" in script

    def ran():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "scontrol").write_text('#!/bin/sh\necho "scontrol $@"\n')
        (tmp_path / "bin" / "scontrol").chmod(0o755)
        env = dict(
            os.environ,
            PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            SLURM_ARRAY_TASK_ID="1",
            SLURM_ARRAY_JOB_ID="77",
        )
        return subprocess.run(
            ["bash", str(tmp_path / "s.sh")],
            capture_output=True,
            text=True,
            env=env,
            timeout=20,
        )

    done = ran()
    assert done.returncode == 0
    assert done.stdout == "python -m act x y $HOME\npython -m act second\n"
    (tmp_path / "s.sh").write_text(worker_pool.slurm([job, job], 1, python="exit 75;"))
    done = ran()
    assert done.returncode == 75
    assert done.stdout == "scontrol requeue 77_1\n"


@pytest.mark.parametrize("commands", [1, 2])
def test_slurms_warning_reaches_the_run_whatever_its_place(commands, tmp_path):
    """The script gets TERM; the run saves and ends with 75, and is queued again."""
    (tmp_path / "act.py").write_text(CODE)
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "scontrol $@"\n')
    (tmp_path / "scontrol").chmod(0o755)
    words = (("act", "waits", "x"), bool)
    (tmp_path / "s.sh").write_text(
        worker_pool.slurm(
            [Job("a", tmp_path, (words,) * commands)], 1, python=sys.executable
        )
    )
    env = dict(
        os.environ,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PYTHONPATH=str(tmp_path),
        SLURM_ARRAY_TASK_ID="0",
        SLURM_ARRAY_JOB_ID="7",
    )
    with subprocess.Popen(
        ["bash", str(tmp_path / "s.sh")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    ) as script:
        assert script.stderr.readline().startswith("step 1")
        time.sleep(0.3)
        script.terminate()
        out, _ = script.communicate(timeout=20)
    assert script.returncode == 75
    assert out == "scontrol requeue 7_0\n"


def test_a_log_that_cannot_be_written_leaves_no_run_behind(sent, monkeypatch):
    """The run is ended, and only its own job has failed."""
    monkeypatch.setattr(
        Fleet, "_watch_output", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    outcomes, _ = sent("waits", parallel=1)
    assert [(o.kind, o.error) for o in outcomes] == [("failed", "OSError: disk full")]


def test_the_board_redraws_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    board = worker_pool.Board(["a", "bb"], stream := Terminal())
    board.show("a", "step 1", 0)
    board.show("bb", "step 1", 1)
    board.show("a", "finished", 0, last=True)
    board.close()
    shown = stream.getvalue().split("\033[2A\033[J")
    assert shown[-1] == "[1/2] a   finished\n[2/2] bb  step 1\n\033[1A\033[J"
