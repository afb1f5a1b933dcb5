"""The dimensions of layers with experts. No JAX here."""

from dataclasses import dataclass
from typing import Any, Literal

from dlm.core.config import member

Backend = Literal["loop", "blocks", "ragged", "tokamax"]


@dataclass(frozen=True)
class Experts:
    """Several small feed-forward layers instead of a large one.

    A router picks `per_token` of `count` experts for each token; `shared` further ones compute
    every token. All are of the kind of `nn.ffn`. The first `first_dense` layers are dense; of the
    others each `period`-th has experts.
    """

    count: int = 0  # E; 0: every feed-forward layer is dense
    # K, experts of each token; their mean where experts choose.
    per_token: int = 8
    width: int = 128  # F of one expert
    shared: int = 0  # computed as one dense layer of shared × width
    first_dense: int = 0
    period: int = 1
    router: Any = member("nn.routers", "moge")
    # How the same sums are computed (`nn.expert_matmul`).
    backend: Backend = "blocks"
    # Rows of every expert that 'blocks' computes first; 0: chosen for the loads of a fair router.
    block: int = 0

    def __post_init__(self):
        from_zero = self.count, self.shared, self.first_dense, self.block
        if min(from_zero) < 0 or min(self.width, self.period) < 1:
            rule = "count, shared, first_dense and block must not be negative"
            raise ValueError(f"experts: {rule}, width and period at least 1")
        if self.count:
            self.router.check(self.count, self.per_token)

    def fit(self, expert: int, tensor: int) -> None:
        """Checks that the experts and their widths can be divided over so many devices.

        Raises ValueError otherwise: a device holds whole groups, else loads would differ.
        """
        parts, name = self.count, "nn.experts.count"
        if self.router.even:
            parts, name = self.router.groups, "nn.experts.router.groups"
        if parts % expert:
            cause = "a device holds whole groups, else loads would differ"
            raise ValueError(
                f"mesh.expert={expert} must divide {name}={parts}: {cause}"
            )
        if self.width % tensor or self.shared * self.width % tensor:
            raise ValueError(
                f"mesh.tensor={tensor} must divide nn.experts.width={self.width}"
            )
