"""Run untrusted Python in a fresh process without environment, files or network, under limits.

    caller ──> guard (this file, a process of its own) ──> program

The guard enters new namespaces of network and processes, where the kernel provides them; looks 50
times a second at all descendants; and ends by killing all of them. The kernel limits CPU seconds,
address space, size of a file and open files of each process; the guard limits wall-clock seconds,
output, processes and total memory. A process that forks, detaches and starts its own session is
adopted by the guard (PR_SET_CHILD_SUBREAPER), so it is seen and killed too.

This is no defence against an exploit of the kernel, and files that everybody may read can be read.
`RunResult.isolated` says whether the network was cut off.
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
from typing import NoReturn

_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES, _ADOPT = 1, 38, 36  # linux/prctl.h
_POLL = 0.02  # seconds between two looks at the program
_GRACE = 5.0  # seconds that the caller waits for the guard beyond the program's time
_FIRST_LONELY_USER = 2**30  # users from here on own no files and no other processes
_PYTHON = [sys.executable, "-I", "-S", "-B", "-X", "utf8"]
_GUARD_KILLED = '{"reason": "the guard was killed", "isolated": false}'


@dataclass(frozen=True)
class RunResult:
    """What a program printed, and how it ended."""

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
    """Run `code` as a program in an empty folder that is removed afterwards.

    Args:
      code: the program's text.
      seconds: limit of wall-clock time, and of CPU time, rounded up.
      memory: bytes, of each process and of all together.
      output: bytes of stdout and of stderr that are returned.
      file: bytes of the largest file that it may write.
      processes: how many it may have at once.
    """
    folder = tempfile.mkdtemp(prefix="jail-")
    report_pipe, tell = os.pipe()
    limits = dict(
        seconds=seconds, memory=memory, file=file, processes=processes, tell=tell
    )
    try:
        Path(folder, "program.py").write_bytes(code.encode("utf-8", "replace"))
        with _start_guard(folder, limits, tell) as guard:
            os.close(tell)
            until = time.monotonic() + seconds + _GRACE
            streams, reason = _read_streams(guard, output, until)
        with os.fdopen(report_pipe, "rb", closefd=False) as report:
            outcome = json.loads(report.read() or _GUARD_KILLED)
    finally:
        os.close(report_pipe)
        shutil.rmtree(folder, ignore_errors=True)
    reason = reason or outcome["reason"]
    stdout, stderr = (text.decode("utf-8", "replace") for text in streams)
    return RunResult(not reason, stdout, stderr, reason, outcome["isolated"])


def _start_guard(folder: str, limits: dict, tell: int) -> subprocess.Popen:
    command = [*_PYTHON, os.path.abspath(__file__), json.dumps(limits)]
    return subprocess.Popen(
        command,
        env={},
        cwd=folder,
        start_new_session=True,
        pass_fds=[tell],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _read_streams(
    guard: subprocess.Popen, most: int, until: float
) -> tuple[list[bytes], str]:
    """Read up to `most` bytes of each stream; return ([stdout, stderr], reason or '')."""
    assert guard.stdout is not None and guard.stderr is not None
    text = {guard.stdout.fileno(): b"", guard.stderr.fileno(): b""}
    reason = ""
    with selectors.DefaultSelector() as selector:
        for stream in text:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > until and not reason:
                reason = "out of time"
                guard.terminate()
            for key, _ in selector.select(0.1):
                chunk = os.read(key.fd, 2**16)
                if not chunk:
                    selector.unregister(key.fd)
                # One byte too many shows that there was more.
                text[key.fd] = (text[key.fd] + chunk)[: most + 1]
                if len(text[key.fd]) > most and not reason:
                    reason = "too much output"
                    guard.terminate()
    return [stream[:most] for stream in text.values()], reason


# ------------------------------------------------------------------------- in the guard's process


def _guard(limits: dict) -> None:
    """Start the program, watch it until it ends or exceeds a limit, kill the rest, and report."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit()
    )  # the caller's request, or its death
    kernel = ctypes.CDLL(None, use_errno=True)
    kernel.prctl(_ADOPT, 1, 0, 0, 0)
    kernel.prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    namespaces = _enter_namespaces(kernel)
    reason, child = "stopped", 0
    if os.getuid() == 0:
        # The kernel does not count root's processes; the guard that does must not wait its turn.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        child = os.fork()
        if child == 0:
            _become_program(kernel, limits, namespaces)
        reason = _watch(child, limits)
    finally:
        _kill_all(child)
        report = dict(reason=reason, isolated=bool(namespaces & _NEW_NET))
        os.write(limits["tell"], json.dumps(report).encode())


