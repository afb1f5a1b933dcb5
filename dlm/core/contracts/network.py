"""What a network returns, and the parts that it is built from."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dlm.core.pytree import pytree


@pytree
class Output:
    """The result of one call of a network."""

    prediction: Any
    hidden_BLD: Any = None
    carry: Any = None
    cache: Any = None
    heads: Any = None
    aux: Any = None

    def at(self, position_BR: jax.Array) -> "Output":
        """Returns the output at these positions of each row alone.

        A head that is an array has a number for each position.
        """
        heads = None
        if self.heads is not None:
            heads = {name: _taken(head, position_BR) for name, head in self.heads.items()}
        prediction = self.prediction.at(position_BR)
        return Output(prediction, carry=self.carry, cache=self.cache, heads=heads)


def _taken(x, position_BR):
    if isinstance(x, jax.Array):
        return jnp.take_along_axis(x, position_BR, 1)
    return x.at(position_BR)


class Head(Protocol):
    """Another result at each position, beside the prediction; `nn.heads` names its members."""

    def parameters(self, width: int, vocab_size: int) -> int:
        """Counts the parameters that `__call__` makes."""

    def __call__(self, param: Any, hidden_BLD: jax.Array) -> Any:
        """Returns arrays [B, L, …]; `param(name, init, shape)` is the backbone's own."""


class Router(Protocol):
    """Which experts a token passes, and how much each of them counts."""

    def check(self, experts: int, active: int) -> None:
        """Raises ValueError if this rule cannot route to so many experts."""

    def scores(self, logits_TE: jax.Array) -> jax.Array:
        """Returns the scores of all experts for each token, float32_TE."""

    def shares(self, scores_TE: jax.Array, groups: int = 0) -> jax.Array:
        """Returns the scores as a distribution over the experts that compete in the loss."""
