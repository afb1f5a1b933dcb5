"""Block diffusion: autoregression over blocks, masked diffusion inside each.

    −log p(x) ≤ Σ_b E_t E_{z^b ~ q(z_t | x^b)} [ w(t) Σ_{i masked in b} −log p(x_i | z^b, x^{<b}) ]

(BD3-LM, arXiv:2503.09573, eq. 3–5.) One pass over [z ; x] gives all blocks their clean past
(`nn.visibility`), each with a time of its own. Block size 1 has autoregression's likelihood,
exactly where the number of masks is fixed (`pattern="count"`); the size of the sequence gives
masked diffusion.

`clip=(β, ω)` trains at times from β to ω only, which reduces the variance (section 5 of the
paper); what is reported has all of them. With `context="causal"` clean tokens attend only to what
precedes them, so that the clean stream is an autoregressive model of its own, trained with the
weight `auxiliary` beside the rest. `block_warmup` starts with blocks of 1 and doubles them until,
after that share of the run, they have their size (NB-Diff, arXiv:2512.06776).
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import (
    Batch,
    Canvas,
    Claim,
    Models,
    Output,
    Prediction,
    Routing,
)
from dlm.nn.visibility import block
from dlm.noise import time_sampling
from dlm.objectives.base import LONGEST, is_over
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Block(Masked):
    """Predicts the masks of a block from the rest of the block and from earlier blocks."""

    # Positions of a block.
    size: int = 16
    # The first and the last time of training.
    clip: tuple[float, ...] = (0.0, 1.0)
    # What clean tokens attend to: their block and earlier ones, or earlier tokens.
    context: Literal["block", "causal"] = "block"
    # Weight of the clean stream's next-token loss.
    auxiliary: float = 0.0
    # Share of the run after which blocks have their size; 0: from the start.
    block_warmup: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.times == "importance":
            reason = "is for sequences with one time, and every block has its own"
            raise ValueError(f"times='importance' {reason}: use times='stratified'")
        if not 1 <= self.size <= LONGEST:
            raise ValueError(f"size={self.size} must be from 1 to {LONGEST}")
        if len(self.clip) != 2 or not 0 <= self.clip[0] < self.clip[1] <= 1:
            raise ValueError(
                f"clip={self.clip} must be two times, 0 <= first < second <= 1"
            )
        if self._clips and (self.steps or self.coupling != "single"):
            reason = "a complement or a grid has times outside of it"
            raise ValueError(
                f"clip={self.clip} needs steps=0 and coupling='single': {reason}"
            )
        if self.weights == "context":
            reason = "counts kept tokens on both sides, and a block does not see what follows"
            raise ValueError(f"weights='context' {reason}: use bound or flat")
        if self.auxiliary < 0 or not 0 <= self.block_warmup <= 1:
            weight = f"auxiliary={self.auxiliary} must not be negative"
            warmup = f"block_warmup={self.block_warmup} must be in [0, 1]"
            raise ValueError(f"{weight}, and {warmup}")
        if self.auxiliary and self.context != "causal":
            reason = "a clean stream that sees its own block knows the answer"
            raise ValueError(
                f"auxiliary={self.auxiliary} needs context='causal': {reason}"
            )

    @property
    def _clips(self) -> bool:
        return self.clip != (0.0, 1.0)

    @property
    def claims(self) -> Claim:
        """Blocks of one with a fixed number of masks are autoregression."""
        return "exact" if self.size == 1 and self.pattern == "count" else "bound"

    @property
    def loss_claims(self) -> Claim:
        """Other times, another stream and smaller blocks change the loss."""
        if self._clips or self.auxiliary or self.block_warmup:
            return "heuristic"
        return super().loss_claims

    @property
    def visibility(self) -> block.Block:
        """Each block attends to its own noised tokens and to earlier clean ones."""
        return block.Block(self.size, self.context)

    @property
    def token_passes(self) -> float:
        """Two streams."""
        return 2 * super().token_passes

    # ---------------------------------------------------------------------------------- loss

    def view_nats(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        z_BL: Array,
        t_BL: Array,
    ) -> tuple[Array, Routing | None]:
        """Returns the cost of one noised view and of the clean stream.

        Args: as in `Masked.view_nats`.
        """
        if not self.auxiliary:
            return super().view_nats(models, batch, key, z_BL, t_BL)
        network_time_BL = self.network_time(batch, z_BL, t_BL, models.progress)
        # One pass serves both streams.
        output = self.read(models, batch, z_BL, network_time_BL)
        nats_BL = self.nats(
            self.weights, output.prediction, batch, z_BL, t_BL, models.progress
        )
        return nats_BL + self.auxiliary * _next(
            output.heads["clean"], batch
        ), output.routing

    def read(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Output:
        """Returns the network's output for [z ; x]."""
        # Early in training blocks are smaller than those of the visibility.
        blocks_BL = self.count_groups(batch, models.progress)
        streams = dict(clean_BL=batch.tokens_BL, block_BL=blocks_BL)
        return models.student(Canvas.of(batch, z_BL, t_BL, self.visibility, **streams))

    # ---------------------------------------------------------------------- blocks and times

    def draw_times(
        self,
        models: Models,
        batch: Batch,
        key: Array,
    ) -> tuple[Array, Array]:
        """Returns (t_BL, density_BL), a time for each block, inside of `clip`."""
        # Blocks are independent of each other, so each has a time of its own.
        part_BL = self._parts(batch, models.progress)
        u_BL, density_BL = time_sampling.draw(self.times, batch, key, part_BL=part_BL)
        first, last = self.clip
        return first + (last - first) * self.times_from_uniform(u_BL), density_BL

    def bound_times(
        self,
        batch: Batch,
        key: Array,
        stratum,
        strata: int,
    ) -> Array:
        """Returns t_BL of the bound, a time for each block."""
        part_BL = self._parts(batch, 1.0)
        u_BL, _ = time_sampling.draw("iid", batch, key, part_BL=part_BL)
        return self.times_from_uniform((stratum + u_BL) / strata)

    def count_groups(self, batch: Batch, progress: Array | float = 1.0) -> Array:
        """Returns the number of each position's block."""
        # Blocks are counted from the start of each segment.
        layout = batch.layout.complete(batch.tokens_BL.shape[1])
        number_BL = block.numbers(self._size_at(progress), layout)
        return jnp.broadcast_to(number_BL, batch.tokens_BL.shape)

    def _parts(self, batch: Batch, progress: Array | float) -> Array:
        """Returns a small number for each block, which the time of the block is drawn for."""
        return self.count_groups(batch, progress) // self._size_at(progress)

    def _size_at(self, progress: Array | float) -> Array | int:
        """Returns the size of a block after a share of the updates."""
        if is_over(self.block_warmup, progress):
            return self.size
        # From 1 to the size, each doubling after an equal share of the warm-up.
        doublings = jnp.floor(progress / self.block_warmup * (math.log2(self.size) + 1))
        return jnp.clip(2**doublings, 1, self.size).astype(int)


def _next(prediction: Prediction, batch: Batch) -> Array:
    """Returns −log p(x_{i+1} | x_{≤i}) at i, 0 where a segment ends."""
    positions_BL = batch.layout.complete(batch.tokens_BL.shape[1]).positions_BL
    assert positions_BL is not None
    follows_BL = jnp.roll(positions_BL, -1, 1) == positions_BL + 1
    # The weight is that of the token that is predicted.
    weights_BL = jnp.where(follows_BL, jnp.roll(batch.weights_BL, -1, 1), 0.0)
    log_prob_BL = prediction.log_prob(jnp.roll(batch.tokens_BL, -1, 1))
    return jnp.where(weights_BL > 0, -weights_BL * log_prob_BL, 0.0)
