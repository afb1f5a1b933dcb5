"""Interrupt a tiny run again and again, start it again each time, and compare it byte for byte with one that nobody disturbed.

python -m dlm.bench resume [--kills=20] [--terms=5] [--objective=masked|ar] [--seed=N] [--json]

The run packs documents, sums gradients over microbatches, keeps averaged parameters and goes through its corpus several times. SIGKILL
or SIGTERM falls in the phase whose turn it is (compile, data, step, eval, save), after a random delay; the phase told is the one it
really hit. After SIGTERM the run must end with the documented code, saved, without beginning a second update.
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
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Seed
from dlm.machine import interrupts

PHASES = ("compile", "data", "step", "eval", "save")
TIMES = (
    "tokens_per_s",
    "share_of_peak",
    "phases",
    "seconds",
)  # fields of a row of metrics that may differ
FLAGS = [
    Flag("kills", "how often the run is killed", default=20, type=int),
    Flag("terms", "how often it is asked to stop, in between", default=5, type=int),
    Flag(
        "objective", "one of the two (default: both, one after the other)", choices=("masked", "ar")
    ),
    Flag("seed", "of the moments at which it is interrupted", default=0, type=Seed),
    Flag("steps", "updates of the run", default=400, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
ROOT = Path(__file__).parents[2]
LONGEST = dict(
    compile=0.5, data=0.001, step=0.02, eval=0.03, save=0.01
)  # seconds from the beginning of a phase to the signal
PATIENCE = 300  # seconds that one process may take


def main(argv: list[str] | None = None) -> int:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if min(args.kills, args.terms) < 0 or args.steps < 8:
        raise UserError("--kills and --terms must not be negative, and --steps must be at least 8")
    results = {}
    for objective in [args.objective] if args.objective else ["masked", "ar"]:
        results[objective] = one = disturbed(
            objective, args.kills, args.terms, args.steps, random.Random(args.seed)
        )
        same = (
            f"differences: {', '.join(one['differences'])}"
            if one["differences"]
            else "no difference"
        )
        say(
            f"{objective}: {_describe(one['kills'])} kills survived, {_describe(one['terms'])} wishes to stop, {args.steps} updates; {same}"
        )
    if args.json:
        cli.emit(results)
    return int(any(one["differences"] for one in results.values()))


def _describe(hits: dict[str, int]) -> str:
    return f"{sum(hits.values())} ({', '.join(f'{phase} {n}' for phase, n in hits.items())})"


def disturbed(objective: str, kills: int, terms: int, steps: int, rng: random.Random) -> dict:
    """How many kills and wishes to stop hit the run in each phase, and what in it differs from the undisturbed one."""
    hits = {
        number: Counter(dict.fromkeys(PHASES, 0)) for number in (signal.SIGKILL, signal.SIGTERM)
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        _corpus(folder / "corpus.txt")
        words = [
            sys.executable,
            "-m",
            "dlm.drills.resume",
            *recipe(objective, folder / "corpus.txt", steps),
        ]
        env = dict(
            os.environ,
            PYTHONPATH=str(ROOT),
            JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"),
            DLM_CACHE=str(folder / "tokens"),
        )
        _interrupted([*words, f"--workdir={folder / 'whole'}"], env)
        command = [*words, f"--workdir={folder / 'broken'}"]
        for number in rng.sample(
            [signal.SIGKILL] * kills + [signal.SIGTERM] * terms, kills + terms
        ):
            phase = min(PHASES, key=lambda p, of=hits[number]: (of[p], rng.random()))
            hit = _interrupted(
                command, env, phase, number, rng.randint(1, 4), rng.uniform(0, LONGEST[phase])
            )
            if hit is None:  # it ended before
                break
            hits[number][hit] += 1
        _interrupted(command, env)
        results = differences(folder / "whole", folder / "broken")
        return dict(
            kills=dict(hits[signal.SIGKILL]), terms=dict(hits[signal.SIGTERM]), differences=results
        )


def recipe(objective: str, corpus: Path, steps: int) -> list[str]:
    """A run of 8 × 32 tokens in two microbatches, several epochs long."""
    ar = objective == "ar"
    sections = dict(
        steps=steps,
        text=dict(name="text.bytes"),
        data=dict(
            source=dict(name="data.local", paths=(str(corpus),), unit="paragraph", held_out=0.2),
            batch=8,
            length=32,
        ),
        nn=dict(
            layers=1, width=16, attention=dict(heads=2, kv_heads=2, head_size=8), ffn=dict(width=24)
        ),
        optim=dict(microbatches=2, ema=0.9, warmup=5),
        evals=dict(bound=dict(samples=2)),
        every=dict(log=3, eval=5, save=7),
    )
    target = f"--config={ROOT / 'configs' / ('ar.py' if ar else 'masked.py')}:size=tiny"
    return [target, *(f"--config.{name}={value!r}" for name, value in sections.items())]


def differences(a: Path, b: Path) -> list[str]:
    """Which of parameters, moments, averages, metrics (apart from times) and next batches of two finished runs differ."""
    import jax
    import numpy as np

    from dlm.app.open_run import reopen
    from dlm.runs import logs

    (one, x), (two, y) = reopen(a, whole=True), reopen(b, whole=True)
    results = []
    for name in ("step", "params", "moments", "ema"):
        pairs = zip(
            jax.tree.leaves(getattr(x, name)), jax.tree.leaves(getattr(y, name)), strict=True
        )
        if any(np.asarray(p).tobytes() != np.asarray(q).tobytes() for p, q in pairs):
            results.append(name)
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in logs.rows(w / logs.METRICS)]
        for w in (a, b)
    ]
    if rows[0] != rows[1]:
        p, q = next((p, q) for p, q in itertools.zip_longest(*rows) if p != q)
        results.append(f"metrics, first {p} and {q}")
    streams = [e.batches(int(s.step)) for e, s in ((one, x), (two, y))]
    for _ in range(3):
        p, q = map(next, streams)
        if any(
            (np.asarray(u) != np.asarray(v)).any()
            for u, v in zip(jax.tree.leaves(p), jax.tree.leaves(q), strict=True)
        ):
            return [*results, "batches"]
    return results


def _corpus(path: Path) -> None:
    words = (
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "dogs",
        "run",
        "up",
        "to",
        "red",
        "barns",
        "while",
        "it",
        "rained",
    )
    rng = random.Random(0)
    path.write_text(
        "\n\n".join(" ".join(rng.choices(words, k=30)) + f" {i}." for i in range(60)) + "\n",
        encoding="utf-8",
    )


def _interrupted(
    command: list[str],
    env: dict,
    phase: str = "",
    number: int = 0,
    nth: int = 1,
    delay: float = 0.0,
) -> str | None:
    """Starts the run and sends it the signal `number`, `delay` seconds into the `nth` phase of that name.

    The phase that it really hit; None if the run finished.
    """
    nth, now, said, later = (
        1 if phase == "compile" else nth,
        dict(phase="start", sealing=False),
        [],
        0,
    )
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        for line in process.stderr:
            said.append(line)
            noted = _noted(line, now)
            nth -= noted == phase
            if noted == phase and nth == 0:
                time.sleep(delay)
                process.send_signal(number)
                break
        for line in process.stderr:  # what it said until the signal came, and what it did about it
            said.append(line)
            if "asked to stop" in line:
                now, later = dict(now, asked=True), 0
            later += _noted(line, {} if "asked" in now else now) == "data"
        patience.cancel()
    if process.returncode == 0:
        return None
    if process.returncode != {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: interrupts.EXIT}.get(
        number
    ):
        raise RuntimeError(
            f"the run ended with {process.returncode} within {PATIENCE} s: {''.join(said[-5:])}"
        )
    if number == signal.SIGTERM and (
        later > 1 or not re.search(r"stopped after update \d+;", said[-1])
    ):
        raise RuntimeError(
            f"the run made {later} updates after it was asked to stop: {''.join(said[-5:])}"
        )
    return "save" if now["sealing"] else now["phase"]


def _noted(line: str, now: dict) -> str | None:
    """The phase that a line of the child's says has begun; `now` keeps where it is."""
    kind, _, name = line.strip().partition(" ")
    if kind == "sealing":
        now["sealing"] = name == "begins"
    if kind != "phase":
        return None
    now["phase"] = name
    return name


def _child() -> None:
    """The command dlm.train, which says on stderr which phase it is in, and whether a checkpoint is being written behind it."""
    from dlm.runs import checkpoint
    from dlm.training import loop

    phased, sealed, compiled = loop.Phases.__call__, checkpoint.Store._seal, False

    def tell(*words):
        print(*words, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def noted(self, name):
        nonlocal compiled
        tell("phase", name if name != "step" or compiled else "compile")
        with phased(self, name):
            yield
        compiled = compiled or name == "step"

    def seal(self, step):
        tell("sealing begins")
        sealed(self, step)
        tell("sealing ends")

    loop.Phases.__call__, checkpoint.Store._seal = noted, seal
    runpy.run_module("dlm.train", run_name="__main__")


if __name__ == "__main__":
    _child()
