"""Many runs, some of them at a time, each in a process of its own: a log, one line of progress and an outcome for every one.

A run that fails stops none of the others. What is finished is skipped, so that the same fleet sent out again does only the rest.
"""

import collections
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dlm.core.errors import UserError
from dlm.machine import interrupts
from dlm.runs import directory

_LOOK = 0.1  # seconds between two looks at the wish to stop
_PATIENCE = 120  # seconds that a run waits for another process to leave its directory


@dataclass(frozen=True)
class Job:
    """A run: its directory and its commands, each with a test of whether it is done."""

    name: str
    workdir: Path
    commands: tuple[
        tuple[tuple[str, ...], Callable[[], bool]], ...
    ]  # (('dlm.train', '--config=…', …), done)


@dataclass(frozen=True)
class Outcome:
    name: str
    kind: str  # finished | skipped: it was before | failed | stopped | waiting: never begun
    seconds: float = 0.0
    error: str = ""  # the line in which it was told
    log: str = ""


class Fleet:
    """`Fleet(jobs, parallel=2, logs=folder)(stop)` → an outcome for every job, in their order."""

    def __init__(
        self, jobs: Sequence[Job], parallel: int, logs: Path, stream: TextIO | None = None
    ):
        self._jobs, self._parallel, self._logs = jobs, min(parallel, max(len(jobs), 1)), Path(logs)
        self._todo, self._outcomes = (
            collections.deque(jobs),
            {job.name: Outcome(job.name, "waiting") for job in jobs},
        )
        self._processes: set[subprocess.Popen] = set()
        self._lock, self._stopping = threading.Lock(), False
        self._board = Board([job.name for job in jobs], stream or sys.stderr)
        self._shares = _shares(self._parallel)

    def __call__(self, stop: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """Sends all of them out. Once `stop()` is true the running ones are asked to save and end, and no other begins."""
        self._logs.mkdir(parents=True, exist_ok=True)
        workers = [
            threading.Thread(target=self._work, args=(slot,), name=f"slot {slot}")
            for slot in range(self._parallel)
        ]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            if stop() and not self._stopping:
                with self._lock:
                    self._stopping = True
                    for process in self._processes:
                        process.send_signal(signal.SIGTERM)
            time.sleep(_LOOK)
        self._board.close()
        return [self._outcomes[job.name] for job in self._jobs]

    def _work(self, slot: int) -> None:
        while not self._stopping:
            try:
                job = self._todo.popleft()
            except IndexError:
                return
            began = time.perf_counter()
            try:
                kind, error = self._ran(job, slot)
            except Exception as unexpected:  # such as a log that cannot be written: this job's failure, not the fleet's
                kind, error = "failed", f"{type(unexpected).__name__}: {unexpected}"
            seconds = round(time.perf_counter() - began, 1)
            self._outcomes[job.name] = Outcome(
                job.name, kind, seconds, error, str(self._logs / f"{job.name}.log")
            )
            self._board.tell(job.name, kind + (f": {error}" if error else ""), slot, last=True)

    def _ran(self, job: Job, slot: int) -> tuple[str, str]:
        """(kind, error) of a job's outcome."""
        todo = [(words, done) for words, done in job.commands if not done()]
        if not todo:
            return "skipped", ""
        for words, done in todo:
            if self._stopping:
                return "stopped", ""
            self._board.tell(job.name, words[0].removeprefix("dlm."), slot)
            self._await(job)
            code, last = self._process(job, words, slot)
            if code and self._stopping and code in (interrupts.EXIT, -signal.SIGTERM):
                return "stopped", ""
            if code or not done():
                return "failed", last.removeprefix(
                    "error: "
                ) or f"it ended with code {code} and said nothing"
        return "finished", ""

    def _await(self, job: Job) -> None:
        """A process that an earlier fleet left behind may still be saving in the directory."""
        end = time.monotonic() + _PATIENCE
        while job.workdir.exists() and time.monotonic() < end and not self._stopping:
            try:
                with directory.locked(job.workdir):
                    return
            except UserError:
                time.sleep(1)

    def _process(self, job: Job, words: tuple[str, ...], slot: int) -> tuple[int, str]:
        """(exit code, last line it said) of a command whose words go to the job's log."""
        env, cores = self._shares[slot]
        with (self._logs / f"{job.name}.log").open("a", encoding="utf-8") as log:
            log.write(f"$ python -m {shlex.join(words)}\n")
            with self._lock:
                if self._stopping:
                    return interrupts.EXIT, ""
                process = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    env=os.environ | env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,  # Ctrl-C reaches it once, through us
                )
                self._processes.add(process)
            if cores:
                with suppress(OSError):
                    os.sched_setaffinity(process.pid, cores)
            try:
                return self._watch_output(process, job, log, slot)
            finally:  # whatever happens here, no run goes on unheard beside the next
                process.terminate()
                process.wait()
                with self._lock:
                    self._processes.remove(process)

    def _watch_output(
        self, process: subprocess.Popen, job: Job, log: TextIO, slot: int
    ) -> tuple[int, str]:
        """(exit code, the line that tells the error, else the last line)."""
        last = ""
        for line in process.stderr:
            log.write(line)
            log.flush()
            if not last.startswith("error: "):  # notes may stand below it
                last = line.strip() or last
            if line.startswith("step "):
                self._board.tell(job.name, last, slot)
        return process.wait(), last


