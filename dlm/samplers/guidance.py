"""Classifier-free guidance: the prompt is heard more than it would be (arXiv:2207.12598; of masked diffusion, 2412.10193, eq. 7).

    log p_w(x_i) = (1 + w) log p(x_i | z, anchors) − w log p(x_i | z) + const

Without the prompt every anchor is a mask. Both are read in one pass of twice the rows; the draw is one.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Logits, Output
from dlm.samplers.rules.base import anchors


def guided(denoise: Callable[..., Output], w: float, vocab) -> Callable[..., Output]:
    """The denoiser with guidance of weight `w`; its cache has twice the rows."""
    if not w:
        return denoise

    def both(canvas: Canvas, *, mask, cache=None) -> Output:
        B = len(canvas.z_BL)
        blank = replace(canvas, z_BL=jnp.where(anchors(canvas), vocab.mask, canvas.z_BL))
        output = denoise(
            jax.tree.map(lambda *rows: jnp.concatenate(rows), canvas, blank),
            mask=mask,
            cache=_doubled_slots(cache),
        )
        conditional_BLV, unconditional_BLV = jnp.split(
            jax.nn.log_softmax(output.prediction.logits_BLV, -1), [B]
        )
        logits_BLV = jnp.where(
            jnp.isfinite(conditional_BLV),
            (1 + w) * conditional_BLV - w * jnp.maximum(unconditional_BLV, -1e9),
            -jnp.inf,
        )

        def first(x):
            return x[:B] if isinstance(x, jax.Array) else None

        heads = (
            None
            if output.heads is None
            else {name: first(head) for name, head in output.heads.items()}
        )
        return Output(Logits(logits_BLV), cache=output.cache, heads=heads)

    return both


def _doubled_slots(cache):
    """The cache, for as many rows again."""
    if cache is None:
        return None
    slots = cache.slots

    def twice(x):
        return jnp.concatenate([x, x]) if x.shape[0] > 1 else x

    row_index_BL, fields = (
        twice(slots.row_index_BL),
        {k: jnp.concatenate([v, v]) for k, v in slots.fields.items()},
    )
    return replace(
        cache,
        slots=replace(
            slots,
            row_index_BL=row_index_BL,
            before_B=jnp.concatenate([slots.before_B] * 2),
            fields=fields,
        ),
    )