def _enter_namespaces(kernel: ctypes.CDLL) -> int:
    """Enter new namespaces of network and processes; return the flags that the kernel accepted."""
    attempts = [_NEW_USER | _NEW_PID | _NEW_NET, _NEW_USER | _NEW_NET]
    if os.getuid() == 0:
        attempts = [_NEW_PID | _NEW_NET, _NEW_NET, *attempts]
    user, group = os.getuid(), os.getgid()
    for flags in attempts:
        if kernel.unshare(flags) != 0:
            continue
        if flags & _NEW_USER:
            with contextlib.suppress(OSError):
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
                Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        return flags
    return 0


def _become_program(kernel: ctypes.CDLL, limits: dict, namespaces: int) -> NoReturn:
    """Set the limits and replace this process by the program.

    In a new process namespace the first process waits instead: its end ends all others.
    """
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        os.set_inheritable(limits["tell"], False)
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), 0))
        if namespaces & _NEW_PID and (program := os.fork()):
            _wait_as_first(program)
        _set_limits(
            limits, own_user=_become_lonely_user() or bool(namespaces & _NEW_USER)
        )
        os.execve(_PYTHON[0], [*_PYTHON, "program.py"], {})
    finally:
        os._exit(127)


def _wait_as_first(program: int) -> NoReturn:
    process, status = os.wait()
    while process != program:
        process, status = os.wait()
    os._exit(os.waitstatus_to_exitcode(status) % 256)


def _set_limits(limits: dict, own_user: bool) -> None:
    values = {
        resource.RLIMIT_CPU: int(limits["seconds"]) + 1,
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["file"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if own_user:
        # The kernel counts processes per user, so this limit needs a user that has no others.
        values[resource.RLIMIT_NPROC] = limits["processes"] + 2
    for kind, value in values.items():
        resource.setrlimit(kind, (value, value))


def _become_lonely_user() -> bool:
    """Where root runs the guard, become a user that owns nothing else.

    Returns False where such a user could not reach the interpreter.
    """
    parents = Path(os.path.realpath(_PYTHON[0])).parents
    if os.getuid() or not all(parent.stat().st_mode & 1 for parent in parents):
        return False
    user = _FIRST_LONELY_USER + os.getppid()
    try:
        os.chown(".", user, user)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    except OSError:  # the container has no such users
        return False
    return True


def _watch(child: int, limits: dict) -> str:
    """Wait for the end of the program; return the reason why it is not ok, or ''."""
    until = time.monotonic() + limits["seconds"]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _describe_exit(os.waitstatus_to_exitcode(status))
        if time.monotonic() > until:
            return "out of time"
        processes = _descendants()
        if len(processes) > limits["processes"] + 1:
            return "too many processes"
        if sum(map(_resident_bytes, processes)) > limits["memory"]:
            return "too much memory"
        time.sleep(_POLL)


def _describe_exit(code: int) -> str:
    if code > 128:
        code -= 256  # a signal's number, passed on by the first process of a namespace
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else ""


def _descendants() -> list[int]:
    """List all processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{name}/stat").read_text(errors="replace")
            # The parent is the second field after the command's name, which may hold spaces.
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    descendants, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        descendants += below
        todo += below
    return descendants


def _resident_bytes(process: int) -> int:
    """Return the memory that a process occupies; 0 once it has ended."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return 0


def _kill_all(child: int) -> None:
    """Kill until nothing is left: orphans are adopted, and seen in the next round."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if child:
        with contextlib.suppress(OSError):
            # In a process namespace this one kill ends all processes at once.
            os.kill(child, signal.SIGKILL)
    while True:
        for process in _descendants():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_POLL / 10)


if __name__ == "__main__":
    _guard(json.loads(sys.argv[1]))
