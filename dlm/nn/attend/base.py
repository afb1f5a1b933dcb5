"""What an attention backend is asked to do, and what it must offer."""

from typing import Any, NamedTuple, Protocol

import jax

from dlm.core.contracts import Layout, Visibility


class Case(NamedTuple):
    """One call of a network: which positions attend to which."""

    visibility: Visibility
    query: Layout  # of the positions that are computed, complete
    key: Layout  # of those that they may attend to, complete; x alone where there are two streams
    streams: int  # 2: queries and keys are [z ; x]


class Backend(Protocol):
    """A way to compute attention."""

    @property
    def rank(self) -> int:
        """Lower goes first; the dense reference has 100."""

    def supports(self, case: Case) -> str | None:
        """Returns None, or the reason why this backend cannot compute the case."""

    def prepare(self, case: Case) -> Any:
        """Returns what all layers share."""

    def attend(
        self,
        q_BLHK: jax.Array,
        k_BMJK: jax.Array,
        v_BMJK: jax.Array,
        prepared: Any,
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
