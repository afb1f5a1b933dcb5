"""Sums and exchanges between the devices of a mesh, for code that runs on each of them."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class DeviceAxes:
    """The axes of a mesh, or none of them on one device."""

    mesh: jax.sharding.Mesh | None

    def size(self, axis: str) -> int:
        """Returns the number of devices along an axis."""
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def sum(self, x: jax.Array, over: tuple[str, ...]):
        """Returns the sum over the devices along these axes."""
        if self.mesh is None or not over:
            return x
        return jax.lax.psum(x, over)

    def sum_widths(self, y_TD: jax.Array) -> jax.Array:
        """Returns the sum over the parts of the experts' width."""
        if self.size("tensor") == 1:
            return y_TD
        return jax.lax.psum(y_TD, "tensor")

    def gather(self, x: jax.Array) -> jax.Array:
        """Returns the rows of all devices of an expert-parallel group."""
        return jax.lax.all_gather(x, "expert", tiled=True)
