"""The training loop: data → update → logs, evaluation and checkpoints every so often. All of it runs through here once.

The metrics of step k − 1 are read while step k computes, so that the host never holds the device up.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np

from dlm.run.logs import Logs
from dlm.run.preempt import Preempted
from dlm.run.state import State

LN2 = float(np.log(2.0))
_PATIENCE = 0.1  # seconds between two looks at the wish to stop, while data are awaited


@dataclass(frozen=True)
class Every:
    """How often, in updates; 0 is never. The last update is always logged and saved."""

    log: int = 20  # a row more at every save
    eval: int = 0
    save: int = 1000
    keep: int = 2  # newest checkpoints that stay

    def __post_init__(self):
        if min(self.log, self.keep) < 1 or min(self.eval, self.save) < 0:
            raise ValueError("log and keep must be at least 1; eval and save must not be negative")


class Phases:
    """Seconds spent in each phase of a run."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str):
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin


def train(
    state: State,
    update: Callable[[State, Any], tuple[State, dict]],
    batches: Iterator,
    *,
    start: int,
    steps: int,
    every: Every,
    logs: Logs,
    flops_per_token: float,
    peak: float,
    evaluate: Callable[[State, int], dict] = lambda state, step: {},
    save: Callable[[int, State], None] = lambda step, state: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[State, Phases]:
    """Updates `start` … `steps`; returns the last state and the time of each phase.

    `stop` is asked before and after each update; once it says yes the state is saved and Preempted raised. What the run then owes — an
    unfinished row, an evaluation — is kept with the logs and made up for by the next start, which so writes the same rows.
    """
    phases, meter = Phases(), _Meter(logs, every.log, flops_per_token, peak)
    reader, saved = _Reader(batches), start
    if owed := logs.owed(start):
        meter.resume(owed["rows"])

    def evaluated(step: int) -> bool:
        return _evaluated(lambda: evaluate(state, step), step, phases, logs, meter)

    def leave(step: int, evaluation: bool) -> NoReturn:
        logs.owe(step, dict(rows=meter.rows, evaluation=evaluation))
        if step != saved:
            save(step, state)
        raise Preempted(step)

    if owed and owed["evaluation"] and not evaluated(start):
        leave(start, True)
    for step in range(start + 1, steps + 1):
        with phases("data"):
            batch = reader.next(stop if jax.process_count() == 1 else lambda: False)
        if batch is None:
            meter.settle()
            leave(step - 1, False)
        with phases("step"):
            state, sums = update(state, batch)
            meter.push(step, sums)
        to_evaluate = bool(every.eval and step % every.eval == 0)
        to_save = step == steps or bool(every.save and step % every.save == 0)
        stopping = stop() and step < steps
        if to_evaluate or to_save or stopping:
            with phases("step"):
                meter.close(step) if to_save else meter.settle()
        if stopping or (to_evaluate and not evaluated(step)):
            leave(step, to_evaluate)
        if to_save:
            with phases("save"):
                save(step, state)
            saved = step
            meter.restart()
    return state, phases


def _evaluated(evaluate: Callable[[], dict], step: int, phases: Phases, logs: Logs, meter: "_Meter") -> bool:
    """False where the evaluation was cut short."""
    with phases("eval"):
        try:
            logs.write({"step": step, **evaluate()})
        except Preempted:
            return False
    meter.restart()
    return True


class _Reader:
    """The next batch, read and put on the devices by a thread while an update runs, so that waiting for it can be interrupted."""

    def __init__(self, batches: Iterator):
        self._batches, self._wanted, self._ready = batches, queue.SimpleQueue(), queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="batches").start()
        self._wanted.put(True)

    def _read(self) -> None:
        while self._wanted.get():
            try:
                self._ready.put((next(self._batches), None))
            except BaseException as error:
                self._ready.put((None, error))

    def next(self, stop: Callable[[], bool]):
        """The batch, or None when asked to stop."""
        while True:
            if stop():
                return None
            try:
                batch, error = self._ready.get(timeout=_PATIENCE)
                break
            except queue.Empty:
                continue
        if error is not None:
            raise error
        self._wanted.put(True)
        return batch


class _Meter:
    """Turns the sums of each update into rows of metrics, one update behind the device."""

    def __init__(self, logs: Logs, every: int, flops_per_token: float, peak: float):
        self._logs, self._every = logs, every
        self._flops, self._peak = flops_per_token, peak
        self._pending: tuple[int, dict] | None = None
        self.rows: list[dict] = []  # sums of the updates since the last row
        self._untimed, self._begin = 0, time.perf_counter()  # rows from before the clock was started again

    def resume(self, rows: list[dict]) -> None:
        """Goes on with the row that an earlier process had under way."""
        self.rows = rows
        self.restart()

    def push(self, step: int, sums: dict) -> None:
        self.settle()
        self._pending = (step, sums)

    def settle(self) -> None:
        """Waits for the update that is under way."""
        if self._pending is None:
            return
        step, sums = self._pending
        self._pending = None
        self.rows.append(jax.tree.map(float, jax.device_get(sums)))
        if step % self._every == 0:
            self._emit(step)

    def close(self, step: int) -> None:
        """Ends the row under way: what a checkpoint's successor logs must not need the updates before it."""
        self.settle()
        if self.rows:
            self._emit(step)

    def restart(self) -> None:
        """Leaves what was not training, and the updates before it, out of the speed."""
        self._untimed, self._begin = len(self.rows), time.perf_counter()

    def _emit(self, step: int) -> None:
        now = time.perf_counter()
        total = {k: sum(row[k] for row in self.rows) for k in self.rows[0]}
        speed = sum(row["weight_sum"] for row in self.rows[self._untimed :]) / (now - self._begin)
        row = dict(
            step=step,
            loss=total["nats_sum"] / total["weight_sum"],
            bits_per_byte=total["nats_sum"] / LN2 / max(total["bytes_sum"], 1.0),
            lr=self.rows[-1]["lr"],
            grad_norm=self.rows[-1]["grad_norm"],
            **({"masked_share": total["masked_sum"] / total["weight_sum"]} if "masked_sum" in total else {}),
            tokens_per_s=speed,
            share_of_peak=speed * self._flops / self._peak,
        )
        self._logs.write(row)
        self._logs.progress(row)
        self.rows = []
        self.restart()
