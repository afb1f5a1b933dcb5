"""The training state and the one jitted update.

loss = Σ nats / Σ weights over the global batch; microbatches add up sums of nats, of weights and of gradients, so their
number changes neither the loss nor, up to rounding, the gradient
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlm.core import keys
from dlm.core.contracts import Batch, State, UnbiasedLoss
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
    """`update(state, batch) → (state, sums)`; `loss_of(params, batch, key) → Loss`.

    An update whose loss or gradient is not finite (or larger than optim.skip.norm) leaves all but the step as it was and counts in
    `skipped_sum`; one of a batch in which no token counts does the same and counts in `empty_sum` alone. The share of `steps` already done
    is in the batch's fields; `remember(memory, sums)` gives the state's next memory, and `route(params, routed) → (params, metrics)`
    answers to what the routers did. The noise key depends on the seed, the step and each sample's global number, never on where a sample
    is computed.
    """

    def update(state: State, batch: Batch):
        key = keys.key(root_key, "noise", state.step)
        batch = replace(batch, **_progress_fields(state, len(batch.index_B), steps))
        grads, sums = _gradients(loss_of, state.params, batch, key, optim.microbatches)
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
        if "routed" in sums:
            params, router_metrics = route(params, sums.pop("routed"))
        ema, made = state.ema, made_updates(state.moments)
        if ema is not None:
            decay = average_decay(optim.ema, made)
            ema = jax.tree.map(lambda e, p: e * decay + p * (1 - decay), ema, params)
        memory = None if state.memory is None else remember(state.memory, sums.pop("seen"))
        after, before = (
            (params, moments, ema, memory),
            (state.params, state.moments, state.ema, state.memory),
        )
        sums["bytes_sum"] = (jnp.asarray(bytes_V)[batch.tokens_BL] * batch.weights_BL).sum()
        sums = {
            k: jnp.where(good, v, 0) for k, v in sums.items()
        }  # an update that is left out is not in the means
        sums |= router_metrics | dict(skipped_sum=1.0 * ~(sound | empty), empty_sum=1.0 * empty)
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


def _progress_fields(state: State, rows: int, steps: int) -> dict[str, jax.Array]:
    """What an objective may want to know of the run so far, as fields of every row."""
    progress = {"progress_B1": jnp.broadcast_to(state.step / steps, (rows, 1))}
    return (
        progress
        if state.memory is None
        else progress | {"cost_BT": jnp.broadcast_to(state.memory, (rows, len(state.memory)))}
    )


def _gradients(loss_of, params, batch: Batch, key, parts: int):
    """Gradient of Σ nats, and the sums the objective reports; `parts` microbatches one after another."""

    def one(batch):
        def nats(params):
            loss = loss_of(params, batch, key)
            sums = dict(loss_sum=loss.nats_sum, weight_sum=loss.weight_sum, **loss.metrics)
            if isinstance(loss, UnbiasedLoss):  # what is no likelihood is not called one
                sums["nats_sum"] = loss.nats_sum
            if loss.seen is not None:
                sums["seen"] = loss.seen
            return loss.nats_sum, sums

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
