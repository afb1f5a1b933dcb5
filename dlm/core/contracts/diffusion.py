"""How tokens are destroyed, and what the reverse of that needs.

Shapes: B rows, L positions, V ids. Times are in [0, 1]: 0 is clean, 1 is all noise.
"""

from typing import Protocol

import jax

from dlm.core.contracts.canvas import Layout
from dlm.core.contracts.prediction import Prediction
from dlm.core.vocab import Vocab


class Process(Protocol):
    """A law q(z_t | x) of noised tokens, position by position."""

    @property
    def vocab(self) -> Vocab:
        """The ids of tokens, mask and padding."""

    @property
    def final(self) -> bool:
        """Whether a decided token never changes."""

    def undecided(self, z_BL: jax.Array, layout: Layout | None = None) -> jax.Array:
        """Marks the positions still to be filled, bool_BL: the masks, or all if not `final`."""

    def corrupt(
        self, key_B: jax.Array, x_BL: jax.Array, t_BL: jax.Array, noisable_BL: jax.Array
    ) -> jax.Array:
        """Draws z ~ q(z_t | x), ids_BL; positions that are not noisable are kept."""

    def log_q(self, z_BL: jax.Array, t_BL: jax.Array, x_BL: jax.Array) -> jax.Array:
        """Returns log q(z_i | x_i) at each position, nats_BL."""

    def reverse(
        self, prediction: Prediction, z_BL: jax.Array, t_B: jax.Array, s_B: jax.Array
    ) -> jax.Array:
        """Returns p(z_s | z_t) of each position, probs_BLV, with the prediction as x."""
