"""The training loop: batches → updates → logs, evaluations and checkpoints.

The metrics of update k − 1 are fetched while update k runs, so that the host never stalls the
device; if they are ready before, they are fetched before.
"""

import functools
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dlm.core.contracts import State
from dlm.machine import hosts
from dlm.machine.interrupts import Preempted
from dlm.runs.logs import Logs
from dlm.training.intervals import Intervals
from dlm.training.metrics import MetricAverager

_PATIENCE = 0.1  # seconds between two checks for a stop while waiting for data
_LAST_READ = 5.0  # seconds for the batch under way when the run ends


class Phases:
    """The seconds that a run spends in each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str):
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began


def _no_scores(state: State, step: int) -> dict:
    return {}


def _save_nothing(step: int, state: State) -> None:
    pass


def _check_nothing() -> None:
    pass


def _never() -> bool:
    return False


@dataclass
class Loop:
    """Runs updates with everything that happens between them.

    `stop` is called before and after each update. Once it returns True, the state is saved and
    Preempted is raised; the unfinished row of the log and a missing evaluation are saved with the
    logs, and the next start makes up for them.
    """

    update: Callable[[State, Any], tuple[State, dict]]
    intervals: Intervals
    logs: Logs
    averager: (
        MetricAverager  # raises Diverged after too many updates without a gradient
    )
    evaluate: Callable[[State, int], dict] = (
        _no_scores  # the scores of a row; raises Preempted
    )
    save: Callable[[int, State], None] = _save_nothing
    check: Callable[[], None] = (
        _check_nothing  # raises what a save in the background met
    )
    stop: Callable[[], bool] = _never
    phases: Phases = field(default_factory=Phases)

    def run(self, state: State, batches: Iterator, start: int, steps: int) -> State:
        """Make the updates `start` + 1 … `steps` and return the last state."""
        self._state = state
        self._saved = start

        # An earlier process may have stopped within a row, or during the evaluation of `start`.
        pending = self.logs.load_pending(start)
        if pending:
            self.averager.resume(pending["rows"])
            if pending["evaluation"] and not self._evaluated(start):
                self._leave(start, evaluation=True)

        # Several processes must stop at the same update, so none gives up waiting for data.
        stop_waiting = _never if hosts.several() else self.stop
        with closing(_Reader(batches, steps - start)) as reader:
            for step in range(start + 1, steps + 1):
                with self.phases("data"):
                    batch = reader.next(stop_waiting)
                if batch is None:
                    self.averager.wait()
                    self._leave(step - 1, evaluation=False)
                with self.phases("step"):
                    self.averager.read_if_ready()
                    self._state, sums = self.update(self._state, batch)
                    self.averager.push(step, sums)
                self.check()
                self._after(step, steps)
        return self._state

    def _after(self, step: int, last: int) -> None:
        """Log, evaluate, save and stop after an update, whatever is due."""
        intervals = self.intervals
        evaluates = bool(intervals.eval and step % intervals.eval == 0)
        saves = step == last or bool(intervals.save and step % intervals.save == 0)
        stops = step < last and self.stop()

        # The time of the update under way must not count as evaluation or saving.
        if evaluates or saves or stops:
            with self.phases("step"):
                if saves:
                    self.averager.close(step)
                else:
                    self.averager.wait()
        if stops or (evaluates and not self._evaluated(step)):
            self._leave(step, evaluation=evaluates)
        if saves:
            with self.phases("save"):
                self.save(step, self._state)
            self._saved = step
            self.averager.reset_clock()

    def _evaluated(self, step: int) -> bool:
        """Log the scores of the state; False where the evaluation was cut short."""
        with self.phases("eval"):
            try:
                self.logs.write({"step": step, **self.evaluate(self._state, step)})
            except Preempted:
                return False
        self.averager.reset_clock()
        return True

    def _leave(self, step: int, evaluation: bool) -> NoReturn:
        """Save everything after update `step` and end the run; `evaluation`: it is missing."""
        pending = dict(rows=self.averager.rows, evaluation=evaluation)
        self.logs.save_pending(step, pending)
        if step != self._saved:
            self.save(step, self._state)
        raise Preempted(step)


class _Reader:
    """Reads `count` batches in a thread, one ahead, so that waiting for one can be interrupted."""

    def __init__(self, batches: Iterator, count: int):
        self._batches = batches
        self._requests: queue.SimpleQueue = (
            queue.SimpleQueue()
        )  # True: one more; False: the end
        self._ready: queue.SimpleQueue = (
            queue.SimpleQueue()
        )  # (batch, None) or (None, error)
        read = functools.partial(self._read, count)
        self._thread = threading.Thread(target=read, daemon=True, name="batches")
        self._thread.start()
        self._requests.put(True)

    def _read(self, count: int) -> None:
        for _ in range(count):
            if not self._requests.get():
                return
            try:
                self._ready.put((next(self._batches), None))
            except BaseException as error:
                self._ready.put((None, error))

    def close(self) -> None:
        """End the thread after the batch under way.

        Python aborts where it ends a thread that is inside XLA.
        """
        self._requests.put(False)
        self._thread.join(_LAST_READ)

    def next(self, stop: Callable[[], bool]):
        """Return the next batch, or None once `stop` returns True."""
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
        self._requests.put(True)
        return batch
