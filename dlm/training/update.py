"""The training state and the one jitted update.

loss = Σ nats / Σ weights over the global batch; microbatches add up sums of nats, of weights and of gradients, so their
number changes neither the loss nor, up to rounding, the gradient
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlm.core import keys
from dlm.core.contracts import Batch, Loss, Mean, State, UnbiasedLoss
from dlm.training.config import Average, OptimizerConfig


def create_state(
    params, optim: OptimizerConfig, optimizer: optax.GradientTransformation, memory=None
) -> State:
    """The state before the first update."""
    ema = jax.tree.map(jnp.copy, params) if optim.ema.decay else None
    return State(jnp.int32(0), params, optimizer.init(params), ema, memory)


def make_update(
    loss_of,
    optim: OptimizerConfig,
    optimizer: optax.GradientTransformation,
    schedule,
    root_key,
    bytes_V: np.ndarray,
    steps: int = 1,
    remember=None,
    route=None,
):
    """`update(state, batch) → (state, sums)`; `loss_of(params, batch, key, statistics, progress) → Loss`.

    An update whose loss or gradient is not finite (or larger than optim.skip.norm) leaves all but the step as it was and counts in
    `skipped_sum`; one of a batch in which no token counts does the same and counts in `empty_sum` alone. `progress` is the share of `steps` already done;
    `remember(memory, sums)` gives the state's next memory, and `route(params, routed) → (params, metrics)`
    answers to what the routers did. The noise key depends on the seed, the step and each sample's global number, never on where a sample
    is computed.
    """

    def update(state: State, batch: Batch):
        key = keys.key(root_key, "noise", state.step)
        progress = state.step / steps

        def loss_now(params, batch: Batch) -> Loss:
            return loss_of(params, batch, key, state.memory, progress)

        grads, sums = _gradients(loss_now, state.params, batch, optim.microbatches)
        empty = sums["weight_sum"] == 0
        grads = jax.tree.map(
            lambda g: g / sums["weight_sum"], grads
        )  # of an empty batch they are not used
        norm = optax.tree.norm(grads)
        sound = (
            jnp.isfinite(sums["loss_sum"])
            & jnp.isfinite(norm)
            & (norm <= (optim.skip.norm or jnp.inf))
        )
        good = sound & ~empty
        changes, moments = optimizer.update(grads, state.moments, state.params)
        params, router_metrics = optax.apply_updates(state.params, changes), {}
        routing = sums.pop("routing")
        if routing is not None:
            params, router_metrics = route(params, routing)
        ema, made = state.ema, made_updates(state.moments)
        if ema is not None:
            decay = average_decay(optim.ema, made)
            ema = jax.tree.map(lambda e, p: e * decay + p * (1 - decay), ema, params)
        memory, statistics = state.memory, sums.pop("statistics")
        if memory is not None:
            memory = remember(memory, statistics)
        after, before = (
            (params, moments, ema, memory),
            (state.params, state.moments, state.ema, state.memory),
        )
        sums["bytes_sum"] = (jnp.asarray(bytes_V)[batch.tokens_BL] * batch.weights_BL).sum()
        # An update that is left out is not in the means.
        sums = jax.tree.map(lambda v: jnp.where(good, v, 0), sums)
        sums["metrics"] |= {
            name: Mean(jnp.where(good, value, 0.0), 1.0 * good)
            for name, value in router_metrics.items()
        }
        sums |= dict(skipped_sum=1.0 * ~(sound | empty), empty_sum=1.0 * empty)
        sums |= dict(grad_norm=jnp.where(empty, 0.0, norm), lr=optim.lr * schedule(made))
        return State(
            state.step + 1, *jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
        ), sums

    return update


def average_decay(average: Average, updates: jax.Array) -> float | jax.Array:
    """Return d of the average (`training.config.Average`) after so many updates."""
    if average.warmup == "none":
        return average.decay
    return jnp.minimum(average.decay, (1 + updates) / (10 + updates))


def made_updates(moments) -> jax.Array:
    """How many updates the optimizer has made, those that were left out not among them: its schedule's place."""
    return jnp.stack([count for _, count in optax.tree.get_all_with_path(moments, "count")]).max()


def _gradients(loss_of, params, batch: Batch, parts: int):
    """Gradient of Σ nats, and the sums that the objective reports.

    `parts` microbatches are computed one after another.
    """

    def one(batch):
        def nats(params):
            loss = loss_of(params, batch)
            return loss.nats_sum, _sums(loss)

        return jax.grad(nats, has_aux=True)(params)

    if parts == 1:
        return one(batch)
    # Row i goes to part i mod parts, so that each part stays spread over all devices.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        grads, sums = one(part)
        return jax.tree.map(jnp.add, total, grads), sums

    grads, sums = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), split)
    return grads, jax.tree.map(lambda x: x.sum(0), sums)


def _sums(loss: Loss) -> dict:
    """The parts of a loss that add up over microbatches, by name."""
    sums = dict(
        loss_sum=loss.nats_sum,
        weight_sum=loss.weight_sum,
        metrics=loss.metrics,
        routing=loss.routing,
        statistics=loss.statistics,
    )
    # A loss that is no likelihood is not called one.
    exact_sum = loss.nats_sum if isinstance(loss, UnbiasedLoss) else loss.exact_sum
    if exact_sum is not None:
        sums["nats_sum"] = exact_sum
    return sums
