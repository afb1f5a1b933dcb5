"""Runs Python that nobody has read: a fresh interpreter without environment, files, network or time to waste, of which nothing survives.

    caller ──> guard (this file, a process of its own) ──> program
               namespaces of network and processes, where the kernel gives them; looks 50 times a second at all that descends from it,
               and ends by killing all of it

Limits on CPU seconds, address space, size of a file and open files are the kernel's, for each process; on seconds, output, processes and
memory together the guard's. What forks, detaches and starts a session of its own is adopted by the guard (PR_SET_CHILD_SUBREAPER), so it is
found and killed too. It is no wall against whoever knows a hole in the kernel, and files that all may read can be read: `Ran.isolated` says
whether the network was cut off.
"""

import contextlib
import ctypes
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES, _ADOPT = 1, 38, 36  # linux/prctl.h
_LOOK, _GRACE = 0.02, 5.0  # seconds between looks; how much longer the caller waits for the guard
_LONELY = 2**30  # users from here on have no files and no other processes
_PYTHON = [sys.executable, "-I", "-S", "-B", "-X", "utf8"]


@dataclass(frozen=True)
class RunResult:
    ok: bool  # it ended by itself, with exit code 0
    stdout: str
    stderr: str
    reason: str  # why it is not ok; '' where it is
    isolated: bool  # whether the network was cut off


def run(
    code: str,
    *,
    seconds: float = 10.0,
    memory: int = 2**30,
    output: int = 2**16,
    file: int = 2**24,
    processes: int = 16,
) -> RunResult:
    """What `code` does as a program, in an empty directory that is removed afterwards. `seconds` of wall clock (and of CPU, rounded up);
    `memory`, `output` (of each stream) and `file` are bytes."""
    folder = tempfile.mkdtemp(prefix="jail-")
    report_pipe, tell = os.pipe()
    limits = dict(seconds=seconds, memory=memory, file=file, processes=processes, tell=tell)
    try:
        Path(folder, "program.py").write_bytes(code.encode("utf-8", "replace"))
        command = [*_PYTHON, os.path.abspath(__file__), json.dumps(limits)]
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with subprocess.Popen(
            command, env={}, cwd=folder, start_new_session=True, pass_fds=[tell], **pipes
        ) as guard:
            os.close(tell)
            caught, reason = _listen(guard, output, time.monotonic() + seconds + _GRACE)
        with os.fdopen(report_pipe, "rb", closefd=False) as report:
            outcome = json.loads(
                report.read() or '{"reason": "the guard was killed", "isolated": false}'
            )
    finally:
        os.close(report_pipe)
        shutil.rmtree(folder, ignore_errors=True)
    reason = reason or outcome["reason"]
    return RunResult(
        not reason,
        *(text.decode("utf-8", "replace") for text in caught),
        reason,
        outcome["isolated"],
    )


def _listen(guard: subprocess.Popen, most: int, until: float) -> tuple[list[bytes], str]:
    """([stdout, stderr] up to `most` bytes each, why the guard was stopped or '')."""
    caught, reason = {guard.stdout: b"", guard.stderr: b""}, ""
    with selectors.DefaultSelector() as waiting:
        for stream in caught:
            waiting.register(stream, selectors.EVENT_READ)
        while waiting.get_map():
            if time.monotonic() > until and not reason:
                reason = "out of time"
                guard.terminate()
            for key, _ in waiting.select(0.1):
                read = os.read(key.fd, 2**16)
                if not read:
                    waiting.unregister(key.fileobj)
                caught[key.fileobj] = (caught[key.fileobj] + read)[: most + 1]
                if len(caught[key.fileobj]) > most and not reason:
                    reason = "too much output"
                    guard.terminate()
    return [text[:most] for text in caught.values()], reason


# ------------------------------------------------------------------------------------------------- in the guard's process


