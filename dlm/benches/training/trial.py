"""One model with its data, ready to be timed part by part."""

import dataclasses
import functools
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint  # noqa: F401 — its import is not part of a save

from dlm import benches
from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.contracts import Canvas, State
from dlm.core.run import Run
from dlm.machine import peak_flops
from dlm.nn.visibility import sees_all
from dlm.runs import checkpoint
from dlm.runs.logs import Logs
from dlm.samplers.plan import Sampler
from dlm.samplers.requests import Request
from dlm.samplers.rules.ancestral import Ancestral
from dlm.training.loop import Loop
from dlm.training.metrics import MetricAverager

ROWS = 4  # samples drawn at once
BLOCK = 6.0  # seconds that one part may take in one round
LONGEST = dict(updates=40, passes=64)  # of one part in one round
EVAL_BATCHES = 1
LARGEST_SAVE = 4e9  # bytes: writing more would measure the disk for minutes


class Trial:
    """The parts of a run; the training state is passed from one to the next."""

    def __init__(self, run: Run, folder: Path):
        self.run = run
        self.folder = folder
        self.length = run.data.length
        documents = run.data.source.documents("train")
        tokenizer = run.text.fit(documents)
        experiment = Experiment(run, tokenizer)
        self.experiment = experiment
        self.objective = experiment.objective
        self.state = experiment.new_state()
        # A copy: an update overwrites the state.
        self.params = jax.tree.map(jnp.copy, self.state.averaged)
        self.batches = experiment.batches(0)
        self.batch = next(self.batches)
        arrays = jax.tree.leaves(self.state)
        self.bytes = sum(x.nbytes for x in arrays)
        self.flops = run.flops_per_token * run.data.batch * self.length
        self.logs = Logs(folder, 0, run.steps, io.StringIO())
        self.saves = 0
        self.peaks: dict[str, float] = {}
        windows = EVAL_BATCHES * run.data.batch
        self.evaluators = [
            _limited(evaluator, windows) for evaluator in run.evals.values()
        ]
        self._choose_sizes()
        self.evaluate(self.state, 0)

    def _choose_sizes(self) -> None:
        """Decides how many updates and passes fill a round, from one of each."""
        self.updates, self.untimed = 1, 1
        # The first update has compiled; the slowest is the safe estimate.
        seconds = max(self.bare())
        self.updates = _fitting(seconds, LONGEST["updates"])
        self.untimed = int(self.updates > 1)  # a long update warms itself up
        self.steps = 2
        if self.fills_canvas:
            passes = _fitting(self.passes(), LONGEST["passes"])
            self.steps = max(2, passes)

    @property
    def fills_canvas(self) -> bool:
        """Whether the model decides the whole canvas at once."""
        return sees_all(self.objective.visibility)

    def peak(self, dtype: str) -> float:
        """Returns the FLOP/s of the best large matmul, now."""
        self.peaks[dtype] = peak_flops.measure(dtype)
        return self.peaks[dtype]

    def bare(self) -> list[float]:
        """Returns the seconds of each jitted update on one batch that is already on the device."""

        def once() -> None:
            self.state, sums = self.experiment.update(self.state, self.batch)
            jax.block_until_ready((self.state, sums))

        return self.timed(once)

    def timed(self, call: Callable[[], object]) -> list[float]:
        """Returns the seconds of each call of a round; the first of short calls is not counted."""
        seconds = benches.seconds_each(call, self.untimed + self.updates)
        return seconds[self.untimed :]

    def fastest(self, call: Callable[[], object]) -> float:
        """Returns the seconds of the fastest call of a round."""
        return min(self.timed(call))

    def loop(self) -> dict[str, float]:
        """Returns the seconds of each phase of the real loop over as many updates, and in all."""
        self.saves += 1
        store = checkpoint.Store(self.folder / f"save{self.saves}")
        small = self.bytes <= LARGEST_SAVE
        # Evaluated once, after the last update; saved at the end alone.
        intervals = dataclasses.replace(
            self.run.intervals,
            eval=self.updates,
            save=0,
        )
        dtype = self.run.nn.compute.dtype
        began = time.perf_counter()
        averager = MetricAverager(
            self.logs,
            intervals.log,
            self.run.flops_per_token,
            self.peaks[dtype],
            skips=0,
        )
        loop = Loop(
            self.experiment.update,
            intervals,
            self.logs,
            averager,
            evaluate=self.evaluate,
            save=store.save if small else _save_nothing,
        )
        self.state = loop.run(self.state, self.batches, start=0, steps=self.updates)
        whole = time.perf_counter() - began
        store.close()  # waits for the disk, so that the next part has the machine to itself
        return dict(loop.phases.seconds, all=whole)

    def evaluate(self, state: State, step: int) -> dict[str, float]:
        source = self.run.data.source
        context = RunContext(self.experiment, state.averaged, source)
        scores = {}
        for evaluator in self.evaluators:
            for name, value, _ in evaluator.run(context, step):
                scores[name] = value
        return scores

    def sampling(self) -> float:
        """Returns the seconds from requests to replies, per pass: ancestral, the whole canvas."""
        # The prompt is empty: all positions are to be written.
        requests = [Request.prompt("", self.length)] * ROWS
        began = time.perf_counter()
        replies = self._generator(requests)
        seconds = time.perf_counter() - began
        return seconds / replies[0].nfe

    def passes(self) -> float:
        """Returns the seconds of one jitted forward pass over a canvas of the same shape."""

        def once() -> None:
            jax.block_until_ready(self._forward(self.params))

        # The first call is not counted: it compiles.
        number = self.steps // 2
        _, *seconds = benches.seconds_each(once, number + 1)
        return sum(seconds) / len(seconds)

    @functools.cached_property
    def _generator(self) -> Any:
        sampler = Sampler(rule=Ancestral(), steps=self.steps)
        return self.experiment.generator(self.params, sampler)

    @functools.cached_property
    def _forward(self) -> Callable:
        experiment, visibility = self.experiment, self.objective.visibility
        shape = ROWS, self.length
        mask = self.run.nn.vocab.mask
        z_BL = jnp.full(shape, mask, jnp.int32)
        canvas = Canvas(
            z_BL,
            t_BL=jnp.ones(shape),
            frozen_BL=jnp.zeros(shape, bool),
            visibility=visibility,
        )

        @jax.jit
        def forward(params, canvas):
            output = experiment.net(params)(canvas)
            return output.prediction

        return functools.partial(forward, canvas=canvas)


def _fitting(seconds: float, most: int) -> int:
    """Returns how many calls of so many seconds fill one part of a round."""
    # At least one call, even of the slowest part.
    number = int(BLOCK / seconds)
    return max(1, min(most, number))


def _limited(evaluator: Any, windows: int) -> Any:
    """Returns the evaluator on a few windows, where it counts them."""
    names = [field.name for field in dataclasses.fields(evaluator)]
    if "windows" not in names:
        return evaluator
    return dataclasses.replace(evaluator, windows=windows)


def _save_nothing(step: int, state: State) -> None:
    """Takes the place of a save that would measure the disk."""
