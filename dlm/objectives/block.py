"""Block diffusion: autoregression over blocks, masked diffusion inside each (BD3-LM, arXiv:2503.09573, eq. 3–5).

    −log p(x) ≤ Σ_b E_t E_{z^b ~ q(z_t | x^b)} [ w(t) Σ_{i masked in b} −log p(x_i | z^b, x^{<b}) ]

One pass over [z ; x] gives all blocks their clean past (`nn.visibility`), each with a time of its own. Block size 1 has autoregression's
likelihood, exactly where the number of masks is fixed (`pattern="count"`); the size of the sequence gives masked diffusion.

`clip=(β, ω)` trains at times from β to ω only, which scatters less (section 5 of the paper); what is reported has all of them.
`context="causal"` lets clean tokens see only what is before them, so that the clean stream is an autoregressive model of its own, trained
with the weight `auxiliary` beside the rest; `grow` starts with blocks of 1 and doubles them until, after that share of the run, they
have their size (NB-Diff, arXiv:2512.06776).
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from dlm.core.contracts import Batch, Output
from dlm.nn.visibility import block
from dlm.objectives.base import LONGEST
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Block(Masked):
    size: int = 16  # positions of a block
    clip: tuple[float, ...] = (0.0, 1.0)  # the times of training
    context: Literal["block", "causal"] = "block"
    auxiliary: float = 0.0  # weight of the clean stream's next-token loss
    block_warmup: float = 0.0  # share of the run after which blocks have grown to their size; 0: they have it from the start

    def __post_init__(self):
        super().__post_init__()
        if self.times == "importance":
            raise ValueError(
                "times='importance' is for sequences with one time, and every block has its own: use times='stratified'"
            )
        if not 1 <= self.size <= LONGEST:
            raise ValueError(f"size={self.size} must be from 1 to {LONGEST}")
        if len(self.clip) != 2 or not 0 <= self.clip[0] < self.clip[1] <= 1:
            raise ValueError(f"clip={self.clip} must be two times, 0 <= first < second <= 1")
        if self.clip != (0.0, 1.0) and (self.steps or self.coupling != "single"):
            raise ValueError(
                f"clip={self.clip} needs steps=0 and coupling='single': a complement or a grid has times outside of it"
            )
        if self.weights == "context":
            raise ValueError(
                "weights='context' counts kept tokens on both sides, and a block does not see what follows: use bound or flat"
            )
        if self.auxiliary < 0 or not 0 <= self.block_warmup <= 1:
            raise ValueError(
                f"auxiliary={self.auxiliary} must not be negative, and block_warmup={self.block_warmup} must be in [0, 1]"
            )
        if self.auxiliary and self.context != "causal":
            raise ValueError(
                f"auxiliary={self.auxiliary} needs context='causal': a clean stream that sees its own block knows the answer"
            )

    @property
    def claims(self) -> str:
        return "exact" if self.size == 1 and self.pattern == "count" else "bound"

    @property
    def loss_claims(self) -> str:
        return (
            super().loss_claims
            if self.clip == (0.0, 1.0) and not self.auxiliary and not self.block_warmup
            else "heuristic"
        )

    @property
    def visibility(self) -> block.Block:
        """Each block from its own noised tokens and from earlier clean ones."""
        return block.Block(self.size, self.context)

    @property
    def token_passes(self) -> int:
        return 2 * super().token_passes

    def groups(self, batch: Batch) -> jax.Array:
        """The number of each position's block."""
        layout = batch.layout.complete(batch.tokens_BL.shape[1])
        number_BL = block.numbers(self._size_now(batch), layout)
        return jnp.broadcast_to(number_BL, batch.tokens_BL.shape)

    def _size_now(self, batch: Batch):
        progress_B1 = batch.progress_B1
        if progress_B1 is None or not self.block_warmup:
            return self.size
        doublings = jnp.floor(progress_B1 / self.block_warmup * (math.log2(self.size) + 1))
        return jnp.clip(2**doublings, 1, self.size).astype(int)

    def parts(self, batch: Batch) -> int:
        length = batch.tokens_BL.shape[1]
        return length if self.block_warmup else -(-length // self.size)

    def at(self, u_BP, batch: Batch):
        part_BL = self.groups(batch) // self._size_now(batch)
        return super().at(jnp.take_along_axis(u_BP, part_BL, 1), batch)

    def draw_times(self, batch: Batch, key: jax.Array):
        t_BL, density_BL = super().draw_times(batch, key)
        first, last = self.clip
        return first + (last - first) * t_BL, density_BL

    def read(self, net, batch: Batch, z_BL, t_BL) -> Output:
        streams = dict(clean_BL=batch.tokens_BL, block_BL=self.groups(batch))
        return net(self.canvas(batch, z_BL, t_BL, **streams))

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key):
        t_BL = self.network_time(batch, z_BL, t_BL)
        output = self.read(net, batch, z_BL, t_BL)
        nats_BL = self.weighted_nats(self.weights, output, batch, z_BL, t_BL)
        return (
            nats_BL + self.auxiliary * _next(output.heads["clean"], batch)
            if self.auxiliary
            else nats_BL
        )


def _next(prediction, batch: Batch) -> jax.Array:
    """−log p(x_{i+1} | x_{≤i}) at i, 0 where a segment ends."""
    positions_BL = batch.layout.complete(batch.tokens_BL.shape[1]).positions_BL
    follows_BL = jnp.roll(positions_BL, -1, 1) == positions_BL + 1
    weights_BL = jnp.where(follows_BL, jnp.roll(batch.weights_BL, -1, 1), 0.0)
    return jnp.where(
        weights_BL > 0, -weights_BL * prediction.log_prob(jnp.roll(batch.tokens_BL, -1, 1)), 0.0
    )
