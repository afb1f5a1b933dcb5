"""Interrupts a tiny run repeatedly, resumes it, and compares it bytewise with an undisturbed run.

python -m dlm.bench resume [--kills=20] [--terms=5] [--objective=masked|ar] [--seed=N] [--json]

The run packs documents, sums gradients over microbatches, averages its parameters and goes through
its corpus several times. SIGKILL or SIGTERM is sent in one of the phases (compile, data, step,
eval, save) in turn, after a random delay; the phase that is counted is the one that the signal
really hit. After SIGTERM the run must end with the documented exit code, saved, without beginning
a second update.
"""

import contextlib
import itertools
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Seed
from dlm.machine import interrupts

PHASES = ("compile", "data", "step", "eval", "save")
# Fields of a row of metrics that may differ.
TIMES = ("tokens_per_s", "share_of_peak", "phases", "seconds")
OBJECTIVES = ("masked", "ar")
FLAGS = [
    Flag("kills", "how often the run is killed", default=20, type=int),
    Flag("terms", "how often it is asked to stop, in between", default=5, type=int),
    Flag(
        "objective",
        "one of the two (default: both, one after the other)",
        choices=OBJECTIVES,
    ),
    Flag("seed", "of the moments at which it is interrupted", default=0, type=Seed),
    Flag("steps", "updates of the run", default=400, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
ROOT = Path(__file__).parents[2]
# Longest delay of a signal after the beginning of a phase, in seconds.
DELAYS = dict(compile=0.5, data=0.001, step=0.02, eval=0.03, save=0.01)
PATIENCE = 300  # seconds that one process may take
EXIT_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: interrupts.EXIT}
WORDS = "the cat sat on a mat and saw dogs run up to red barns while it rained"


def main(argv: list[str] | None = None) -> int:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if min(args.kills, args.terms) < 0 or args.steps < 8:
        raise UserError(
            "--kills and --terms must not be negative, and --steps must be at least 8"
        )
    results = {}
    for objective in [args.objective] if args.objective else OBJECTIVES:
        # The same moments for both objectives.
        rng = random.Random(args.seed)
        result = disturbed(objective, args.kills, args.terms, args.steps, rng)
        results[objective] = result
        kills, terms = _describe(result["kills"]), _describe(result["terms"])
        survived = (
            f"{kills} kills survived, {terms} requests to stop, {args.steps} updates"
        )
        differences = ", ".join(result["differences"])
        outcome = f"differences: {differences}" if differences else "no difference"
        say(f"{objective}: {survived}; {outcome}")
    if args.json:
        cli.emit(results)
    return int(any(result["differences"] for result in results.values()))


def _describe(hits: dict[str, int]) -> str:
    counts = [f"{phase} {number}" for phase, number in hits.items()]
    return f"{sum(hits.values())} ({', '.join(counts)})"


def disturbed(
    objective: str,
    kills: int,
    terms: int,
    steps: int,
    rng: random.Random,
) -> dict:
    """Counts the signals that hit the run in each phase, and compares it with the undisturbed run.

    Args:
        objective: one of `OBJECTIVES`.
        kills: how often SIGKILL is sent.
        terms: how often SIGTERM is sent.
        steps: updates of the run.
        rng: of the moments.
    """
    # In random order, so that each follows the other.
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    hits = {number: Counter(dict.fromkeys(PHASES, 0)) for number in EXIT_CODES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus.txt"
        _write_corpus(corpus)
        flags = recipe(objective, corpus, steps)
        # One run is left alone, the other one is interrupted.
        whole, broken = folder / "whole", folder / "broken"
        _process(folder, flags, whole).run()
        process = _process(folder, flags, broken)
        for number in rng.sample(signals, len(signals)):
            phase = _rarest(hits[number], rng)
            nth = rng.randint(1, 4)
            delay = rng.uniform(0, DELAYS[phase])
            hit = process.run(Interruption(phase, number, nth, delay))
            if hit is None:  # it ended before
                break
            hits[number][hit] += 1
        process.run()
        return dict(
            kills=dict(hits[signal.SIGKILL]),
            terms=dict(hits[signal.SIGTERM]),
            differences=differences(whole, broken),
        )


def _process(folder: Path, flags: list[str], workdir: Path) -> "_Process":
    command = [sys.executable, "-m", "dlm.drills.resume", *flags]
    # The processes share compiled programs and encoded documents, which saves most of the time.
    env = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"),
        DLM_CACHE=str(folder / "tokens"),
    )
    return _Process([*command, f"--workdir={workdir}"], env)


def _rarest(hits: dict[str, int], rng: random.Random) -> str:
    """Returns the phase that was hit least; one of several at random."""
    return min(PHASES, key=lambda phase: (hits[phase], rng.random()))


def recipe(objective: str, corpus: Path, steps: int) -> list[str]:
    """Returns the flags of a run of 8 × 32 tokens in two microbatches, several epochs long."""
    source = dict(
        name="data.local",
        paths=(str(corpus),),
        unit="paragraph",
        held_out=0.2,
    )
    attention = dict(heads=2, kv_heads=2, head_size=8)
    sections: dict[str, Any] = dict(
        steps=steps,
        text=dict(name="text.bytes"),
        data=dict(source=source, batch=8, length=32),
        nn=dict(
            layers=1,
            width=16,
            attention=attention,
            ffn=dict(width=24),
        ),
        optim=dict(microbatches=2, ema=0.9, warmup=5),
        evals=dict(bound=dict(samples=2)),
        intervals=dict(log=3, eval=5, save=7),
    )
    path = ROOT / "configs" / ("ar.py" if objective == "ar" else "masked.py")
    flags = [f"--config.{name}={value!r}" for name, value in sections.items()]
    return [f"--config={path}:size=tiny", *flags]


def _write_corpus(path: Path) -> None:
    rng = random.Random(0)
    words = WORDS.split()
    documents = []
    for number in range(60):
        documents.append(" ".join(rng.choices(words, k=30)) + f" {number}.")
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------- comparison


def differences(a: Path, b: Path) -> list[str]:
    """Names what differs between two finished runs.

    Compares parameters, moments, averages, metrics (without times) and the next batches.
    """
    from dlm.app.open_run import reopen

    one, x = reopen(a, whole=True)
    two, y = reopen(b, whole=True)
    results = []
    trees = dict(
        step=(x.step, y.step),
        params=(x.params, y.params),
        moments=(x.moments, y.moments),
        ema=(x.ema, y.ema),
    )
    for name, (left, right) in trees.items():
        if _bytes(left) != _bytes(right):
            results.append(name)
    for p, q in itertools.zip_longest(_metrics(a), _metrics(b)):
        if p != q:
            results.append(f"metrics, first {p} and {q}")
            break
    # The next batches, where both would continue.
    ours = one.batches(int(x.step))
    theirs = two.batches(int(y.step))
    for _ in range(3):
        if _bytes(next(ours)) != _bytes(next(theirs)):
            return [*results, "batches"]
    return results


def _bytes(tree: Any) -> list[bytes]:
    """Returns the bytes of all arrays of a tree: numbers that print the same may differ."""
    import jax
    import numpy as np

    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def _metrics(workdir: Path) -> list[dict]:
    from dlm.runs import logs

    rows = []
    for row in logs.rows(workdir / logs.METRICS):
        for name in TIMES:
            row.pop(name, None)
        rows.append(row)
    return rows


# -------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Interruption:
    """A signal to send `delay` seconds after the beginning of the `nth` phase of that name."""

    phase: str
    number: int  # of the signal
    nth: int
    delay: float

    def due(self, begun: Counter) -> bool:
        # Every process compiles once.
        nth = 1 if self.phase == "compile" else self.nth
        return begun[self.phase] == nth


@dataclass
class _Progress:
    """The state of the child, as its lines report it."""

    phase: str = "start"
    sealing: bool = False  # a checkpoint is being written in the background
    begun: Counter = field(default_factory=Counter)  # phase → how often it began

    def read(self, line: str) -> str | None:
        """Reads one line; returns the phase that begins with it."""
        # Other lines are the training's own.
        kind, _, name = line.strip().partition(" ")
        if kind == "sealing":
            self.sealing = name == "begins"
        if kind != "phase":
            return None
        self.phase = name
        self.begun[name] += 1
        return name


@dataclass(frozen=True)
class _Process:
    """The command that trains in a child process."""

    command: list[str]
    env: dict[str, str]

    def run(self, interruption: Interruption | None = None) -> str | None:
        """Starts the run and interrupts it.

        Returns the phase that the signal really hit; None if the run finished.
        """
        lines: list[str] = []
        with self._start() as process:
            patience = threading.Timer(PATIENCE, process.kill)
            patience.start()
            progress = _until_signal(process, interruption, lines)
            updates = _after_signal(process, progress, lines)
            patience.cancel()
        if process.returncode == 0:
            return None
        # The last lines say why a process ended otherwise.
        end = "".join(lines[-5:])
        expected = (
            EXIT_CODES[signal.Signals(interruption.number)] if interruption else 0
        )
        if process.returncode != expected:
            text = f"the run ended with {process.returncode} within {PATIENCE} s"
            raise RuntimeError(f"{text}: {end}")
        stopped = re.search(r"stopped after update \d+;", lines[-1])
        term = interruption is not None and interruption.number == signal.SIGTERM
        if term and (updates > 1 or not stopped):
            text = f"the run made {updates} updates after it was asked to stop"
            raise RuntimeError(f"{text}: {end}")
        return "save" if progress.sealing else progress.phase

    def _start(self) -> subprocess.Popen:
        stderr = subprocess.PIPE
        return subprocess.Popen(self.command, env=self.env, stderr=stderr, text=True)


def _until_signal(
    process: subprocess.Popen,
    interruption: Interruption | None,
    lines: list[str],
) -> _Progress:
    """Reads the child's lines up to the moment of the signal, and sends it."""
    progress = _Progress()
    for line in process.stderr or ():
        lines.append(line)
        begins = progress.read(line)
        if interruption is None or begins != interruption.phase:
            continue
        if interruption.due(progress.begun):
            time.sleep(interruption.delay)
            process.send_signal(interruption.number)
            break
    return progress


def _after_signal(
    process: subprocess.Popen,
    progress: _Progress,
    lines: list[str],
) -> int:
    """Reads the other lines: those until the signal arrived, and the child's answer to it.

    Returns how many updates began after the child had noticed the signal. `progress` stays at the
    phase in which it did.
    """
    updates, current = 0, progress
    for line in process.stderr or ():
        lines.append(line)
        if "asked to stop" in line:
            current, updates = _Progress(), 0
        updates += current.read(line) == "data"
    return updates


def _child() -> None:
    """Runs dlm.train, which reports its phases on stderr, and when a checkpoint is being sealed."""
    from dlm.runs import checkpoint
    from dlm.training import loop

    # The originals, which the reports surround.
    enter_phase, seal = loop.Phases.__call__, checkpoint.Store._seal
    compiled = False

    def report(*words: str) -> None:
        print(*words, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def reported_phase(self: loop.Phases, name: str) -> Iterator[None]:
        nonlocal compiled
        # The first update compiles.
        report("phase", name if name != "step" or compiled else "compile")
        with enter_phase(self, name):
            yield
        compiled = compiled or name == "step"

    def reported_seal(self: checkpoint.Store, step: int) -> None:
        report("sealing begins")
        seal(self, step)
        report("sealing ends")

    # Replaced in this process alone: the loop itself has no need for such reports.
    loop.Phases.__call__ = reported_phase  # type: ignore[method-assign]
    checkpoint.Store._seal = reported_seal  # type: ignore[method-assign]
    runpy.run_module("dlm.train", run_name="__main__")


if __name__ == "__main__":
    _child()
