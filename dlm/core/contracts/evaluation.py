"""What an evaluator is given, and what it reports."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dlm.core.contracts.canvas import Batch
from dlm.core.contracts.data import Tokenizer
from dlm.core.contracts.diffusion import Process
from dlm.core.contracts.network import Net
from dlm.core.contracts.training import Bound, Loss, Models, Objective
from dlm.core.run import Run


class Score(NamedTuple):
    """A result of an evaluator."""

    name: str
    value: float
    standard_error: float  # 0 where the value is exact, NaN where the error is unknown


class Drawn(Protocol):
    """A reply of the sampler."""

    @property
    def ids(self) -> np.ndarray:
        """The whole canvas, prompt included."""

    @property
    def text(self) -> str:
        """Its text."""

    @property
    def nfe(self) -> float:
        """The number of network calls that it took."""


class EvalExperiment(Protocol):
    """A run's network and objective, as functions of the parameters."""

    # Parameters are arguments, so that one compiled program serves every checkpoint.

    @property
    def run(self) -> Run:
        """The run's config."""

    @property
    def mesh(self) -> Any:
        """The devices."""

    @property
    def objective(self) -> Objective:
        """The run's objective."""

    def net(self, params: Any) -> Net:
        """Returns the network with these parameters."""

    def models(self, params: Any) -> Models:
        """Returns what an objective may call, with these parameters."""

    def process_of(self, params: Any) -> Process:
        """Returns the process with the objective's own parameters; masks where there is none."""

    def reported(self, pattern: str = "count") -> Any:
        """Returns the objective whose bound is estimated."""

    def loss(self, params: Any, batch: Batch, key: jax.Array) -> Loss:
        """Returns the objective's loss."""

    def bound(self, samples: int, pattern: str = "count") -> Callable[..., Bound]:
        """Returns the compiled `bound(params, batch, key)`."""

    def counted(self, count: Callable) -> Callable:
        """Returns the compiled `count(experiment, params, batch, key)` of an evaluator."""

    def generator(
        self, params: Any, sampler: Any, *, seed: int = 0, trace: bool = False
    ) -> Any:
        """Returns a function from requests to replies."""

    def put(self, rows: dict) -> Batch:
        """Puts the rows of a batch on the devices."""


class EvalContext(Protocol):
    """All that evaluators may use: a run, the parameters to evaluate, held-out text, a sampler."""

    # What is evaluated.

    @property
    def experiment(self) -> EvalExperiment:
        """The run's network and objective."""

    @property
    def params(self) -> Any:
        """The parameters to evaluate."""

    @property
    def objective(self) -> Any:
        """The run's objective."""

    @property
    def tokenizer(self) -> Any:
        """The run's tokenizer."""

    # How it is evaluated.

    @property
    def sampler(self) -> Any:
        """The sampler of the command line; None: that of the run."""

    @property
    def seed(self) -> int:
        """The seed of the noise that evaluators draw."""

    @property
    def key(self) -> jax.Array:
        """The key of the noise that evaluators draw."""

    @property
    def details(self) -> dict[str, Any]:
        """Facts about the next score, for its record.

        `trials`: the score is a share of so many problems, documents or windows. `claims` and
        `over`: those of this score, where they are not the evaluator's. `sampler` and `nfe`: what
        it was sampled with.
        """

    @property
    def folder(self) -> Path | None:
        """The run's directory, where it has one."""

    @property
    def step(self) -> int | None:
        """The update of the checkpoint, where the parameters are from one."""

    # Data: held-out text and samples.

    @property
    def held_out_documents(self) -> list[str]:
        """The held-out text."""

    def held_out(self, limit: int | None = None) -> Iterator[Batch]:
        """Yields every held-out window once, or `limit` of them, evenly spread."""

    def generate(self, templates: Sequence[tuple], **changes: Any) -> Sequence[Drawn]:
        """Returns replies to templates, by the sampler with some of its fields changed."""

    def draw(self, num: int, length: int = 0) -> Sequence[Drawn]:
        """Returns samples without a prompt; length 0 is the length of training."""

    def open_run(self, workdir: str) -> "EvalContext":
        """Opens another run, which scores the samples of this one."""


class Evaluator(Protocol):
    """Scores of a trained model, each with its standard error."""

    @property
    def claims(self) -> str | None:
        """'exact', 'bound', 'samples': statistics of samples; None: what the objective claims."""

    @property
    def over(self) -> str | None:
        """What the standard errors are over; None where the scores have none.

        It is noise or samples, which each seed draws for itself, or items that are the same for all
        seeds: documents, problems, windows, batches.
        """

    # What a score depends on, so that its record says what may have changed it.

    @property
    def reads(self) -> bool:
        """Whether it reads held-out text."""

    @property
    def places(self) -> Sequence[str]:
        """Its fields that change no score, such as a folder's."""

    def check(self, run: Run, tokenizer: Tokenizer) -> None:
        """Raises UserError, before training begins, where it cannot score such a run."""

    def run(self, context: EvalContext, step: int) -> Iterator[Score]:
        """Yields the scores of the parameters after update `step`."""
