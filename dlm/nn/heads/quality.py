"""The log-odds that the token at a position is right: silu(h W) · w (PRISM, arXiv:2510.01384).

`objectives.prism` trains it and `samplers.remask.prism` uses it. No JAX before a call.
"""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Quality:
    """A hidden layer, then one number for each position; it starts at 0."""

    HIDDEN: ClassVar[int] = 128

    def parameters(self, width: int, vocab_size: int) -> int:
        """Counts the parameters that a call makes."""
        return (width + 1) * self.HIDDEN

    def __call__(self, param: Any, hidden_BLD: Any) -> Any:
        """Returns the log-odds, float32_BL; `param(name, init, shape)` is the backbone's own."""
        import jax
        import jax.numpy as jnp

        D, W = hidden_BLD.shape[-1], self.HIDDEN
        normal = jax.nn.initializers.normal(D**-0.5)
        zeros = jax.nn.initializers.zeros
        weight_DW = param("quality_DW", normal, (D, W))
        weight_W = param("quality_W", zeros, (W,))
        # Log-odds are float32 at any precision of activations.
        h_BLW = jax.nn.silu(hidden_BLD @ weight_DW.astype(hidden_BLD.dtype))
        return h_BLW.astype(jnp.float32) @ weight_W
