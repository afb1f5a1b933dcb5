"""Runs many jobs, several at a time, each in a process of its own.

Every run has a log, one line of progress and an outcome. A run that fails stops no other. Finished
runs are skipped, so the same jobs started again do only the rest.
"""

import collections
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dlm.core.errors import UserError
from dlm.machine import interrupts
from dlm.runs import directory

Words = tuple[str, ...]  # ('dlm.train', '--config=…', …)
Command = tuple[Words, Callable[[], bool]]  # with a test of whether it is done
Share = tuple[dict[str, str], set[int]]  # environment variables and cores of a slot

_LOOK = 0.1  # seconds between two looks at the request to stop
_PATIENCE = 120  # seconds that a run waits for another process to leave its directory


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Job:
    """A run: its directory and its commands."""

    name: str
    workdir: Path
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Outcome:
    """The end of a job."""

    name: str
    kind: str  # finished | skipped: it was before | failed | stopped | waiting: never begun
    seconds: float = 0.0
    error: str = ""  # the line that reported it
    log: str = ""


class Fleet:
    """`Fleet(jobs, parallel=2, logs=folder)(stop)` returns an outcome for each job, in order."""

    def __init__(
        self,
        jobs: Sequence[Job],
        parallel: int,
        logs: Path,
        stream: TextIO | None = None,
    ):
        self._jobs = jobs
        self._parallel = min(parallel, max(len(jobs), 1))
        self._logs = Path(logs)
        self._todo = collections.deque(jobs)
        self._outcomes = {job.name: Outcome(job.name, "waiting") for job in jobs}
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._board = Board([job.name for job in jobs], stream or sys.stderr)
        self._shares = _shares(self._parallel)

    def __call__(self, stop: Callable[[], bool] = _never) -> list[Outcome]:
        """Runs all jobs.

        Once `stop()` is true, the running ones get the signal to save and end, and no other begins.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        workers = []
        for slot in range(self._parallel):
            worker = threading.Thread(
                target=self._work, args=(slot,), name=f"slot {slot}"
            )
            workers.append(worker)
            worker.start()
        while any(worker.is_alive() for worker in workers):
            if stop() and not self._stopping:
                self._terminate_all()
            time.sleep(_LOOK)
        self._board.close()
        return [self._outcomes[job.name] for job in self._jobs]

    def _terminate_all(self) -> None:
        # Under the lock no worker can start a process that would miss the signal.
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)

    def _work(self, slot: int) -> None:
        """Runs jobs until none is left."""
        while not self._stopping:
            try:
                job = self._todo.popleft()
            except IndexError:
                return
            began = time.perf_counter()
            try:
                kind, error = self._run_job(job, slot)
            except Exception as unexpected:
                # Such as a log that cannot be written: this job fails, and the others continue.
                kind, error = "failed", f"{type(unexpected).__name__}: {unexpected}"
            seconds = round(time.perf_counter() - began, 1)
            log = str(self._logs / f"{job.name}.log")
            self._outcomes[job.name] = Outcome(job.name, kind, seconds, error, log)
            line = f"{kind}: {error}" if error else kind
            self._board.show(job.name, line, slot, last=True)

    def _run_job(self, job: Job, slot: int) -> tuple[str, str]:
        """Runs the commands that are not done; (kind, error) of the outcome."""
        todo = [command for command in job.commands if not _is_done(command)]
        if not todo:
            return "skipped", ""
        for command in todo:
            if self._stopping:
                return "stopped", ""
            words, _ = command
            self._board.show(job.name, words[0].removeprefix("dlm."), slot)
            self._wait_for_directory(job)
            code, last = self._run_process(job, words, slot)
            if code and self._stopping and code in (interrupts.EXIT, -signal.SIGTERM):
                return "stopped", ""
            # A command that ends well and leaves nothing has failed as well.
            if code or not _is_done(command):
                error = last.removeprefix("error: ")
                return "failed", error or f"it ended with code {code} and said nothing"
        return "finished", ""

    def _wait_for_directory(self, job: Job) -> None:
        """Waits: a process of an earlier call may still be saving in the directory."""
        end = time.monotonic() + _PATIENCE
        while job.workdir.exists() and time.monotonic() < end and not self._stopping:
            try:
                with directory.locked(job.workdir):
                    return
            except UserError:
                time.sleep(1)

    def _run_process(self, job: Job, words: Words, slot: int) -> tuple[int, str]:
        """Runs a command, whose output goes to the job's log; (exit code, last line)."""
        path = self._logs / f"{job.name}.log"
        with path.open("a", encoding="utf-8") as log:
            log.write(f"$ python -m {shlex.join(words)}\n")
            with self._process(words, slot) as process:
                if process is None:
                    return interrupts.EXIT, ""
                return self._watch_output(process, job, log, slot)

    @contextmanager
    def _process(self, words: Words, slot: int) -> Iterator[subprocess.Popen | None]:
        """Starts a process with the slot's share of the machine; None once all have to stop."""
        variables, cores = self._shares[slot]
        with self._lock:
            process = None if self._stopping else _start(words, variables)
            if process is not None:
                self._processes.add(process)
        if process is None:
            yield None
            return
        if cores:
            # The process may have ended already.
            with suppress(OSError):
                os.sched_setaffinity(process.pid, cores)
        try:
            yield process
        finally:
            # Whatever happens here, no run continues unwatched beside the next.
            process.terminate()
            process.wait()
            with self._lock:
                self._processes.remove(process)

    def _watch_output(
        self, process: subprocess.Popen, job: Job, log: TextIO, slot: int
    ) -> tuple[int, str]:
        """Logs what a process prints; (exit code, its error line or else its last line)."""
        last = ""
        for line in _lines_of(process):
            log.write(line)
            log.flush()
            # Notes may follow the line with the error.
            if not last.startswith("error: "):
                last = line.strip() or last
            if line.startswith("step "):
                self._board.show(job.name, last, slot)
        return process.wait(), last


