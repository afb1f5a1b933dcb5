"""From a batch to a loss, and the state that training carries."""

from dataclasses import field
from typing import Any, Literal, Protocol

import jax

from dlm.core.contracts.canvas import Batch
from dlm.core.contracts.diffusion import Process
from dlm.core.contracts.network import Net
from dlm.core.contracts.visibility import Visibility
from dlm.core.pytree import pytree

Claim = Literal["exact", "bound", "heuristic"]

# How a bound is estimated: under a fixed number of masks, by a network that is not given the
# time ("count"), or as in training ("own").
Pattern = Literal["count", "own"]


@pytree
class Mean:
    """A mean as two sums, which add up over microbatches, updates and hosts."""

    value_sum: jax.Array
    count_sum: jax.Array

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.value_sum + other.value_sum, self.count_sum + other.count_sum)


@pytree
class Loss:
    """Sums that add up exactly over microbatches and hosts: the loss is nats_sum / weight_sum.

    It claims nothing about a likelihood.
    """

    nats_sum: jax.Array
    weight_sum: jax.Array
    metrics: dict[str, jax.Array] = field(default_factory=dict)  # further sums
    seen: Any = None  # sums of what an objective carries from update to update


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
        """Which positions attend to which, in training and in sampling."""

    @property
    def process(self) -> Process | None:
        """How tokens are destroyed; None where nothing is."""

    @property
    def token_passes(self) -> float:
        """How often the network reads each token in a training step: streams × passes."""

    def loss(self, net: Net, batch: Batch, key: jax.Array) -> Loss:
        """Returns the loss of a batch: the mean over the noise has the gradient that is wanted."""

    def bound(self, net: Net, batch: Batch, key: jax.Array, samples: int) -> Bound:
        """Estimates −log p(x) or its bound for each sequence from `samples` draws."""
