"""The reference: all scores at once, in float32, with a bool mask of who attends to whom.

softmax(scale · q·kᵀ + log allowed) v        (arXiv:1706.03762, eq. 1)
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from dlm.core.contracts import Layout
from dlm.nn.attend.base import Case
from dlm.nn.visibility import compare, in_one_stream

_NEVER = -1e30  # score of a key that is not allowed: finite, so that no row is all −∞


class Streams(NamedTuple):
    """Who attends to whom in a pass of two streams."""

    noised: jax.Array  # bool [B or 1, L, L + M]: z on [z ; x]
    clean: jax.Array | None  # bool [B or 1, L, M]: x on x


Allowed = jax.Array | Streams | None


@dataclass(frozen=True)
class DenseAttention:
    rank: ClassVar[int] = 100

    def supports(self, case: Case) -> None:
        """It supports all."""

    def prepare(self, case: Case) -> Allowed:
        """Returns bool [B or 1, L, M]; None: all is allowed; for two streams, both."""
        visibility, query, key = case.visibility, case.query, case.key
        if case.streams == 1:
            allowed_BLM = in_one_stream(visibility, query, key)
            return _within(allowed_BLM, query, key)
        itself_BLL = _within(visibility.allowed(query, query, "zz"), query, query)
        other_BLM = _within(visibility.allowed(query, key, "zx"), query, key)
        clean_BLM = _within(visibility.allowed(query, key, "xx"), query, key)
        assert itself_BLL is not None and other_BLM is not None, (
            "two streams never see all"
        )
        rows = max(len(itself_BLL), len(other_BLM))
        L, M = other_BLM.shape[1:]
        itself_BLL = jnp.broadcast_to(itself_BLL, (rows, L, L))
        other_BLM = jnp.broadcast_to(other_BLM, (rows, L, M))
        both = jnp.concatenate([itself_BLL, other_BLM], -1)
        return Streams(both, clean_BLM)

    def attend(
        self,
        q_BLHK,
        k_BMJK,
        v_BMJK,
        prepared: Allowed,
        scale: float,
    ) -> jax.Array:
        """Returns the weighted mean of the values for each query, [B, L, H, K].

        Args:
            q_BLHK: queries; those of z come first where there are two streams.
            k_BMJK: keys of J heads, each for H / J adjacent query heads; z first.
            v_BMJK: their values.
            prepared: what `prepare` returned.
            scale: factor of the scores.
        """
        if not isinstance(prepared, Streams):
            return _attend(q_BLHK, k_BMJK, v_BMJK, prepared, scale)
        half = q_BLHK.shape[1] // 2
        noised_BLHK = q_BLHK[:, :half]
        clean_BLHK = q_BLHK[:, half:]
        noised_BLHK = _attend(noised_BLHK, k_BMJK, v_BMJK, prepared.noised, scale)
        # Clean tokens attend to clean tokens alone.
        k_BMJK, v_BMJK = k_BMJK[:, half:], v_BMJK[:, half:]
        clean_BLHK = _attend(clean_BLHK, k_BMJK, v_BMJK, prepared.clean, scale)
        return jnp.concatenate([noised_BLHK, clean_BLHK], 1)


def _attend(q_BLHK, k_BMJK, v_BMJK, allowed_BLM, scale):
    B, L, H, K = q_BLHK.shape
    J = k_BMJK.shape[2]
    R = H // J
    scaled_BLHK = q_BLHK * scale
    q_BLJRK = scaled_BLHK.reshape(B, L, J, R, K)
    scores = jnp.einsum(
        "BLJRK,BMJK->BJRLM", q_BLJRK, k_BMJK, preferred_element_type=jnp.float32
    )
    if allowed_BLM is not None:
        allowed = allowed_BLM[:, None, None]
        scores = jnp.where(allowed, scores, _NEVER)
    weights = jax.nn.softmax(scores, -1)
    weights = weights.astype(v_BMJK.dtype)
    mean_BLJRK = jnp.einsum("BJRLM,BMJK->BLJRK", weights, v_BMJK)
    return mean_BLJRK.reshape(B, L, H, -1)


def _within(
    allowed_BLM: jax.Array | None,
    query: Layout,
    key: Layout,
):
    """Restricts attention to the query's own segment."""
    if query.segments_BL is None:
        return allowed_BLM
    query_BL1, key_B1M = compare(query.segments_BL, key.segments_BL)
    same_BLM = query_BL1 == key_B1M
    return same_BLM if allowed_BLM is None else allowed_BLM & same_BLM
