"""The training state and the one jitted update.

loss = Σ nats / Σ weights over the global batch. Microbatches add up the sums of nats, of weights
and of gradients, so their number changes neither the loss nor, up to rounding, the gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlm.core import keys
from dlm.core.contracts import Batch, Loss, Mean, State, UnbiasedLoss
from dlm.training.config import Average, OptimizerConfig

# (params, batch, key, statistics, progress) → Loss
LossFunction = Callable[..., Loss]
Update = Callable[[State, Batch], tuple[State, dict]]


@dataclass(frozen=True)
class Hooks:
    """What an update does beyond the optimizer's step."""

    # (memory, statistics of the batch) → the memory of the next state
    remember: Callable[[Any, Any], Any] | None = None
    # (params, routing) → params with balanced routers, and {name: value} for the logs
    route: Callable[[Any, Any], tuple[Any, dict]] | None = None


def create_state(
    params, config: OptimizerConfig, optimizer: optax.GradientTransformation, memory=None
) -> State:
    """Build the state before the first update."""
    ema = jax.tree.map(jnp.copy, params) if config.ema.decay else None
    return State(jnp.int32(0), params, optimizer.init(params), ema, memory)


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

    An update is left out if its loss or gradient is not finite, or its gradient is larger than
    optim.skip.norm: then all but the step stays as it was, and `skipped_sum` is 1. A batch in
    which no token counts does the same, with `empty_sum` 1. The noise key depends on the seed,
    the step and each sample's global number, never on where a sample is computed.

    The sums are loss_sum, weight_sum, bytes_sum, nats_sum (only of a loss that estimates a
    likelihood), skipped_sum, empty_sum, grad_norm, lr, and `metrics`: {name: Mean}.

    Args:
      loss_of: the objective's loss of the parameters.
      config: gradient clipping, averaging, microbatches and when to skip.
      optimizer: built by `training.optimizer.transformation`.
      schedule: the multiple of the peak learning rate, for the logs.
      root_key: the key of the run's seed.
      bytes_V: bytes of text that each id is worth, for bits per byte.
      steps: updates of the whole run; the objective receives the share that is done.
      hooks: what else happens in an update.
    """

    def update(state: State, batch: Batch) -> tuple[State, dict]:
        key = keys.key(root_key, "noise", state.step)
        progress = state.step / steps

        def loss_now(params, batch: Batch) -> Loss:
            return loss_of(params, batch, key, state.memory, progress)

        grads, sums = _gradients(loss_now, state.params, batch, config.microbatches)

        # The gradient of an empty batch is 0 / 0 and is not used.
        empty = sums["weight_sum"] == 0
        grads = jax.tree.map(lambda g: g / sums["weight_sum"], grads)
        norm = optax.tree.norm(grads)
        largest = config.skip.norm or jnp.inf
        sound = jnp.isfinite(sums["loss_sum"]) & jnp.isfinite(norm) & (norm <= largest)
        good = sound & ~empty

        # Everything is computed as if the update were good; `where` undoes it if it is not.
        changes, moments = optimizer.update(grads, state.moments, state.params)
        params = optax.apply_updates(state.params, changes)
        routing, statistics = sums.pop("routing"), sums.pop("statistics")
        if routing is not None:
            params, values = hooks.route(params, routing)
            for name, value in values.items():
                sums["metrics"][name] = Mean(value, 1.0)
        count = count_updates(state.moments)
        ema = _averaged(state.ema, params, config.ema, count)
        memory = state.memory
        if memory is not None:
            memory = hooks.remember(memory, statistics)
        after = (params, moments, ema, memory)
        before = (state.params, state.moments, state.ema, state.memory)
        chosen = _where(good, after, before)

        # An update that is left out is not in the means.
        bytes_BL = jnp.asarray(bytes_V)[batch.tokens_BL]
        sums["bytes_sum"] = (bytes_BL * batch.weights_BL).sum()
        sums = jax.tree.map(lambda value: jnp.where(good, value, 0), sums)
        sums["skipped_sum"] = 1.0 * ~(sound | empty)
        sums["empty_sum"] = 1.0 * empty
        sums["grad_norm"] = jnp.where(empty, 0.0, norm)
        sums["lr"] = config.lr * schedule(count)
        return State(state.step + 1, *chosen), sums

    return update


def average_decay(average: Average, updates: jax.Array) -> float | jax.Array:
    """Return d of the average (`training.config.Average`) after so many updates."""
    if average.warmup == "none":
        return average.decay
    return jnp.minimum(average.decay, (1 + updates) / (10 + updates))


def count_updates(moments) -> jax.Array:
    """Count the updates that the optimizer made; those left out are not among them.

    This is the position of the learning-rate schedule.
    """
    counts = optax.tree.get_all_with_path(moments, "count")
    return jnp.stack([count for _, count in counts]).max()


def _averaged(ema, params, average: Average, count: jax.Array):
    if ema is None:
        return None
    decay = average_decay(average, count)

    def moved(e, p):
        return e * decay + p * (1 - decay)

    return jax.tree.map(moved, ema, params)


def _where(good: jax.Array, after, before):
    def chosen(new, old):
        return jnp.where(good, new, old)

    return jax.tree.map(chosen, after, before)


def _gradients(loss_of: LossFunction, params, batch: Batch, parts: int):
    """Compute the gradient of Σ nats and the sums of the loss, one microbatch after another."""

    def of_part(part: Batch):
        def nats(params):
            loss = loss_of(params, part)
            return loss.nats_sum, _sums(loss)

        return jax.grad(nats, has_aux=True)(params)

    if parts == 1:
        return of_part(batch)

    # Row i goes to part i mod parts, so that each part stays spread over all devices.
    def split(x):
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(total, part):
        grads, sums = of_part(part)
        return jax.tree.map(jnp.add, total, grads), sums

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, sums = jax.lax.scan(add, zeros, jax.tree.map(split, batch))
    return grads, jax.tree.map(lambda x: x.sum(0), sums)


def _sums(loss: Loss) -> dict[str, Any]:
    """The parts of a loss that add up over microbatches, by name."""
    sums: dict[str, Any] = dict(loss_sum=loss.nats_sum, weight_sum=loss.weight_sum)
    sums["metrics"] = dict(loss.metrics)
    sums["routing"] = loss.routing
    sums["statistics"] = loss.statistics
    # A loss that only trains is not logged as a likelihood.
    exact_sum = loss.nats_sum if isinstance(loss, UnbiasedLoss) else loss.exact_sum
    if exact_sum is not None:
        sums["nats_sum"] = exact_sum
    return sums
