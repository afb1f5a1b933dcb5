"""Averages the sums of updates into rows of the log, without stalling the device."""

import time
from typing import Any

import jax
import numpy as np

from dlm.core.contracts import Mean
from dlm.machine import hosts
from dlm.runs.logs import Logs

LN2 = float(np.log(2.0))


class Diverged(Exception):
    """Raised when `skips` updates in a row, from `step` on, had to be left out."""

    def __init__(self, step: int, skips: int):
        cause = f"{skips} updates in a row had no usable loss or gradient"
        super().__init__(f"{cause}, the first was update {step}")
        self.step = step


class MetricAverager:
    """Turns the sums of each update into rows, one update behind an asynchronous device."""

    def __init__(
        self,
        logs: Logs,
        every: int,
        flops_per_token: float,
        peak: float,
        skips: int,
    ):
        """Log a row after each `every` updates, and raise Diverged after `skips` skipped ones.

        Args:
          logs: receives the rows.
          every: updates in a row of the log.
          flops_per_token: of training, for the share of the peak.
          peak: floating-point operations per second of all devices.
          skips: updates left out in a row that end the run; 0: never.
        """
        self._logs = logs
        self._every = every
        self._skips = skips
        self._flops = flops_per_token
        self._peak = peak
        self._skipped: list[int] = []  # steps left out since the last good update
        self._pending: tuple[int, dict] | None = (
            None  # (step, its sums, still on the device)
        )
        self.rows: list[dict] = []  # sums of the updates since the last row
        self.reset_clock()

    def resume(self, rows: list[dict]) -> None:
        """Continue the row that an earlier process had begun."""
        self.rows = rows
        self.reset_clock()

    def push(self, step: int, sums: dict) -> None:
        """Add the sums of an update, which may still be under way."""
        self.wait()
        self._pending = (step, sums)

    def read_if_ready(self) -> None:
        """Before the next update: read the sums of the last one if they are computed.

        Small programs run on the CPU while they are called, and the next one's time would count
        as this one's. Several processes must leave a diverging run after the same update, so
        they always wait.
        """
        if self._pending is None or hosts.several():
            return
        _, sums = self._pending
        if all(_is_computed(x) for x in jax.tree.leaves(sums)):
            self.wait()

    def wait(self) -> None:
        """Wait for the update under way and add its sums to the row."""
        if self._pending is None:
            return
        step, sums = self._pending
        self._pending = None
        row = jax.tree.map(float, jax.device_get(sums))
        self.rows.append(row)

        # An empty batch neither ends a series of failures nor belongs to it.
        if row.get("skipped_sum"):
            self._skipped.append(step)
        elif not row.get("empty_sum"):
            self._skipped = []
        if self._skipped and len(self._skipped) == self._skips:
            raise Diverged(self._skipped[0], self._skips)
        if step % self._every == 0:
            self._log(step)

    def close(self, step: int) -> None:
        """End the row, so that the rows after a checkpoint need no update before it."""
        self.wait()
        if self.rows:
            self._log(step)

    def reset_clock(self) -> None:
        """Exclude the time until now, and the updates before it, from the speed."""
        self._untimed = len(self.rows)
        self._began = time.perf_counter()

    def _log(self, step: int) -> None:
        seconds = time.perf_counter() - self._began
        speed = sum(row["weight_sum"] for row in self.rows[self._untimed :]) / seconds
        row: dict[str, float] = dict(step=step)
        row |= _means(self.rows)
        row["lr"] = self.rows[-1]["lr"]
        for name in ("skipped", "empty"):
            count = int(sum(sums.get(f"{name}_sum", 0) for sums in self.rows))
            if count:
                row[name] = count
        row["tokens_per_s"] = speed
        row["share_of_peak"] = speed * self._flops / self._peak
        self._logs.write(row)
        self._logs.progress(row)
        self.rows = []
        self.reset_clock()


def _is_computed(x: Any) -> bool:
    if not isinstance(x, jax.Array):
        return False
    # JAX declares `is_ready` of its concrete arrays only, in a private module.
    return x.is_ready()  # type: ignore[attr-defined]


def _is_update(row: dict) -> bool:
    return not row.get("skipped_sum") and not row.get("empty_sum")


def _means(rows: list[dict]) -> dict[str, float]:
    """The loss and every metric over the updates that were made; {} where none was made.

    Updates that were left out have sums of 0.
    """
    updates = [row for row in rows if _is_update(row)]
    if not updates:
        return {}
    tokens = max(_total(rows, "weight_sum"), 1.0)
    means = dict(loss=_total(rows, "loss_sum") / tokens)
    if "nats_sum" in rows[-1]:
        size = max(_total(rows, "bytes_sum"), 1.0)
        means["bits_per_byte"] = _total(rows, "nats_sum") / LN2 / size
    means["grad_norm"] = updates[-1]["grad_norm"]

    # Each metric carries its own denominator, so no list of names is needed.
    for name in rows[-1].get("metrics", {}):
        parts: list[Mean] = [row["metrics"][name] for row in rows]
        count = sum(float(part.count_sum) for part in parts)
        if count:
            means[name] = sum(float(part.value_sum) for part in parts) / count
    return means


def _total(rows: list[dict], name: str) -> float:
    return sum(row.get(name, 0.0) for row in rows)
