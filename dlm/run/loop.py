"""The training loop: data → update → logs, evaluation and checkpoints every so often. All of it runs through here once.

The metrics of step k − 1 are read while step k computes, so that the host never holds the device up.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dlm.run.logs import Logs
from dlm.run.state import State

LN2 = float(np.log(2.0))


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
) -> tuple[State, Phases]:
    """Updates `start` … `steps`; returns the last state and the time of each phase."""
    phases, meter = Phases(), _Meter(logs, every.log, flops_per_token, peak)
    for step in range(start + 1, steps + 1):
        with phases("data"):
            batch = next(batches)
        with phases("step"):
            state, sums = update(state, batch)
            meter.push(step, sums)
        if every.eval and step % every.eval == 0:
            with phases("step"):
                meter.settle()
            with phases("eval"):
                logs.write({"step": step, **evaluate(state, step)})
            meter.restart()
        if step == steps or (every.save and step % every.save == 0):
            with phases("step"):
                meter.close(step)
            with phases("save"):
                save(step, state)
            meter.restart()
    return state, phases


class _Meter:
    """Turns the sums of each update into rows of metrics, one update behind the device."""

    def __init__(self, logs: Logs, every: int, flops_per_token: float, peak: float):
        self._logs, self._every = logs, every
        self._flops, self._peak = flops_per_token, peak
        self._pending: tuple[int, dict] | None = None
        self._rows: list[dict] = []
        self._untimed, self._begin = 0, time.perf_counter()  # rows from before the clock was started again

    def push(self, step: int, sums: dict) -> None:
        self.settle()
        self._pending = (step, sums)

    def settle(self) -> None:
        """Waits for the update that is under way."""
        if self._pending is None:
            return
        step, sums = self._pending
        self._pending = None
        self._rows.append(jax.tree.map(float, jax.device_get(sums)))
        if step % self._every == 0:
            self._emit(step)

    def close(self, step: int) -> None:
        """Ends the row under way: what a checkpoint's successor logs must not need the updates before it."""
        self.settle()
        if self._rows:
            self._emit(step)

    def restart(self) -> None:
        """Leaves what was not training, and the updates before it, out of the speed."""
        self._untimed, self._begin = len(self._rows), time.perf_counter()

    def _emit(self, step: int) -> None:
        now = time.perf_counter()
        total = {k: sum(row[k] for row in self._rows) for k in self._rows[0]}
        speed = sum(row["weight_sum"] for row in self._rows[self._untimed :]) / (now - self._begin)
        row = dict(
            step=step,
            loss=total["nats_sum"] / total["weight_sum"],
            bits_per_byte=total["nats_sum"] / LN2 / max(total["bytes_sum"], 1.0),
            lr=self._rows[-1]["lr"],
            grad_norm=self._rows[-1]["grad_norm"],
            **({"masked_share": total["masked_sum"] / total["weight_sum"]} if "masked_sum" in total else {}),
            tokens_per_s=speed,
            share_of_peak=speed * self._flops / self._peak,
        )
        self._logs.write(row)
        self._logs.progress(row)
        self._rows = []
        self.restart()
