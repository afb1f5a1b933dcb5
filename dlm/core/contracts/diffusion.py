"""How tokens are destroyed, and what the reverse of that needs.

Shapes: B rows, L positions, V ids. Times are in [0, 1]: 0 is clean, 1 is all noise.
"""

from typing import Protocol

import jax

from dlm.core.contracts.canvas import Canvas, Layout
from dlm.core.contracts.prediction import Prediction
from dlm.core.pytree import pytree
from dlm.core.vocab import Vocab


@pytree
class Transition:
    """One step of the reverse process, position by position."""

    change_BL: jax.Array  # the probability that the token changes; at least 1: it must
    tokens: Prediction  # the law of the new token, where it does


class Schedule(Protocol):
    """How the probability of destruction grows with time: 0 at t = 0, 1 at t = 1, exactly."""

    def noised(self, t: jax.Array) -> jax.Array:
        """Returns 1 − α(t), without cancellation near 0, at most 1e-3 at t = 1e-6."""

    def time_of(self, noised: jax.Array) -> jax.Array:
        """Returns the time t with 1 − α(t) = noised."""

    def rate(self, t: jax.Array) -> jax.Array:
        """Returns −α'(t)/(1 − α(t))."""


class Process(Protocol):
    """A law q(z_t | x) of noised tokens, position by position."""

    @property
    def vocab(self) -> Vocab:
        """The ids of tokens, mask and padding."""

    @property
    def schedule(self) -> Schedule | None:
        """The schedule that all tokens share; None where each has its own, or there is none."""

    @property
    def final(self) -> bool:
        """Whether a decided token never changes."""

    def undecided(self, z_BL: jax.Array, layout: Layout | None = None) -> jax.Array:
        """Marks the positions still to be filled, bool_BL: the masks, or all if not `final`."""

    def corrupt(
        self,
        key_B: jax.Array,
        x_BL: jax.Array,
        t_BL: jax.Array,
        noisable_BL: jax.Array,
    ) -> jax.Array:
        """Draws z ~ q(z_t | x), ids_BL; positions that are not noisable are kept."""

    def log_q(
        self,
        z_BL: jax.Array,
        t_BL: jax.Array,
        x_BL: jax.Array,
    ) -> jax.Array:
        """Returns log q(z_i | x_i) at each position, nats_BL."""

    def prior(self, key_B: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Draws z ~ q(z_1), ids_BL: nothing is left of x."""

    def open(self, key_B: jax.Array, canvas: Canvas) -> Canvas:
        """Returns the canvas before the first step of sampling."""

    def reverse(
        self,
        prediction: Prediction,
        z_BL: jax.Array,
        t_B: jax.Array,
        s_B: jax.Array,
        sigma_BL: jax.Array | float = 0.0,
    ) -> Transition:
        """Returns p(z_s | z_t), s < t, with the prediction instead of the clean tokens.

        Args:
            prediction: of the clean tokens.
            z_BL: tokens at time t.
            t_B: of each row.
            s_B: the earlier time.
            sigma_BL: the probability that a decided token is masked again in this step.
        """

    def charge(
        self,
        prediction: Prediction,
        x_BL: jax.Array,
        z_BL: jax.Array,
        t_BL: jax.Array,
        scale_BL: jax.Array,
    ) -> jax.Array:
        """Returns scale × the integrand of the bound on −log p(x), nats_BL; 0 where scale is 0.

        Args:
            prediction: of the clean tokens.
            x_BL: clean tokens.
            z_BL: tokens at time t.
            t_BL: of each position.
            scale_BL: factor, such as the importance weight of the time.
        """
