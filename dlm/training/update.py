"""The training state and the one jitted update.

loss = Σ nats / Σ weights over the global batch. Microbatches add up the sums of nats, of weights
and of gradients, so their number changes neither the loss nor, up to rounding, the gradient.

An update is left out if its loss or gradient is not finite, or its gradient is larger than
optim.skip.norm: then all but the step stays as it was, and `skipped_sum` is 1. A batch in which no
token counts does the same, with `empty_sum` 1. The noise key depends on the seed, the step and each
sample's global number, never on where a sample is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlm.core import keys
from dlm.core.contracts import Batch, Loss, Mean, Routing, State, UnbiasedLoss
from dlm.training.config import Average, OptimizerConfig

# (params, batch, key, statistics, progress) → Loss
Tree = Any  # of arrays

# loss_sum, weight_sum, bytes_sum, nats_sum (only of a loss that estimates a likelihood),
# skipped_sum, empty_sum, grad_norm, lr, and `metrics`: {name: Mean}
Sums = dict[str, Any]

LossFunction = Callable[..., Loss]
Update = Callable[[State, Batch], tuple[State, Sums]]


def _same_memory(memory, statistics):
    return memory


def _same_routers(params, routing):
    return params, {}


@dataclass(frozen=True)
class Hooks:
    """Functions that an update calls beside the optimizer."""

    # (memory, statistics of the batch) → the memory of the next state
    remember: Callable[[Any, Any], Any] = _same_memory
    # (params, routing) → params with balanced routers, and {name: value} for the logs
    route: Callable[[Tree, Routing], tuple[Tree, dict]] = _same_routers


@dataclass(frozen=True)
class _Check:
    """Whether an update can be used; scalars of a traced update."""

    norm: jax.Array  # of the gradient
    empty: jax.Array  # no token of the batch counts
    sound: jax.Array  # loss and gradient are finite, and the gradient is not too large

    @property
    def good(self) -> jax.Array:
        return self.sound & ~self.empty


def create_state(
    params: Tree,
    config: OptimizerConfig,
    optimizer: optax.GradientTransformation,
    memory: Any = None,
) -> State:
    """Build the state before the first update."""
    ema = None
    if config.ema.decay:
        ema = jax.tree.map(jnp.copy, params)
    moments = optimizer.init(params)
    return State(jnp.int32(0), params, moments, ema, memory)


def make_update(
    loss_of: LossFunction,
    config: OptimizerConfig,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    root_key: jax.Array,
    bytes_V: np.ndarray,
    steps: int = 1,
    hooks: Hooks = Hooks(),
) -> Update:
    """Build `update(state, batch) → (state, sums)`.

    Args:
      loss_of: the objective's loss of the parameters.
      config: gradient clipping, averaging, microbatches and when to skip.
      optimizer: built by `training.optimizer.transformation`.
      schedule: the multiple of the peak learning rate, for the logs.
      root_key: the key of the run's seed.
      bytes_V: bytes of text that each id is worth, for bits per byte.
      steps: updates of the whole run; the objective receives the fraction that is done.
      hooks: functions that are called beside the optimizer.
    """

    def update(state: State, batch: Batch) -> tuple[State, Sums]:
        key = keys.key(root_key, "noise", state.step)
        progress = state.step / steps

        def loss_now(params: Tree, batch: Batch) -> Loss:
            return loss_of(params, batch, key, state.memory, progress)

        total, sums = _gradients(loss_now, state.params, batch, config.microbatches)
        gradient, check = _checked(total, sums, config.skip.norm)

        # Everything is computed as if the update were good; `where` undoes it if it is not.
        changes, moments = optimizer.update(gradient, state.moments, state.params)
        params = optax.apply_updates(state.params, changes)
        params = _routed(params, sums, hooks)
        count = count_updates(state.moments)
        ema = _averaged(state.ema, params, config.ema, count)
        memory = _remembered(state.memory, sums, hooks)
        before = (state.params, state.moments, state.ema, state.memory)
        after = (params, moments, ema, memory)
        chosen = _where(check.good, after, before)

        sums = _logged(sums, batch, bytes_V, check)
        sums["lr"] = config.lr * schedule(count)
        return State(state.step + 1, *chosen), sums

    return update


def _checked(total: Tree, sums: Sums, largest: float) -> tuple[Tree, _Check]:
    """Divide the gradient of Σ nats by the weights, and check it.

    A `largest` norm of 0 is no limit.
    """
    loss, weight = sums["loss_sum"], sums["weight_sum"]

    def divided(g):
        return g / weight

    # The gradient of an empty batch is 0 / 0 and is not used.
    empty = weight == 0
    gradient = jax.tree.map(divided, total)
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    limit = largest or jnp.inf
    sound = is_finite & (norm <= limit)
    return gradient, _Check(norm, empty, sound)


def _routed(params: Tree, sums: Sums, hooks: Hooks) -> Tree:
    """Move the routing statistics from the sums into the routers and the metrics."""
    routing = sums.pop("routing")
    if routing is None:
        return params
    params, values = hooks.route(params, routing)
    metrics = sums["metrics"]
    for name, value in values.items():
        metrics[name] = Mean(value, 1.0)
    return params


def _remembered(memory: Any, sums: Sums, hooks: Hooks) -> Any:
    """Move the objective's statistics from the sums into its memory."""
    statistics = sums.pop("statistics")
    if memory is None:
        return None
    return hooks.remember(memory, statistics)


