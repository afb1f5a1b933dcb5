"""One run as several processes of this machine: environment, output, ends and exit codes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlm.core.errors import UserError
from launch import processes
from tests.launch.shell import bash

ROOT = Path(__file__).parents[2]
HANGS = "trap '' TERM; exec sleep 60"


@pytest.fixture
def ends(monkeypatch, capfd):
    """(exit code, stderr) of processes that each run a line of shell; long waits are short here."""
    monkeypatch.setattr(processes, "FAILED", 0.4)
    monkeypatch.setattr(processes, "ENDED", 0.4)
    before = {number: signal.getsignal(number) for number in processes._SIGNALS}

    def run(*lines):
        cases = "".join(f"{rank}) {line} ;; " for rank, line in enumerate(lines))
        code = processes.run(
            len(lines), ["bash", "-c", f'case "$JAX_PROCESS_ID" in {cases}esac']
        )
        return code, capfd.readouterr().err

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_failure_ends_all_and_is_the_exit_code(ends):
    code, said = ends(HANGS, "exit 3", HANGS)
    assert code == 3 and "processes: [0] [2] killed, since another failed (3)" in said
    assert (
        ends("exit 2", "exit 2")[0] == 2
        and "killed" not in ends("sleep 0.1; echo as well >&2; exit 1", "exit 1")[1]
    )
    assert ends("kill -KILL $$", HANGS)[0] == 137
    assert ends("exit 75", "sleep 0.15; exit 5")[0] == 5, (
        "a failure counts for more than a wish to stop"
    )


def test_those_that_end_in_order_leave_the_others_time_but_not_for_ever(ends):
    assert (
        ends("exit 75", "sleep 0.15; exit 75")[0] == 75
        and ends("exit 0", "exit 75")[0] == 75
        and ends("exit 0", "exit 0")[0] == 0
    )
    code, said = ends("exit 0", HANGS)
    assert code == 1 and "processes: [1] killed, since another ended 0.4 s ago" in said


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name
)
def test_a_signal_goes_to_all(number):
    short_name = "INT" if number == signal.SIGINT else "TERM"
    shell = (
        f"trap 'echo heard >&2; exit 75' {short_name}; echo ready >&2; while :; "
        "do read -t 0.05 <> <(:); done"
    )
    # Children inherit ignored signals, and these tests may run under nohup or in the background.
    heeding = (
        "import signal, sys; from launch import processes; [signal.signal(s, "
        "signal.SIG_DFL) for s in processes._SIGNALS]"
    )
    command = [
        sys.executable,
        "-c",
        f"{heeding}; sys.exit(processes.main(sys.argv[1:]))",
        "2",
        "bash",
        "-c",
        shell,
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as launcher:
        ready = 0
        for line in launcher.stderr:
            ready += "ready" in line
            if ready == 2:
                break
        launcher.send_signal(number)
        said = launcher.communicate(timeout=30)[1]
    assert launcher.returncode == 75 and sorted(said.splitlines()) == [
        "[0] heard",
        "[1] heard",
    ]


def test_what_each_is_told():
    all_ranks = processes.environments(
        2, 1234, dict(HOME="here", CUDA_VISIBLE_DEVICES="4,5,6,7", JAX_PROCESS_ID="9")
    )
    assert [t["CUDA_VISIBLE_DEVICES"] for t in all_ranks] == ["4,5", "6,7"] and [
        t["JAX_PROCESS_ID"] for t in all_ranks
    ] == ["0", "1"]
    assert {
        (t["JAX_COORDINATOR_ADDRESS"], t["JAX_NUM_PROCESSES"], t["HOME"])
        for t in all_ranks
    } == {("127.0.0.1:1234", "2", "here")}
    assert (
        int(all_ranks[0]["NPROC"]) >= 8
        and processes.environments(1, 1, dict(NPROC="3"))[0]["NPROC"] == "3"
    )
    assert "ASCEND_RT_VISIBLE_DEVICES" not in all_ranks[0]
    with pytest.raises(
        UserError,
        match="ASCEND_RT_VISIBLE_DEVICES names 3 device.*2 processes cannot share",
    ):
        processes.environments(2, 1234, dict(ASCEND_RT_VISIBLE_DEVICES="0,1,2"))


COMMAND = """\"\"\"Is one of several, by hosts.join.\"\"\"
import os, sys
print("answer", sys.argv[1:])
print("[Gloo] a greeting")
print("words of", os.environ["JAX_PROCESS_ID"], os.environ["JAX_NUM_PROCESSES"], file=sys.stderr)
"""


def test_local_sh_starts_them(clone):
    root, env = clone
    (root / "dlm" / "train.py").write_text(COMMAND)
    local = root / "launch" / "local.sh"
    reply = bash(local, "--processes=2", "train", "a b", **env)
    assert reply.returncode == 0 and reply.stdout == "answer ['a b']\n", reply.stderr
    said = [line for line in reply.stderr.splitlines() if line.startswith("[")]
    assert sorted(said) == sorted(
        [
            "[0] [Gloo] a greeting",
            "[0] words of 0 2",
            "[1] [Gloo] a greeting",
            "[1] answer ['a b']",
            "[1] words of 1 2",
        ]
    )
    assert bash(
        local, "--processes=2", "train", CUDA_VISIBLE_DEVICES="0", **env
    ).stderr.startswith("error: CUDA_VISIBLE_DEVICES names 1")
    for wrong in ("0", "two", "-1"):
        reply = bash(local, f"--processes={wrong}", "train", **env)
        assert (reply.returncode, reply.stderr) == (
            2,
            f"error: --processes={wrong} is not a number from 1\n",
        )
    reply = bash(local, "--processes=2", "show", **env)
    assert (reply.returncode, reply.stderr) == (
        2,
        "error: show is one process: leave --processes=2 out\n",
    )


def test_a_dry_run_shows_the_command_of_each_and_installs_nothing(clone):
    root, env = clone
    (root / "dlm" / "train.py").write_text(COMMAND)
    one, two = (
        bash(root / "launch" / "local.sh", *flags, "--dry_run", "train", "a b", **env)
        for flags in ([], ["--processes=2"])
    )
    assert (
        one.stdout == "python -P -m dlm.train a\\ b\n" and not (root / ".venv").exists()
    )
    common = (
        "JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID="
    )
    assert two.stdout == f"{common}0 {one.stdout}{common}1 {one.stdout}"
