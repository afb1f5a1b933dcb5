"""Classifier-free guidance: the prompt has more influence than it would have.

    log p_w(x_i) = (1 + w) log p(x_i | z, anchors) − w log p(x_i | z) + const

(arXiv:2207.12598; for masked diffusion, arXiv:2412.10193, eq. 7.) Without the prompt every anchor
is a mask. Both are computed in one pass of twice the rows, and one sample is drawn.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Canvas, Dense, Layout, Net, Output
from dlm.samplers.rules.base import anchors


def guided(net: Net, w: float, vocab) -> Net:
    """Returns the network with guidance of weight `w`; its cache has twice the rows."""
    if not w:
        return net

    def both(canvas: Canvas) -> Output:
        B = len(canvas.z_BL)
        without_prompt_BL = jnp.where(anchors(canvas), vocab.mask, canvas.z_BL)
        output = net(_doubled(canvas, without_prompt_BL))
        prediction = output.prediction
        assert isinstance(prediction, Dense), "guidance mixes whole distributions"
        log_BLV = jax.nn.log_softmax(prediction.logits_BLV, -1)
        conditional_BLV, unconditional_BLV = jnp.split(log_BLV, [B])
        # Excluded ids stay excluded.
        finite_BLV = jnp.maximum(unconditional_BLV, -1e9)
        logits_BLV = (1 + w) * conditional_BLV - w * finite_BLV
        logits_BLV = jnp.where(jnp.isfinite(conditional_BLV), logits_BLV, -jnp.inf)
        # Of the heads, those that have a number for each position.
        heads = {}
        for name, head in output.heads.items():
            if isinstance(head, Array):
                heads[name] = head[:B]
        return Output(Dense(logits_BLV), heads, cache=output.cache)

    return both


def _doubled(canvas: Canvas, blank_BL: Array) -> Canvas:
    """Returns a canvas of twice the rows, the second half with other tokens."""
    layout = jax.tree.map(_twice, canvas.layout)
    cache = canvas.cache
    first = replace(canvas, layout=Layout(), cache=None)
    second = replace(first, z_BL=blank_BL)
    rows = jax.tree.map(_concatenate, first, second)
    if cache is not None:
        slots_BL = _twice(cache.slots_BL)
        cache = replace(
            cache, layout=jax.tree.map(_twice, cache.layout), slots_BL=slots_BL
        )
    return replace(rows, layout=layout, cache=cache)


def _twice(x):
    """Returns the rows twice; a single one stands for all."""
    return jnp.concatenate([x, x]) if x.shape[0] > 1 else x


def _concatenate(*parts):
    return jnp.concatenate(parts)
