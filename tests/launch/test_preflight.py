"""The checks before a long run: each finds what it is there for, and says what to do about it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dlm.app import cli
from dlm.core.errors import UserError
from dlm.machine import hosts
from launch import preflight
from tests.launch.shell import bash

ROOT = Path(__file__).parents[2]
TWO = dict(
    host="a", versions=dict(python="3.11.7", jax="0.10.2"), devices=4, kind="npu Ascend"
)


def verdict(check, *facts, **options):
    result = check([TWO | fact for fact in facts], **options)
    return f"{result.observed}; {result.remedy}" if result.remedy else None


def test_each_check_finds_what_it_is_there_for():
    assert verdict(preflight.versions, {}, {}) is None
    other = verdict(
        preflight.versions, {}, dict(versions=dict(python="3.11.7", jax="0.9.0"))
    )
    assert "processes 1 and 0 have jax 0.9.0 and 0.10.2; install the same" in other
    assert (
        verdict(preflight.devices, {}, dict(host="b"), expected=8) is None
        and verdict(preflight.devices, {}, {}, expected=0) is None
    )
    assert "8 × npu Ascend on 2 host(s), by process: 4 4; --devices=16" in verdict(
        preflight.devices, {}, dict(host="b"), expected=16
    )
    assert "by process: 4 3; every process must see as many" in verdict(
        preflight.devices, {}, dict(devices=3), expected=0
    )
    assert "cpu cpu, npu Ascend on" in verdict(
        preflight.devices, {}, dict(kind="cpu cpu"), expected=0
    )
    assert verdict(preflight.all_reduce, dict(sum=36), dict(sum=36), count=8) is None
    assert "35 in process 1, not 36; a device or a link" in verdict(
        preflight.all_reduce, dict(sum=36), dict(sum=35), count=8
    )
    there = dict(folder="runs", free=7.5, shared=True)
    assert verdict(preflight.disk, there, there, needed=7.0) is None
    assert "7.5 GiB free in runs, shared by all processes; make room" in verdict(
        preflight.disk, there, there, needed=8
    )
    assert "7.5 GiB free in runs; make room" in verdict(preflight.disk, there, needed=8)
    hidden = verdict(
        preflight.disk, there, dict(there, shared=False, free=9e9), needed=0
    )
    assert "not seen by process 1; --workdir must lie" in hidden
    assert (
        verdict(preflight.clocks, dict(clock=5.0), dict(clock=6.5), allowed=2.0) is None
    )
    assert "3.00 s apart at most (processes 2 and 0); more than --skew=2 s" in verdict(
        preflight.clocks, dict(clock=5.0), dict(clock=6.5), dict(clock=8.0), allowed=2.0
    )


def run(capsys, *flags):
    with pytest.raises(SystemExit) as exit:
        cli.main(preflight.main, list(map(str, flags)))
    return exit.value.code, *capsys.readouterr()


def test_one_process_passes_for_real(tmp_path, capsys):
    code, out, err = run(
        capsys,
        f"--workdir={tmp_path / 'not' / 'yet'}",
        "--devices=4",
        "--free=0",
        "--json",
    )
    assert code == 0 and [line[:16].split() for line in err.splitlines()] == [
        ["ok", name] for name in ("versions", "devices", "all-reduce", "disk", "clocks")
    ]
    reply = json.loads(out)
    assert reply["ok"] and all(check["ok"] for check in reply["checks"])
    by_check = {check["name"]: check["found"] for check in reply["checks"]}
    assert (
        "4 × cpu cpu on 1 host(s), by process: 4" in by_check["devices"]
        and "1 + … + 4 is 10" in by_check["all-reduce"]
    )
    assert (
        all(
            f" {name} " in f" {by_check['versions']}"
            for name in ("python", *preflight.PACKAGES)
        )
        and f"in {tmp_path}" in by_check["disk"]
    )
    assert not list(tmp_path.iterdir())


MISTAKES = {  # flag → the last line, the check that is bad among those shown
    "--devices=99": (
        "error: devices: 4 × cpu cpu on 1 host(s), by process: 4; --devices=99 were expected",
        "devices",
    ),
    "--free=1e9": (
        "; make room, or choose another --workdir: --free=1e+09 GiB are asked for",
        "disk",
    ),
    "--skew=-1": (
        "error: clocks: 0.00 s apart at most (processes 0 and 0); more than --skew=-1 s",
        "clocks",
    ),
    "--workdir=/proc/none": ("error: disk: /proc cannot be written (", None),
}


@pytest.mark.parametrize("flag", MISTAKES)
def test_what_is_wrong_is_named_in_the_last_line(flag, tmp_path, capsys):
    code, out, err = run(capsys, f"--workdir={tmp_path}", "--json", flag)
    line, bad = MISTAKES[flag]
    assert (
        code == 2
        and line in err.splitlines()[-1]
        and ("all-reduce" in err) == (bad in ("disk", "clocks"))
    )
    if bad:
        assert not json.loads(out)["ok"] and [
            c["name"] for c in json.loads(out)["checks"] if not c["ok"]
        ] == [bad]


def test_a_broken_sum_is_seen(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(preflight, "total", lambda platform, plugin: 9)
    code, _, err = run(capsys, f"--workdir={tmp_path}")
    assert code == 2 and "error: all-reduce: 9 in process 0, not 10; " in err


def test_a_backend_that_does_not_start_is_one_line(monkeypatch):
    def join(say, devices):
        raise RuntimeError("Unable to initialize backend 'npu': no library\nmore")

    monkeypatch.setattr(hosts, "join", join)
    with pytest.raises(
        UserError,
        match="^devices: Unable to initialize backend 'npu': no library; look at the driver",
    ):
        preflight.joined("")


def test_a_check_that_hangs_is_named(monkeypatch, capsys):
    codes, ended = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))

    def look(args, begin):
        begin("devices")
        begin("all-reduce")
        assert ended.wait(30)
        return []

    monkeypatch.setattr(preflight, "look", look)
    _, _, err = run(capsys, "--timeout=0.05")
    assert (
        codes == [2]
        and "error: all-reduce: no answer within --timeout=0.05 s; can the processes"
        in err
    )


@pytest.mark.slow
def test_two_processes_pass_for_real_and_a_missing_platform_does_not(clone, tmp_path):
    root, env = clone
    reply = bash(
        root / "launch" / "local.sh",
        "--processes=2",
        "preflight",
        f"--workdir={tmp_path}",
        "--free=0",
        "--devices=2",
        "--json",
        **env,
    )
    assert reply.returncode == 0, reply.stderr
    by_check = {
        check["name"]: check["found"] for check in json.loads(reply.stdout)["checks"]
    }
    assert (
        "by process: 1 1" in by_check["devices"]
        and "1 + … + 2 is 3" in by_check["all-reduce"]
        and "shared by all" in by_check["disk"]
    )
    command = [sys.executable, "-m", "launch.preflight", "--platform=npu"]
    alone = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (
        alone.returncode == 2
        and alone.stderr.startswith("error: devices: ")
        and "npu" in alone.stderr
        and alone.stderr.count("\n") == 1
    )
