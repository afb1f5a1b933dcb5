"""Runs one command as several processes of one run on this machine; launch/local.sh --processes=N is the way to it.

python -m launch.processes N COMMAND…

Each process hears of the others by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. All lines come out on stderr behind
[0], [1], …; only what process 0 prints on stdout stays there as it is, for --json. SIGTERM and SIGINT go to all of them. The first
failure ends the others, which would wait for it for ever, and gives the exit code; a wish to stop (75) or an end in order leaves them
time to follow.
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

FAILED = 3  # seconds that the others have to say why they fail too
ENDED = 90  # seconds to follow a process that ended in order; dlm.machine.hosts gives up on another after 60
_LOOK = 0.05  # seconds between two looks at the processes
_VISIBLE = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
)
_SIGNALS = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}  # the terminal is closed: save


def environments(count: int, port: int, given: dict[str, str]) -> list[dict[str, str]]:
    """What each process is told. Devices that a *_VISIBLE_DEVICES names are dealt out in equal shares."""
    # Two processes with two devices each on two cores wait for ever in their first collective: XLA's pools have too few threads.
    shared = dict(NPROC=str(max(8, os.cpu_count() or 1))) | given
    shared |= dict(JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}", JAX_NUM_PROCESSES=str(count))
    made = [dict(shared, JAX_PROCESS_ID=str(rank)) for rank in range(count)]
    for name in _VISIBLE:
        devices = given[name].split(",") if given.get(name) else []
        if len(devices) % count:
            raise UserError(
                f"{name} names {len(devices)} device(s), which {count} processes cannot share evenly: choose another number"
            )
        share = len(devices) // count
        for rank in range(count if devices else 0):
            made[rank][name] = ",".join(devices[rank * share : (rank + 1) * share])
    return made


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(count: int, command: list[str]) -> int:
    """Runs the processes to their end; the exit code of the first that failed, else 75 where any stopped early, else 0."""
    told: list[int] = []
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: told.append(_SIGNALS[number]))
    children = []
    try:
        for environment in environments(count, free_port(), dict(os.environ)):
            children.append(_start(command, environment))
        _write(
            f"processes {' '.join(f'[{rank}] {child.pid}' for rank, child in enumerate(children))}\n"
        )
        pipes = [
            (rank, pipe, rank == 0 and pipe is child.stdout)
            for rank, child in enumerate(children)
            for pipe in (child.stdout, child.stderr)
        ]
        readers = [threading.Thread(target=_pass_on, args=pipe, daemon=True) for pipe in pipes]
        for reader in readers:
            reader.start()
        code = _watch(children, told)
        for reader in readers:
            reader.join(timeout=FAILED)  # a process of theirs that lives on may hold the pipe
        return code
    finally:
        _kill(children)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    # In a session of its own, so that Ctrl-C reaches it once, through us: a second signal ends a run at once.
    pipes = dict(
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def _watch(children: list[subprocess.Popen], told: list[int]) -> int:
    failed, deadline = None, None
    while running := [rank for rank, child in enumerate(children) if child.poll() is None]:
        while told:
            number = told.pop(0)
            for rank in running:
                children[rank].send_signal(number)
        bad = _failure(children)
        if bad is not None and failed is None:
            failed, deadline = bad, time.monotonic() + FAILED
        elif len(running) < len(children) and deadline is None:
            deadline = time.monotonic() + ENDED
        if deadline is not None and time.monotonic() > deadline:
            still = " ".join(f"[{rank}]" for rank in running)
            _write(
                f"processes: {still} killed, since another {f'failed ({failed})' if failed else f'ended {ENDED} s ago'}\n"
            )
            _kill(children)
            return failed or 1
        time.sleep(_LOOK)
    codes = [child.returncode for child in children]
    return failed or _failure(children) or (EXIT if EXIT in codes else 0)


def _failure(children: list[subprocess.Popen]) -> int | None:
    """The exit code of one that failed, as a shell tells it."""
    codes = (child.returncode for child in children)
    return next(
        (code if code > 0 else 128 - code for code in codes if code not in (None, 0, EXIT)), None
    )


def _kill(children: list[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _pass_on(rank: int, pipe: IO[str], answers: bool) -> None:
    for line in pipe:
        if answers and not line.startswith("[Gloo]"):  # the collectives of the CPU greet on stdout
            _write(line, to=1)
        else:
            _write(f"[{rank}] {line.rstrip()}\n")


def _write(text: str, to: int = 2) -> None:
    with contextlib.suppress(
        OSError
    ):  # nobody listens any more; the processes must not wait for that
        os.write(to, text.encode())


def main(argv: list[str]) -> int:
    try:
        return run(int(argv[0]), argv[1:])
    except UserError as error:
        _write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
