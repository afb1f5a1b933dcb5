"""Which keys a query may attend to, as an object with capabilities."""

from typing import Literal, Protocol

import jax

from dlm.core.contracts.canvas import Layout

Pair = Literal[
    "zz", "zx", "xx"
]  # query and key: z is the noised stream, x the clean one
Shift = Literal["none", "input", "output"]


class Visibility(Protocol):
    """Which keys each query may attend to; segments are applied by whoever asks.

    Code tests these capabilities, never the class. An object is a pytree: its spec is static,
    arrays (such as a reach that grows in training) are leaves.
    """

    @property
    def block(self) -> int | None:
        """Number of positions decided together: 1 is autoregressive, None the whole canvas."""

    @property
    def infills(self) -> bool:
        """Whether a position may attend to text after a hole."""

    @property
    def exact_cache(self) -> bool:
        """Whether the keys and values of decided blocks never change."""

    @property
    def streams(self) -> Literal[1, 2]:
        """2: training runs [z ; x], noised and clean tokens, in one pass."""

    @property
    def needs_clean(self) -> bool:
        """Whether sampling needs the clean stream too."""

    @property
    def any_order(self) -> bool:
        """Whether blocks may be decided in any order; True where `block` is None."""

    @property
    def shift(self) -> Shift:
        """'input': position i reads token i − 1; 'output': position i − 1 predicts token i."""

    def allowed(self, query: Layout, key: Layout, pair: Pair) -> jax.Array | None:
        """Returns bool [B or 1, L, M], True where a query may attend to a key; None: everywhere.

        Both layouts are complete. In a pass with one stream each position is of both streams:
        it may attend where 'zz' or 'zx' allows it.
        """
