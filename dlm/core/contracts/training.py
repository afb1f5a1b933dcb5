"""From a batch to a loss, and the state that training carries."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import jax

from dlm.core.contracts.canvas import Batch
from dlm.core.contracts.diffusion import Process
from dlm.core.contracts.network import Net, Routing
from dlm.core.contracts.visibility import Visibility
from dlm.core.pytree import pytree

Claim = Literal["exact", "bound", "heuristic"]

# How a bound is estimated: under a fixed number of masks, by a network that is not given the
# time ("count"), or as in training ("own").
Pattern = Literal["count", "own"]


@pytree
class Mean:
    """A mean as two sums, which add up over microbatches, updates and hosts."""

    value_sum: jax.Array | float  # plain numbers on the host
    count_sum: jax.Array | float

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.value_sum + other.value_sum, self.count_sum + other.count_sum)


@dataclass(frozen=True)
class Models:
    """Everything that an objective may call or read beside the batch.

    It is built inside the traced update, so it may hold functions; it never crosses `jit`.
    """

    student: Net  # the network that is trained, the only one that receives a gradient
    own: dict = field(
        default_factory=dict
    )  # the objective's own parameters, from `init`
    statistics: Any = None  # running sums of `Loss.statistics`; None: none yet
    progress: jax.Array | float = 1.0  # fraction of the updates done


@pytree
class Loss:
    """Sums that add up exactly over microbatches and hosts: the loss is nats_sum / weight_sum.

    It claims nothing about a likelihood.
    """

    nats_sum: jax.Array
    weight_sum: jax.Array
    metrics: dict[str, Mean] = field(
        default_factory=dict
    )  # columns of the log, by name
    routing: Routing | None = None  # the sum over the student's outputs
    statistics: Any = None  # sums that the objective carries from update to update
    # Nats of the exact likelihood, where the loss adds other terms to them.
    exact_sum: jax.Array | None = None


@pytree
class UnbiasedLoss(Loss):
    """A loss whose mean is what the objective reports, a bound or the exact likelihood."""


@pytree
class Bound:
    """An estimate of −log p(x) or of a bound on it."""

    nats_BL: jax.Array
    variance_B: jax.Array  # of each sequence's sum, over the noise that was drawn


@pytree
class State:
    """All that training carries from update to update."""

    step: jax.Array  # updates done, int32
    params: Any
    moments: Any
    ema: Any  # None when evaluation uses the parameters themselves
    memory: Any = None  # mean squares of the costs at each time, for times="importance"

    @property
    def averaged(self):
        """The parameters that evaluation and sampling use."""
        return self.params if self.ema is None else self.ema


class Objective(Protocol):
    """What is trained (`loss`) and what is reported (`bound`), in nats."""

    @property
    def claims(self) -> Claim:
        """What `bound` returns."""

    @property
    def loss_claims(self) -> Claim:
        """What the loss is an estimate of: `claims`, or 'heuristic'."""

    @property
    def visibility(self) -> Visibility:
        """Which positions the network may attend to, in training and sampling."""

    @property
    def process(self) -> Process | None:
        """How tokens are destroyed; None where nothing is."""

    @property
    def token_passes(self) -> float:
        """How often the network reads each token in a training step: streams × passes."""

    def init(self, key: jax.Array) -> dict:
        """Returns the objective's own parameters, trained beside the network; {} for none."""

    def statistics(self) -> Any:
        """Returns the statistics before the first update; None where there are none."""

    def process_of(self, own: dict) -> Process | None:
        """Returns the process with the objective's own parameters, for samplers and oracles."""

    def loss(self, models: Models, batch: Batch, key: jax.Array) -> Loss:
        """Returns the loss of a batch for one draw of the noise."""

    def bound(
        self, models: Models, batch: Batch, key: jax.Array, samples: int
    ) -> Bound:
        """Estimates −log p(x) or its bound for each sequence from `samples` draws."""