def _logged(sums: Sums, batch: Batch, bytes_V: np.ndarray, check: _Check) -> Sums:
    """Complete the sums for the log, in whose means an update that is left out has no part."""

    def zero_if_left_out(value):
        return jnp.where(check.good, value, 0)

    bytes_BL = jnp.asarray(bytes_V)[batch.tokens_BL]
    counted_BL = bytes_BL * batch.weights_BL
    sums["bytes_sum"] = counted_BL.sum()
    sums = jax.tree.map(zero_if_left_out, sums)
    # These describe the updates that were left out.
    usable = check.sound | check.empty
    sums["skipped_sum"] = 1.0 * ~usable
    sums["empty_sum"] = 1.0 * check.empty
    sums["grad_norm"] = jnp.where(check.empty, 0.0, check.norm)
    return sums


def average_decay(average: Average, updates: jax.Array) -> jax.Array | float:
    """Return d of the average (`training.config.Average`) after so many updates."""
    if average.warmup == "none":
        return average.decay
    young = (1 + updates) / (10 + updates)
    return jnp.minimum(average.decay, young)


def count_updates(moments: Tree) -> jax.Array:
    """Count the updates that the optimizer made; those left out are not among them.

    This is the position of the learning-rate schedule.
    """
    with_paths = optax.tree.get_all_with_path(moments, "count")
    counts = [count for _, count in with_paths]
    return jnp.stack(counts).max()


def _averaged(ema, params, average: Average, count):
    if ema is None:
        return None
    decay = average_decay(average, count)

    def moved(e, p):
        return e * decay + p * (1 - decay)

    return jax.tree.map(moved, ema, params)


def _where(good, after, before):
    def chosen(new, old):
        return jnp.where(good, new, old)

    return jax.tree.map(chosen, after, before)


def _gradients(
    loss_of: LossFunction, params: Tree, batch: Batch, parts: int
) -> tuple[Tree, Sums]:
    """Compute the gradient of Σ nats and the sums of the loss, one microbatch after another."""

    def of_part(part: Batch):
        def nats(params):
            loss = loss_of(params, part)
            return loss.nats_sum, _sums(loss)

        gradient = jax.grad(nats, has_aux=True)
        return gradient(params)

    if parts == 1:
        return of_part(batch)

    # Row i goes to part i mod parts, so that each part stays spread over all devices.
    def split(x):
        shape = x.shape[1:]
        columns = x.reshape(-1, parts, *shape)
        return columns.swapaxes(0, 1)

    def add(total, part):
        grads, sums = of_part(part)
        return jax.tree.map(jnp.add, total, grads), sums

    def over_parts(x):
        return x.sum(0)

    zeros = jax.tree.map(jnp.zeros_like, params)
    microbatches = jax.tree.map(split, batch)
    grads, sums = jax.lax.scan(add, zeros, microbatches)
    return grads, jax.tree.map(over_parts, sums)


def _sums(loss: Loss) -> Sums:
    """The parts of a loss that add up over microbatches, by name."""
    sums = dict[str, Any](
        loss_sum=loss.nats_sum,
        weight_sum=loss.weight_sum,
        metrics=dict(loss.metrics),
        routing=loss.routing,
        statistics=loss.statistics,
    )
    # A loss that only trains is not logged as a likelihood.
    likelihood = loss.exact_sum
    if isinstance(loss, UnbiasedLoss):
        likelihood = loss.nats_sum
    if likelihood is not None:
        sums["nats_sum"] = likelihood
    return sums
