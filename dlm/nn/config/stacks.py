"""The order of the layers: groups of layers that one scan computes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # configs are read without JAX
    import jax


@dataclass(frozen=True)
class Stack:
    """Layers that are computed by one scan: `count` times a group of layers.

    `kinds` has an entry for each layer of the group: True with experts, False without.
    """

    name: str
    count: int
    kinds: tuple[bool, ...]

    @property
    def layers(self) -> int:
        """The number of layers."""
        return self.count * len(self.kinds)

    def folded(self, x_N: "jax.Array") -> "jax.Array":
        """Returns arrays along the layers along the steps of the scan, [count, …].

        Where a step has several layers, they are the second axis.
        """
        if len(self.kinds) == 1:
            return x_N
        steps = self.count, len(self.kinds)
        return x_N.reshape(*steps, *x_N.shape[1:])
