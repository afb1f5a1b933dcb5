"""Kill a tiny run again and again, start it again each time, and compare it byte for byte with one that nobody disturbed.

python -m dlm.bench resume [--kills=20] [--objective=masked|ar] [--seed=N] [--json]

The run packs documents, sums gradients over microbatches, keeps averaged parameters and goes through its corpus several times. SIGKILL
falls in the phase whose turn it is (compile, step, eval, save), after a random delay; the phase told is the one it really hit.
"""

import contextlib
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from dlm.run import cli
from dlm.run.cli import Flag, say
from dlm.run.spec import UserError

PHASES = ("compile", "step", "eval", "save")
TIMES = ("tokens_per_s", "share_of_peak", "phases", "seconds")  # fields of a row of metrics that may differ
FLAGS = [
    Flag("kills", "how often the run is killed", default=20, type=int),
    Flag("objective", "one of the two (default: both, one after the other)", choices=("masked", "ar")),
    Flag("seed", "of the moments at which it is killed", default=0, type=int),
    Flag("steps", "updates of the run", default=400, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
ROOT = Path(__file__).parents[2]
LONGEST = dict(compile=0.5, step=0.02, eval=0.03, save=0.01)  # seconds from the beginning of a phase to the kill
PATIENCE = 300  # seconds that one process may take


def main(argv: list[str] | None = None) -> int:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if args.kills < 1 or args.steps < 8:
        raise UserError("--kills must be at least 1 and --steps at least 8")
    found = {}
    for objective in [args.objective] if args.objective else ["masked", "ar"]:
        found[objective] = one = disturbed(objective, args.kills, args.steps, random.Random(args.seed))
        survived = ", ".join(f"{phase} {n}" for phase, n in one["survived"].items())
        same = f"differences: {', '.join(one['differences'])}" if one["differences"] else "no difference"
        say(f"{objective}: {one['kills']} kills survived ({survived}) in {args.steps} updates; {same}")
    if args.json:
        cli.emit(found)
    return int(any(one["differences"] for one in found.values()))


def disturbed(objective: str, kills: int, steps: int, rng: random.Random) -> dict:
    """How many kills the run survived in each phase, and what in it differs from the undisturbed one."""
    survived = Counter(dict.fromkeys(PHASES, 0))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        _corpus(folder / "corpus.txt")
        words = [sys.executable, "-m", "dlm.benches.resume", *recipe(objective, folder / "corpus.txt", steps)]
        env = dict(os.environ, PYTHONPATH=str(ROOT), JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"), DLM_CACHE=str(folder / "tokens"))
        _killed([*words, f"--workdir={folder / 'whole'}"], env, None, 0, 0.0)
        command, done = [*words, f"--workdir={folder / 'broken'}"], 0
        for _ in range(kills):
            phase = min(PHASES, key=lambda p: (survived[p], rng.random()))
            hit = _killed(command, env, phase, rng.randint(1, 4), rng.uniform(0, LONGEST[phase]))
            if hit is None:
                break
            survived[hit] += 1
            done += 1
        _killed(command, env, None, 0, 0.0)
        return dict(kills=done, survived=dict(survived), differences=differences(folder / "whole", folder / "broken"))


def recipe(objective: str, corpus: Path, steps: int) -> list[str]:
    """A run of 8 × 32 tokens in two microbatches, 23 updates an epoch."""
    ar = objective == "ar"
    sections = dict(
        steps=steps,
        text=dict(name="text.bytes"),
        data=dict(source=dict(name="data.local", paths=(str(corpus),), unit="paragraph", held_out=0.2), batch=8, length=32),
        nn=dict(layers=1, width=16, attention=dict(heads=2, kv_heads=2, head_size=8), ffn=dict(width=24)),
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

    from dlm.run import logs
    from dlm.run.assemble import reopen

    (one, x), (two, y) = reopen(a), reopen(b)
    found = []
    for name in ("step", "params", "moments", "ema"):
        pairs = zip(jax.tree.leaves(getattr(x, name)), jax.tree.leaves(getattr(y, name)), strict=True)
        if any(np.asarray(p).tobytes() != np.asarray(q).tobytes() for p, q in pairs):
            found.append(name)
    rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in logs.rows(w / logs.METRICS)] for w in (a, b)]
    if rows[0] != rows[1]:
        found.append("metrics")
    streams = [e.batches(int(s.step)) for e, s in ((one, x), (two, y))]
    for _ in range(3):
        p, q = map(next, streams)
        if any((np.asarray(u) != np.asarray(v)).any() for u, v in zip(jax.tree.leaves(p), jax.tree.leaves(q), strict=True)):
            return [*found, "batches"]
    return found


def _corpus(path: Path) -> None:
    words = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "up", "to", "red", "barns", "while", "it", "rained")
    rng = random.Random(0)
    path.write_text("\n\n".join(" ".join(rng.choices(words, k=30)) + f" {i}." for i in range(60)) + "\n", encoding="utf-8")


def _killed(command: list[str], env: dict, phase: str | None, nth: int, delay: float) -> str | None:
    """Starts the run and kills it `delay` seconds into the `nth` phase of that name; the phase that was hit, None if it finished."""
    nth, now, said = 1 if phase == "compile" else nth, dict(phase="start", sealing=False), []
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        patience = threading.Timer(PATIENCE, process.terminate)
        patience.start()
        for line in process.stderr:
            said.append(line)
            told = _noted(line, now)
            nth -= told == phase
            if phase and told == phase and nth == 0:
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
        for line in process.stderr:  # what it said until the signal came
            _noted(line, now)
        patience.cancel()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the run failed with {process.returncode} within {PATIENCE} s: {''.join(said[-5:])}")
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
    from dlm.run import checkpoint, loop

    phased, sealed, compiled = loop.Phases.__call__, checkpoint.Store._seal, False

    def tell(*words):
        print(*words, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def told(self, name):
        nonlocal compiled
        tell("phase", name if name != "step" or compiled else "compile")
        with phased(self, name):
            yield
        compiled = compiled or name == "step"

    def seal(self, step):
        tell("sealing begins")
        sealed(self, step)
        tell("sealing ends")

    loop.Phases.__call__, checkpoint.Store._seal = told, seal
    runpy.run_module("dlm.train", run_name="__main__")


if __name__ == "__main__":
    _child()