def _guard(limits: dict) -> None:
    """Starts the program, looks at it until it ends or goes too far, kills all that is left, and reports."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the caller's wish to stop, or its death
    kernel = ctypes.CDLL(None, use_errno=True)
    kernel.prctl(_ADOPT, 1, 0, 0, 0)
    kernel.prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    apart, reason, child = _unshare(kernel), "stopped", 0
    if (
        os.getuid() == 0
    ):  # for whom the kernel does not count processes: whoever counts them must not wait for its turn
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        child = os.fork()
        if child == 0:
            _inside(kernel, limits, apart)
        reason = _watch(child, limits)
    finally:
        _kill_all(child)
        report = dict(reason=reason, isolated=bool(apart & _NEW_NET))
        os.write(limits["tell"], json.dumps(report).encode())


def _unshare(kernel) -> int:
    """Leaves the network and the numbering of processes to others; what of it the kernel allowed."""
    user, group = os.getuid(), os.getgid()
    for wanted in ([_NEW_PID | _NEW_NET, _NEW_NET] if user == 0 else []) + [
        _NEW_USER | _NEW_PID | _NEW_NET,
        _NEW_USER | _NEW_NET,
    ]:
        if kernel.unshare(wanted) == 0:
            if wanted & _NEW_USER:
                with contextlib.suppress(OSError):
                    Path("/proc/self/setgroups").write_text("deny")
                    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
                    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
            return wanted
    return 0


def _inside(kernel, limits: dict, apart: int) -> None:
    """The first process of the jail: the program itself or, with a numbering of its own, the one whose end ends all others."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        os.set_inheritable(limits["tell"], False)
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), 0))
        if apart & _NEW_PID and (program := os.fork()):
            while (ended := os.wait())[0] != program:
                pass
            os._exit(os.waitstatus_to_exitcode(ended[1]) % 256)
        if _alone() or apart & _NEW_USER:  # a user whose processes are these alone
            resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"] + 2,) * 2)
        cpu = int(limits["seconds"]) + 1
        for kind, most in dict(
            CPU=cpu, AS=limits["memory"], FSIZE=limits["file"], NOFILE=64, CORE=0
        ).items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))
        os.execve(_PYTHON[0], [*_PYTHON, "program.py"], {})
    finally:
        os._exit(127)


def _alone() -> bool:
    """Where root runs the jail: becomes a user that owns nothing else, provided that it can still reach the interpreter."""
    if os.getuid() or not all(
        parent.stat().st_mode & 1 for parent in Path(os.path.realpath(_PYTHON[0])).parents
    ):
        return False
    lonely = _LONELY + os.getppid()
    try:
        os.chown(".", lonely, lonely)
        os.setgroups([])
        os.setgid(lonely)
        os.setuid(lonely)
    except OSError:  # no such users in this container
        return False
    return True


def _watch(child: int, limits: dict) -> str:
    """Why the program was not ok, or ''."""
    until = time.monotonic() + limits["seconds"]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            code = (
                code - 256 if code > 128 else code
            )  # a signal's number, told by the first process of a namespace
            return (
                ""
                if code == 0
                else f"exit code {code}"
                if code > 0
                else f"killed by {signal.Signals(-code).name}"
            )
        if time.monotonic() > until:
            return "out of time"
        pids = _descendants()
        if len(pids) > limits["processes"] + 1:
            return "too many processes"
        if sum(map(_resident, pids)) > limits["memory"]:
            return "too much memory"
        time.sleep(_LOOK)


def _descendants() -> list[int]:
    """All processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = (
                Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            )
            children.setdefault(int(parent), []).append(int(name))
    pids, below = [], [os.getpid()]
    while below:
        next_ = children.get(below.pop(), [])
        pids += next_
        below += next_
    return pids


def _resident(process: int) -> int:
    """Bytes of memory that it holds."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _kill_all(child: int) -> None:
    """Kills until nothing descends from this process: what is orphaned meanwhile is adopted, and found in the next round."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if child:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)  # with it the kernel ends all of a namespace at once
    while True:
        for process in _descendants():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_LOOK / 10)


if __name__ == "__main__":
    _guard(json.loads(sys.argv[1]))
