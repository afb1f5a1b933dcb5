"""Runs one command as several processes of one run on this machine.

python -m launch.processes N COMMAND…      or, with the environment: launch/local.sh --processes=N

Each process receives the addresses of the others in JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. All lines are printed on stderr after [0], [1], …; only stdout of process 0 stays on
stdout as it is, for --json. SIGTERM and SIGINT are sent to all of them. The first failure ends the
others, which would wait for it for ever, and gives the exit code. After an early stop (75) or a
normal end of one, the others have time to follow.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

from dlm.core.errors import UserError
from dlm.machine.interrupts import EXIT

FAILED = 3  # seconds for the others to report why they fail too
# Seconds to follow a process that ended normally; dlm.machine.hosts waits 60 for another.
ENDED = 90
_LOOK = 0.05  # seconds between two looks at the processes
_VISIBLE = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
)
# SIGHUP: the terminal is closed, so the run must save.
_SIGNALS = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}


Environment = dict[str, str]


def environments(count: int, port: int, inherited: Environment) -> list[Environment]:
    """Returns the environment of each process.

    Devices that a *_VISIBLE_DEVICES names are divided in equal shares.
    """
    # With too few threads in XLA's pools, two processes with two devices each on two cores wait
    # for ever in their first collective.
    threads = max(8, os.cpu_count() or 1)
    shared = dict(NPROC=str(threads)) | inherited
    shared["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    shared["JAX_NUM_PROCESSES"] = str(count)
    all_ranks = [dict(shared, JAX_PROCESS_ID=str(rank)) for rank in range(count)]
    for name in _VISIBLE:
        if not inherited.get(name):
            continue
        devices = inherited[name].split(",")
        if len(devices) % count:
            cause = (
                f"which {count} processes cannot share evenly: choose another number"
            )
            raise UserError(f"{name} names {len(devices)} device(s), {cause}")
        share = len(devices) // count
        for rank, environment in enumerate(all_ranks):
            first = rank * share
            environment[name] = ",".join(devices[first : first + share])
    return all_ranks


def free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(count: int, command: list[str]) -> int:
    """Runs the processes to their end and returns an exit code.

    It is that of the first that failed, else 75 if any stopped early, else 0.
    """
    signals: list[int] = []
    for number in _SIGNALS:
        # Under nohup SIGHUP stays ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: signals.append(_SIGNALS[number]))
    children: list[subprocess.Popen] = []
    try:
        for environment in environments(count, free_port(), dict(os.environ)):
            children.append(_start(command, environment))
        numbers = [f"[{rank}] {child.pid}" for rank, child in enumerate(children)]
        _write(f"processes {' '.join(numbers)}\n")
        pipes = [
            (rank, pipe, rank == 0 and pipe is child.stdout)
            for rank, child in enumerate(children)
            for pipe in (child.stdout, child.stderr)
        ]
        readers = [
            threading.Thread(target=_pass_on, args=pipe, daemon=True) for pipe in pipes
        ]
        for reader in readers:
            reader.start()
        code = _watch(children, signals)
        # A process that they started and that lives on may hold the pipe.
        for reader in readers:
            reader.join(timeout=FAILED)
        return code
    finally:
        _kill(children)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    # In a session of its own Ctrl-C reaches it once, through us: a second signal would end it.
    pipes = dict(
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def _watch(children: list[subprocess.Popen], signals: list[int]) -> int:
    """Passes signals on until all ended or a limit is over; returns the exit code."""
    failed, deadline = None, None
    while running := [
        rank for rank, child in enumerate(children) if child.poll() is None
    ]:
        while signals:
            number = signals.pop(0)
            for rank in running:
                children[rank].send_signal(number)
        bad = _failure(children)
        if bad is not None and failed is None:
            failed, deadline = bad, time.monotonic() + FAILED
        elif len(running) < len(children) and deadline is None:
            deadline = time.monotonic() + ENDED
        if deadline is not None and time.monotonic() > deadline:
            still = " ".join(f"[{rank}]" for rank in running)
            cause = f"failed ({failed})" if failed else f"ended {ENDED} s ago"
            _write(f"processes: {still} killed, since another {cause}\n")
            _kill(children)
            return failed or 1
        time.sleep(_LOOK)
    codes = [child.returncode for child in children]
    return failed or _failure(children) or (EXIT if EXIT in codes else 0)


def _failure(children: list[subprocess.Popen]) -> int | None:
    """Returns the exit code of the first that failed, as a shell reports it, or None."""
    for child in children:
        code = child.returncode
        if code not in (None, 0, EXIT):
            return code if code > 0 else 128 - code
    return None


def _kill(children: list[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _pass_on(rank: int, pipe: IO[str], answers: bool) -> None:
    for line in pipe:
        # The collectives of the CPU print a greeting on stdout.
        if answers and not line.startswith("[Gloo]"):
            _write(line, to=1)
        else:
            _write(f"[{rank}] {line.rstrip()}\n")


def _write(text: str, to: int = 2) -> None:
    # Where nothing reads any more, the processes must not wait for it.
    with contextlib.suppress(OSError):
        os.write(to, text.encode())


def main(argv: list[str]) -> int:
    try:
        return run(int(argv[0]), argv[1:])
    except UserError as error:
        _write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
