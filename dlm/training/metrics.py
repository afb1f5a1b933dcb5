"""From the sums of each update to rows of metrics, never holding up the device; and how many updates had to be left out in a row."""

import time

import jax
import numpy as np

from dlm.machine import hosts
from dlm.runs.logs import Logs

LN2 = float(np.log(2.0))
# The sums of an update, but for those of single metrics.
_NAMES = ("loss_sum", "weight_sum", "nats_sum", "bytes_sum", "skipped_sum", "empty_sum")


class Diverged(Exception):
    """`skips` updates in a row, from `step` on, had to be left out."""

    def __init__(self, step: int, skips: int):
        super().__init__(
            f"{skips} updates in a row had no usable loss or gradient, the first was update {step}"
        )
        self.step = step


class Meter:
    """Turns the sums of each update into rows of metrics: one update behind a device that computes by itself."""

    def __init__(self, logs: Logs, every: int, flops_per_token: float, peak: float, skips: int):
        self._logs, self._every = logs, every
        self._streak: list[
            int
        ] = []  # the steps of the updates left out since the last one that was made
        self._skips = skips
        self._flops, self._peak = flops_per_token, peak
        self._pending: tuple[int, dict] | None = None
        self.rows: list[dict] = []  # sums of the updates since the last row
        self._untimed, self._begin = (
            0,
            time.perf_counter(),
        )  # rows from before the clock was started again

    def resume(self, rows: list[dict]) -> None:
        """Goes on with the row that an earlier process had under way."""
        self.rows = rows
        self.restart()

    def push(self, step: int, sums: dict) -> None:
        self.settle()
        self._pending = (step, sums)

    def read_if_ready(self) -> None:
        """Before the next update: reads the one under way if it is done. Small programs of a CPU run while they are called, and the next
        one's time would be told as this one's. Several processes all leave a run that diverges after the same update, so they wait."""
        if (
            self._pending is not None
            and not hosts.several()
            and all(_done(x) for x in jax.tree.leaves(self._pending[1]))
        ):
            self.settle()

    def settle(self) -> None:
        """Waits for the update that is under way."""
        if self._pending is None:
            return
        step, sums = self._pending
        self._pending = None
        self.rows.append(_plain(jax.device_get(sums)))
        if self.rows[-1].get("skipped_sum"):
            self._streak.append(step)
        elif not self.rows[-1].get("empty_sum"):
            self._streak = []
        if self._streak and len(self._streak) == self._skips:
            raise Diverged(self._streak[0], self._skips)
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
        total = {k: sum(row.get(k, 0.0) for row in self.rows) for k in _NAMES}
        speed = sum(row["weight_sum"] for row in self.rows[self._untimed :]) / (now - self._begin)
        left = {name: int(total.get(f"{name}_sum", 0)) for name in ("skipped", "empty")}
        updates = [
            row for row in self.rows if not row.get("skipped_sum") and not row.get("empty_sum")
        ]
        row = dict(
            step=step,
            **(_means(total, updates) if updates else {}),  # nothing where no update was made
            lr=self.rows[-1]["lr"],
            **{name: count for name, count in left.items() if count},
            tokens_per_s=speed,
            share_of_peak=speed * self._flops / self._peak,
        )
        self._logs.write(row)
        self._logs.progress(row)
        self.rows = []
        self.restart()


def _done(x) -> bool:
    return isinstance(x, jax.Array) and x.is_ready()


def _plain(sums: dict) -> dict:
    """The sums of an update as numbers, of each metric a pair (sum of values, sum of counts)."""
    metrics = sums.get("metrics", {})
    row = {name: float(value) for name, value in sums.items() if name != "metrics"}
    pairs = {name: (float(m.value_sum), float(m.count_sum)) for name, m in metrics.items()}
    return row | dict(metrics=pairs)


def _mean(name: str, updates: list[dict]) -> float:
    """The mean of a metric over updates."""
    pairs = [row["metrics"][name] for row in updates if name in row.get("metrics", {})]
    values, counts = zip(*pairs, strict=True)
    return sum(values) / max(sum(counts), 1.0)


def _means(total: dict, updates: list[dict]) -> dict:
    """The columns of a row: each metric over what it counts."""
    row = dict(loss=total["loss_sum"] / max(total["weight_sum"], 1.0))
    if any("nats_sum" in update for update in updates):
        row["bits_per_byte"] = total["nats_sum"] / LN2 / max(total["bytes_sum"], 1.0)
    row["grad_norm"] = updates[-1]["grad_norm"]
    # An earlier version kept no pairs in the rows of an update under way.
    for name in updates[-1].get("metrics", {}):
        row[name] = _mean(name, updates)
    return row
