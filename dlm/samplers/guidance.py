"""Classifier-free guidance: the prompt is heard more than it would be (arXiv:2207.12598; of masked diffusion, 2412.10193, eq. 7).

    log p_w(x_i) = (1 + w) log p(x_i | z, anchors) − w log p(x_i | z) + const

Without the prompt every anchor is a mask. Both are read in one pass of twice the rows; the draw is one.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Dense, Net, Output
from dlm.samplers.rules.base import anchors


def guided(net: Net, w: float, vocab) -> Net:
    """Returns the network with guidance of weight `w`; its cache has twice the rows."""
    if not w:
        return net

    def both(canvas: Canvas) -> Output:
        B = len(canvas.z_BL)
        output = net(_doubled(canvas, jnp.where(anchors(canvas), vocab.mask, canvas.z_BL)))
        prediction = output.prediction
        assert isinstance(prediction, Dense), "guidance mixes whole distributions"
        log_BLV = jax.nn.log_softmax(prediction.logits_BLV, -1)
        conditional_BLV, unconditional_BLV = jnp.split(log_BLV, [B])
        logits_BLV = jnp.where(
            jnp.isfinite(conditional_BLV),
            (1 + w) * conditional_BLV - w * jnp.maximum(unconditional_BLV, -1e9),
            -jnp.inf,
        )
        # Of the heads, those that have a number for each position.
        arrays = {k: x for k, x in output.heads.items() if isinstance(x, jax.Array)}
        heads = {name: x[:B] for name, x in arrays.items()}
        return Output(Dense(logits_BLV), heads, cache=output.cache)

    return both


def _doubled(canvas: Canvas, blank_BL: jax.Array) -> Canvas:
    """Returns a canvas of twice the rows, the second half with other tokens."""
    layout, cache = jax.tree.map(_twice, canvas.layout), canvas.cache
    first = replace(canvas, layout=None, cache=None)
    second = replace(first, z_BL=blank_BL)
    rows = jax.tree.map(_concatenate, first, second)
    if cache is not None:
        slots_BL = _twice(cache.slots_BL)
        cache = replace(cache, layout=jax.tree.map(_twice, cache.layout), slots_BL=slots_BL)
    return replace(rows, layout=layout, cache=cache)


def _twice(x):
    """Returns the rows twice; a single one stands for all."""
    return jnp.concatenate([x, x]) if x.shape[0] > 1 else x


def _concatenate(*parts):
    return jnp.concatenate(parts)
