"""The context that evaluators run in, and the evaluators that a config or a command line names."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlm.app.experiment import Experiment
from dlm.app.open_run import reopen
from dlm.core import keys
from dlm.core.config import build_member, override, to_plain
from dlm.core.contracts import Batch
from dlm.core.errors import UserError
from dlm.core.named import nearest
from dlm.machine.interrupts import Preempted
from dlm.runs import earlier_fields
from dlm.samplers.plan import Sampler
from dlm.samplers.requests import Reply, Request

_ROWS = 16  # samples that an evaluator draws in one call; one size, so that one program serves all


def _never() -> bool:
    return False


@dataclass(frozen=True)
class RunContext:
    """An experiment, the parameters to evaluate, and held-out text: an EvalContext."""

    experiment: Experiment
    params: Any
    source: Any  # its held-out split is read
    seed: int = 0
    stop: Callable[[], bool] = (
        _never  # called before each batch; True ends the evaluator
    )
    sampler: Sampler | None = None  # None: the sampler of the run's config
    details: dict = field(
        default_factory=dict
    )  # what an evaluator did: sampler, passes, trials
    folder: Path | None = None  # the run's directory, where it has one
    step: int | None = (
        None  # the update of the checkpoint, where the parameters are from one
    )

    @property
    def objective(self):
        return self.experiment.objective

    @property
    def tokenizer(self):
        return self.experiment.tokenizer

    @property
    def key(self) -> jax.Array:
        return keys.key(keys.root(self.seed), "eval")

    @cached_property
    def held_out_documents(self) -> list[str]:
        return list(self.source.documents("held_out"))

    def held_out(self, limit: int | None = None) -> Iterator[Batch]:
        """Yields every held-out window once, or `limit` of them, evenly spread.

        Raises Preempted before a batch once `stop` returns True.
        """
        loader = replace(self.experiment.run.data, source=self.source)
        windows = loader.held_out_windows(self.tokenizer, limit)
        host, hosts = jax.process_index(), jax.process_count()
        # Each host reads its own rows of every batch.
        for rows in loader.sequential(windows, loader.batch, host, hosts):
            self._check_stop()
            yield self.experiment.put(rows)

    def generate(self, templates: Sequence[tuple], **changes) -> list[Reply]:
        """Replies to templates, drawn by the sampler with some of its fields changed."""
        # One compiled sampler serves all batches.
        sampler = replace(self.sampler or self.experiment.run.sampler, **changes)
        generator = self.experiment.generator(self.params, sampler, seed=self.seed)
        size = min(_ROWS, len(templates))
        replies = []
        for begin in range(0, len(templates), _ROWS):
            self._check_stop()
            requests = [Request(tuple(t)) for t in templates[begin : begin + _ROWS]]
            # The last batch is filled up to the size that is compiled already.
            padding = requests[-1:] * (size - len(requests))
            replies += generator(requests + padding, first=begin)[: len(requests)]
        passes = float(np.mean([reply.nfe for reply in replies]))
        self.details.update(sampler=to_plain(sampler), nfe=passes)
        return replies

    def draw(self, num: int, length: int = 0) -> list[Reply]:
        """Draws samples without a prompt; length 0 is the length of training."""
        length = length or self.experiment.run.data.length
        return self.generate([(length,)] * num)

    def open_run(self, workdir: str) -> "RunContext":
        """Opens another run, which scores the samples of this one."""
        folder = Path(workdir)
        experiment, state = reopen(folder)
        params, source = state.averaged, experiment.run.data.source
        step = int(state.step)
        return RunContext(
            experiment, params, source, seed=self.seed, folder=folder, step=step
        )

    def _check_stop(self) -> None:
        if self.stop():
            raise Preempted()


def build_evaluators(
    configured: dict, names: str | None, overrides: Sequence[tuple[str, str]]
) -> dict:
    """Returns {name: evaluator}: those of a config's `evals`, or those of `names`.

    `overrides` are (evals.NAME.FIELD, VALUE). Raises UserError for a name that is not among them.
    """
    # A named evaluator that the config lacks gets its defaults.
    chosen = names.split(",") if names else configured
    settings = {name: dict(configured.get(name) or {}) for name in chosen}
    if not settings:
        raise UserError(
            "the run's config names no evaluator: say which with --evals=bound"
        )
    for dotted, text in overrides:
        name, _, field_name = dotted.removeprefix("evals.").partition(".")
        if name not in settings or not field_name:
            known = f"{', '.join(settings)}{nearest(name, settings)}"
            raise UserError(
                f"--{dotted}: expected --evals.NAME.FIELD with NAME one of {known}"
            )
        override(settings[name], field_name, text)
    earlier_fields.check(dict(evals=settings))
    return {name: _build(name, fields) for name, fields in settings.items()}


def _build(name: str, fields: dict):
    named = {**fields, "name": f"evals.{name}"}
    return build_member(named, "evals", where=f"evals.{name}")
