"""The layer of experts: y = Σ_i G_i(x) E_i(x) + shared(x), over any mesh.

Source: arXiv:2505.21411, eq. 3; ours are the shapes and the sums. This module makes the parameters,
`nn.expert_layer` computes. Router losses reach the gradient through `add_aux_gradient` and are part
of no reported number.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.core.contracts import Routing
from dlm.nn import config, ffn
from dlm.nn.config import Kind
from dlm.nn.expert_layer import ExpertLayer


class Experts(nn.Module):
    """The experts of one layer, with their router."""

    config: config.Experts
    kind: Kind  # of the feed-forward layers
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        valid_BL: jax.Array,
        ratio_B: jax.Array,
        share: float = 1.0,
    ) -> tuple[jax.Array, Routing]:
        """Returns y_BLD, and sums over the batch of which expert computed what.

        Args:
            x_BLD: inputs.
            valid_BL: no expert computes a position that is not valid.
            ratio_B: the share of each row that is masked.
            share: factor of the router's losses, where a canvas is read more than once.
        """
        c = self.config
        # Experts that are divided unevenly would compute each other's tokens.
        if self.mesh is not None:
            sizes = self.mesh.shape
            c.fit(sizes["expert"], sizes["tensor"])
        mesh = self.mesh
        if mesh is not None and mesh.size == 1:
            mesh = None
        layer = ExpertLayer(c, self.kind, mesh)
        ratio_B1 = ratio_B[:, None].astype(jnp.float32)
        ratio_BL = jnp.broadcast_to(ratio_B1, x_BLD.shape[:2])

        # The order in which parameters are created seeds them.
        routing = self._routing()
        matrices = self._matrices(x_BLD.dtype)
        rows = x_BLD, valid_BL, ratio_BL
        y_BLD, routed, penalty = layer(*rows, routing, matrices)
        y_BLD = add_aux_gradient(y_BLD, share * penalty)
        if c.shared:
            width = c.shared * c.width
            wide = config.FFN(self.kind, width)
            settings = wide, self.width, self.layers
            shared = ffn.FeedForward(*settings, name="shared")
            y_BLD += shared(x_BLD)
        return y_BLD, routed

    def _routing(self) -> dict[str, jax.Array]:
        """Returns the router's parameters: its matrix, factors and biases of experts."""
        router = self.config.router
        G = router.groups
        X = self.config.count // G
        normal = nn.initializers.normal(self.width**-0.5)
        shape = self.width, G, X
        params = {"router_DGX": self.param("router_DGX", normal, shape)}
        if router.scale == "learned":
            start = nn.initializers.constant(_start(self.config))
            params["scale_GX"] = self.param("scale_GX", start, (G, X))
        if router.bias:
            zeros = nn.initializers.zeros
            params["bias_GX"] = self.param("bias_GX", zeros, (G, X))
        return params

    def _matrices(self, dtype: jnp.dtype) -> dict[str, jax.Array]:
        """Returns the matrices of all experts, in the dtype of the activations."""
        D = self.width
        E, F = self.config.count, self.config.width
        # The output starts smaller in a deeper network.
        inward = nn.initializers.normal(D**-0.5)
        size = 2 * self.layers * F
        outward = nn.initializers.normal(size**-0.5)
        names = ["up_EDF"]
        if self.kind == "swiglu":
            names.append("gate_EDF")
        matrices = {}
        for name in names:
            matrices[name] = self.param(name, inward, (E, D, F))
        matrices["down_EFD"] = self.param("down_EFD", outward, (E, F, D))
        return {name: w.astype(dtype) for name, w in matrices.items()}


def _start(c: config.Experts) -> float:
    """Returns the factor that makes the weights of an undecided router sum to 1."""
    if c.router.weights == "renormalised":
        return 1.0
    # An undecided softmax gives each expert 1/E, a sigmoid gives it 1/2.
    if c.router.score == "softmax":
        return c.count / c.per_token
    return 2 / c.per_token


@jax.custom_vjp
def add_aux_gradient(y: jax.Array, penalty: jax.Array) -> jax.Array:
    """Returns y unchanged, and adds the gradient of `penalty` to that of whatever y is used for."""
    return y


def _aux_fwd(y, penalty):
    return y, penalty


def _aux_bwd(penalty, dy):
    return dy, jnp.ones_like(penalty)


add_aux_gradient.defvjp(_aux_fwd, _aux_bwd)