def _shares(parallel: int) -> list[tuple[dict[str, str], set[int]]]:
    """For each slot: variables that give it its own accelerators, and its own cores. Nothing where there is only one slot."""
    gpus = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares = []
    for slot in range(parallel):
        env = (
            {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot::parallel])}
            if len(gpus) >= parallel > 1
            else {}
        )
        shares.append((env, set(cores[slot::parallel]) if len(cores) >= parallel > 1 else set()))
    return shares


class Board:
    """One line for each run: redrawn on a terminal; in a file, a line whenever something is new."""

    def __init__(self, names: Sequence[str], stream: TextIO):
        self._stream, self._live, self._lock = stream, stream.isatty(), threading.Lock()
        self._number = {
            name: f"[{i:>{len(str(len(names)))}}/{len(names)}]" for i, name in enumerate(names, 1)
        }
        self._width = max(map(len, names), default=0)
        self._slots: dict[int, str] = {}
        self._drawn = 0

    def tell(self, name: str, text: str, slot: int, last: bool = False) -> None:
        """The newest line of a run; its `last` one stays."""
        line = f"{self._number[name]} {name:<{self._width}}  {text}"
        with self._lock:
            if not self._live:
                self._stream.write(line + "\n")
            else:
                self._clear()
                if last:
                    self._slots.pop(slot, None)
                    self._stream.write(line + "\n")
                else:
                    self._slots[slot] = line
                width = _columns()
                self._stream.write(
                    "".join(f"{self._slots[s][: width - 1]}\n" for s in sorted(self._slots))
                )
                self._drawn = len(self._slots)
            self._stream.flush()

    def _clear(self) -> None:
        self._stream.write(f"\033[{self._drawn}A\033[J" if self._drawn else "")

    def close(self) -> None:
        """Leaves only what stays."""
        with self._lock:
            self._clear()
            self._drawn = 0


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 100


def slurm(jobs: Sequence[Job], parallel: int, python: str = "python") -> str:
    """An sbatch script: one array task for each job, requeued where it was preempted."""
    lines = [
        " && ".join(f"{python} -m {shlex.join(words)}" for words, _ in job.commands) for job in jobs
    ]
    tasks = "\n".join(
        f"  {shlex.quote(line)}  # {job.name}" for line, job in zip(lines, jobs, strict=True)
    )
    return _SLURM.format(last=len(jobs) - 1, parallel=parallel, tasks=tasks, exit=interrupts.EXIT)


_SLURM = """#!/usr/bin/env bash
#SBATCH --array=0-{last}%{parallel}
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%A_%a.log
# One task for each run. SLURM's warning before the end makes a run save and exit with {exit}; the task is then queued again and goes on.
set -uo pipefail
tasks=(
{tasks}
)
bash -c "${{tasks[$SLURM_ARRAY_TASK_ID]}}; exit \\$?" & # more than one command, so that bash stays and its child gets the signal
task=$!
trap 'pkill -TERM -P "$task"' TERM
wait "$task"
code=$?
if [[ $code -gt 128 ]]; then # the trap interrupted the wait
  wait "$task"
  code=$?
fi
[[ $code != {exit} && $code != 143 ]] || scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit "$code"
"""