def _is_done(command: Command) -> bool:
    _, done = command
    return done()


def _start(words: Words, variables: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it once, through us
    )


def _lines_of(process: subprocess.Popen) -> Iterable[str]:
    assert process.stderr is not None
    return process.stderr


def _shares(parallel: int) -> list[Share]:
    """The accelerators and cores of each slot; empty where there are not enough to divide."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [device for device in devices if device]
    cores: list[int] = []
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
    shares = []
    for slot in range(parallel):
        variables = {}
        own_cores: set[int] = set()
        if len(gpus) >= parallel > 1:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::parallel])
        if len(cores) >= parallel > 1:
            own_cores = set(cores[slot::parallel])
        shares.append((variables, own_cores))
    return shares


class Board:
    """One line for each run: redrawn on a terminal; in a file, a line for each change."""

    def __init__(self, names: Sequence[str], stream: TextIO):
        self._stream = stream
        self._live = stream.isatty()
        self._lock = threading.Lock()
        # Numbers are aligned, so that the names are.
        digits = len(str(len(names)))
        self._number = {}
        for i, name in enumerate(names, 1):
            self._number[name] = f"[{i:>{digits}}/{len(names)}]"
        self._width = max(map(len, names), default=0)
        self._slots: dict[int, str] = {}
        self._drawn = 0

    def show(self, name: str, text: str, slot: int, last: bool = False) -> None:
        """Shows the newest line of a run; its `last` one stays on the terminal.

        Args:
            name: of the run
            text: of the line
            slot: in which the run is; its lines replace each other
            last: whether the run has ended
        """
        line = f"{self._number[name]} {name:<{self._width}}  {text}"
        with self._lock:
            if self._live:
                self._redraw(line, slot, last)
            else:
                self._stream.write(line + "\n")
            self._stream.flush()

    def _redraw(self, line: str, slot: int, last: bool) -> None:
        self._clear()
        if last:
            self._slots.pop(slot, None)
            self._stream.write(line + "\n")
        else:
            self._slots[slot] = line
        # A line that wraps would make the count of lines to clear wrong.
        width = _columns() - 1
        for key in sorted(self._slots):
            self._stream.write(f"{self._slots[key][:width]}\n")
        self._drawn = len(self._slots)

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(f"\033[{self._drawn}A\033[J")

    def close(self) -> None:
        """Clears the lines of runs that have not ended."""
        with self._lock:
            self._clear()
            self._drawn = 0


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 100


def slurm(jobs: Sequence[Job], parallel: int, python: str = "python") -> str:
    """Returns an sbatch script: one array task for each job, requeued where it was preempted."""
    # A task trains and evaluates, so that the array has one entry for each run.
    tasks = []
    for job in jobs:
        commands = [f"{python} -m {shlex.join(words)}" for words, _ in job.commands]
        line = " && ".join(commands)
        tasks.append(f"  {shlex.quote(line)}  # {job.name}")
    return _SLURM.format(
        last=len(jobs) - 1,
        parallel=parallel,
        tasks="\n".join(tasks),
        exit=interrupts.EXIT,
    )


_SLURM = """#!/usr/bin/env bash
#SBATCH --array=0-{last}%{parallel}
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%A_%a.log
# One task for each run. SLURM's warning before the end makes a run save and exit with {exit};
# the task is then queued again and continues.
set -uo pipefail
tasks=(
{tasks}
)
# More than one command, so that bash stays and its child gets the signal.
bash -c "${{tasks[$SLURM_ARRAY_TASK_ID]}}; exit \\$?" &
task=$!
trap 'pkill -TERM -P "$task"' TERM
wait "$task"
code=$?
if [[ $code -gt 128 ]]; then # the trap interrupted the wait
  wait "$task"
  code=$?
fi
again="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
[[ $code != {exit} && $code != 143 ]] || scontrol requeue "$again"
exit "$code"
"""
