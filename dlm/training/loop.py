"""The training loop: data → update → logs, evaluation and checkpoints every so often. All of it runs through here once.

The metrics of step k − 1 are read while step k computes, so that the host never holds the device up; before it, if they are there.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NoReturn

from dlm.core.contracts import State
from dlm.machine import hosts
from dlm.machine.interrupts import Preempted
from dlm.runs.logs import Logs
from dlm.training.intervals import Intervals
from dlm.training.metrics import Meter

_PATIENCE = 0.1  # seconds between two looks at the wish to stop, while data are awaited
_LAST_READ = 5.0  # seconds that a batch under way has when the run ends


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
    intervals: Intervals,
    logs: Logs,
    flops_per_token: float,
    peak: float,
    evaluate: Callable[[State, int], dict] = lambda state, step: {},
    save: Callable[[int, State], None] = lambda step, state: None,
    check: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    skips: int = 0,
) -> tuple[State, Phases]:
    """Updates `start` … `steps`; returns the last state and the time of each phase.

    `stop` is asked before and after each update; once it says yes the state is saved and Preempted raised. What the run then owes (a row
    under way, an evaluation) is kept with the logs and made up for by the next start. `skips` updates left out in a row: Diverged."""
    phases, meter = Phases(), Meter(logs, intervals.log, flops_per_token, peak, skips)
    saved = start
    if load_pending := logs.load_pending(start):
        meter.resume(load_pending["rows"])

    def leave(step: int, evaluation: bool) -> NoReturn:
        logs.save_pending(step, dict(rows=meter.rows, evaluation=evaluation))
        if step != saved:
            save(step, state)
        raise Preempted(step)

    if (
        load_pending
        and load_pending["evaluation"]
        and not _evaluated(partial(evaluate, state, start), start, phases, logs, meter)
    ):
        leave(start, True)
    with closing(_Reader(batches, steps - start)) as reader:
        for step in range(start + 1, steps + 1):
            with phases("data"):
                batch = reader.next((lambda: False) if hosts.several() else stop)
            if batch is None:
                meter.settle()
                leave(step - 1, False)
            with phases("step"):
                meter.read_if_ready()
                state, sums = update(state, batch)
                meter.push(step, sums)
            check()
            to_evaluate = bool(intervals.eval and step % intervals.eval == 0)
            to_save = step == steps or bool(intervals.save and step % intervals.save == 0)
            stopping = step < steps and stop()
            if to_evaluate or to_save or stopping:
                with phases("step"):
                    meter.close(step) if to_save else meter.settle()
            if stopping or (
                to_evaluate
                and not _evaluated(partial(evaluate, state, step), step, phases, logs, meter)
            ):
                leave(step, to_evaluate)
            if to_save:
                with phases("save"):
                    save(step, state)
                saved = step
                meter.restart()
    return state, phases


def _evaluated(
    evaluate: Callable[[], dict], step: int, phases: Phases, logs: Logs, meter: Meter
) -> bool:
    """False where the evaluation was cut short."""
    with phases("eval"):
        try:
            logs.write({"step": step, **evaluate()})
        except Preempted:
            return False
    meter.restart()
    return True


class _Reader:
    """The next of `count` batches, read and put on the devices by a thread while an update runs, so that waiting can be interrupted."""

    def __init__(self, batches: Iterator, count: int):
        self._batches, self._wanted, self._ready = batches, queue.SimpleQueue(), queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._read, args=(count,), daemon=True, name="batches"
        )
        self._thread.start()
        self._wanted.put(True)

    def _read(self, count: int) -> None:
        for _ in range(count):
            if not self._wanted.get():
                return
            try:
                self._ready.put((next(self._batches), None))
            except BaseException as error:
                self._ready.put((None, error))

    def close(self) -> None:
        """Ends the thread, with the batch that it reads: Python aborts where it ends a thread that is inside XLA."""
        self._wanted.put(False)
        self._thread.join(_LAST_READ)

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
