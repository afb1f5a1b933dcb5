"""Which positions a position may see: a static spec, plus the segments of a packed batch, with one dense reference.

full, 1 segment    causal          causal, shift 1        two segments, full
█ █ █ █            █ · · ·         reads token i−1,       █ █ · ·
█ █ █ █            █ █ · ·         predicts token i:      █ █ · ·
█ █ █ █            █ █ █ ·         sees j < i only        · · █ █
█ █ █ █            █ █ █ █                                · · █ █
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Mask:
    """A static attention spec. With `shift` 1 position i reads token i−1 (bos where a segment starts) and predicts token i."""

    kind: Literal["full", "causal"] = "full"
    shift: Literal[0, 1] = 0


def dense(mask: Mask, query_L, memory_M, segments_BL=None, segments_BM=None):
    """bool [B or 1, L, M], True where position query_L may see memory_M; None where everything sees everything."""
    allowed = None
    if mask.kind == "causal":
        allowed = (query_L[:, None] >= memory_M[None, :])[None]
    if segments_BL is not None:
        same = segments_BL[:, :, None] == segments_BM[:, None, :]
        allowed = same if allowed is None else allowed & same
    return allowed


def shifted(z_BL: jax.Array, before_B: jax.Array, bos: int, segments_BL=None) -> jax.Array:
    """What position i reads under shift 1: the token before it, or bos where its segment starts; before_B precedes the slice."""
    previous_BL = jnp.concatenate([before_B[:, None], z_BL[:, :-1]], 1)
    if segments_BL is None:
        return previous_BL
    starts_BL = jnp.concatenate([jnp.zeros_like(segments_BL[:, :1], bool), segments_BL[:, 1:] != segments_BL[:, :-1]], 1)
    return jnp.where(starts_BL, bos, previous_BL)
