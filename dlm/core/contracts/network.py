"""What a network returns, and the parts that it is built from."""

from collections.abc import Callable
from dataclasses import field
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dlm.core.contracts.canvas import Cache, Canvas
from dlm.core.contracts.prediction import Prediction
from dlm.core.pytree import pytree

# Sums over the tokens of a pass for each layer with experts, by name (`nn.experts`): load_NZE,
# entropy_NZ, dropped_NZ, tokens_NZ, together_NZEE, with N layers, Z buckets of the mask ratio.
Routing = dict[str, jax.Array]


@pytree
class Output:
    """The result of one call of a network."""

    prediction: Prediction
    # By the name of the head's file; the backbone adds `mtp`, a tuple of predictions from further
    # back, and `clean`, the prediction of the clean stream.
    heads: dict[str, Any] = field(default_factory=dict)
    hidden_BLD: jax.Array | None = None
    cache: Cache | None = None  # with the keys and values of this pass
    routing: Routing | None = None

    def gather(self, position_BR: jax.Array) -> "Output":
        """Returns prediction and heads at these positions of each row alone."""

        def take(head):
            if isinstance(head, tuple):
                return tuple(map(take, head))
            if isinstance(head, jax.Array):
                return jnp.take_along_axis(head, position_BR, 1)
            return head.gather(position_BR)

        heads = {name: take(head) for name, head in self.heads.items()}
        return Output(self.prediction.gather(position_BR), heads, cache=self.cache)


# The only way to call a network: in training, sampling, evaluation and exact worlds.
Net = Callable[[Canvas], Output]


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
