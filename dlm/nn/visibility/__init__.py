"""Which positions a position may attend to: one pattern per file, with its capabilities.

full, 1 segment    causal          causal, shifted        two segments, full     block, size 2
█ █ █ █            █ · · ·         reads token i−1,       █ █ · ·                █ █ · ·
█ █ █ █            █ █ · ·         predicts token i:      █ █ · ·                █ █ · ·
█ █ █ █            █ █ █ ·         sees j < i only        · · █ █                █ █ █ █
█ █ █ █            █ █ █ █                                · · █ █                █ █ █ █

Two streams: where a canvas has clean tokens too (`clean_BL`), a network reads [z ; x] at once, so
that every block is predicted from its own noised tokens and from clean earlier ones in one pass
(BD3-LM, arXiv:2503.09573, figure 3):

             z        x        block, size 2                   partition
    z     █ █ · ·  · · · ·     z attends to its block of z,     z_i attends to itself (a mask) and
          █ █ · ·  · · · ·     and to the blocks of x before    to the other group of x, x to its
          · · █ █  █ █ · ·                                      own group (PGM, arXiv:2505.18883)
          · · █ █  █ █ · ·
    x     · · · ·  █ █ · ·     x attends to the blocks up to its own; with context='causal' to the
          · · · ·  █ █ · ·     tokens up to itself (NB-Diff, arXiv:2512.06776)
          · · · ·  █ █ █ █
          · · · ·  █ █ █ █
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Layout, Visibility


def is_autoregressive(visibility: Visibility) -> bool:
    """Says whether each position is predicted from all before it, in one stream."""
    return visibility.block == 1 and visibility.streams == 1


def sees_all(visibility: Visibility) -> bool:
    """Says whether every position may attend to the whole canvas, in one stream."""
    return visibility.block is None and visibility.streams == 1


def in_one_stream(
    visibility: Visibility, query: Layout, key: Layout
) -> jax.Array | None:
    """Returns which keys a query may attend to where clean and noised tokens share a stream.

    Such a position is of both streams: what z sees of z, and what z sees of x.
    """
    noised_BLM = visibility.allowed(query, key, "zz")
    clean_BLM = visibility.allowed(query, key, "zx")
    if noised_BLM is None or clean_BLM is None:
        return None
    return noised_BLM | clean_BLM


def two_streams(canvas: Canvas, mask: int) -> Canvas:
    """Completes a canvas for a pass over [z ; x]: where it has no clean tokens, z stands for them.

    Where groups predict each other, all tokens are in x, and z is nothing but masks.
    """
    z_BL = canvas.z_BL
    clean_BL = z_BL if canvas.clean_BL is None else canvas.clean_BL
    if canvas.visibility.block is not None:
        return replace(canvas, clean_BL=clean_BL)
    group_BL = canvas.layout.block_BL
    layout = replace(
        canvas.layout, block_BL=z_BL == mask if group_BL is None else group_BL
    )
    return replace(
        canvas, z_BL=jnp.full_like(z_BL, mask), clean_BL=clean_BL, layout=layout
    )


def compare(
    query_BL: jax.Array | None, key_BM: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns both numbers along their own axes, [B, L, 1] and [B, 1, M]."""
    assert query_BL is not None and key_BM is not None, "the layouts must be complete"
    return query_BL[:, :, None], key_BM[:, None, :]
