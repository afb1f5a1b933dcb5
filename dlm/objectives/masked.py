"""Masked diffusion: the negative evidence bound of absorbing noise.

    −log p(x) ≤ E_t E_{z ~ q(z_t|x)} [ w(t) Σ_{i masked} −log p(x_i | z) ],      t ~ U(0, 1)
    continuous time   w(t) = −α'(t)/(1 − α(t)), which is 1/t for the linear schedule
    T steps           t ∈ {1/T, …, 1}, s = t − 1/T,  w = T (α_s − α_t)/(1 − α_t)
    fixed count       k ~ U{1, …, n} positions of n are masked,  w = n/k  (`pattern="count"`;
                      the bound of any-order autoregression)

(MDLM, arXiv:2406.07524, eq. 10; MD4, arXiv:2406.04329, eq. 4.) With α(0) = 1 and α(1) = 0 there
are no further terms. The sum is over masked positions and is never divided by their number.

`coupling="complementary"` reads each sequence twice, through a mask and through its complement,
so that every token is predicted once (arXiv:2505.16839, with the bound's own weights). Under the
linear schedule the complement of a mask drawn at t is one drawn at 1 − t, that of k masks one of
n − k, and the mean of both has the bound as its mean. (The complement of n masks would be none;
it is n again.)

`weights` are those of training: the bound's; `flat`, 1 at every masked position; `context`, more
where kept tokens are near (CART in Dream, arXiv:2508.15487: ½ Σ_{j kept} p(1 − p)^(|i−j|−1)).
With the latter two the loss is no estimate of the bound, which is still what is reported.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.config import member
from dlm.core.contracts import Batch, Claim, Loss, Models, Prediction, Routing
from dlm.noise import fixed_count
from dlm.noise.mask import MaskNoise
from dlm.noise.schedules.linear import Linear
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import LONGEST, SMALLEST, Diffusion, mean_of, scale

_NEAR = 0.3  # p of the geometric law in `context`

Weights = Literal["bound", "flat", "context"]


@dataclass(frozen=True)
class Masked(Diffusion):
    """Predicts masked tokens from all others."""

    # How tokens are destroyed; it must leave masks.
    process: Any = member("noise", "mask")
    # How the times of a batch are drawn.
    times: Kind = "stratified"
    # Whether each position is masked alone, or a fixed number of them.
    pattern: Literal["bernoulli", "count"] = "bernoulli"
    # One view of each sequence, or a mask and its complement in twice the passes.
    coupling: Literal["single", "complementary"] = "single"
    # Those of training.
    weights: Weights = "bound"
    # Number of times of the discretised bound; 0 is continuous time.
    steps: int = 0

    def __post_init__(self):
        if not 0 <= self.steps <= LONGEST:
            need = f"must be 0 (continuous time) or positive, up to {LONGEST}"
            raise ValueError(f"steps={self.steps} {need}")
        if not self.process.final:
            name = type(self.process).__module__.removeprefix("dlm.")
            need = "it needs noise.mask, or objective.name='objectives.hybrid'"
            raise ValueError(f"process.name={name!r} leaves no masks: {need}")
        # What counts masks, or takes complements, needs the linear schedule.
        plain = not self.steps and self.process.schedule == Linear()
        need = "needs steps=0 and process.schedule='linear'"
        if self.coupling == "complementary" and not plain:
            reason = "where a complement has a time, 1 − t"
            raise ValueError(f"coupling='complementary' {need}, {reason}")
        if self.times == "importance" and self.steps:
            raise ValueError(
                f"times='importance' needs continuous time, not steps={self.steps}"
            )
        if self.pattern == "count" and not plain:
            reason = "a number of masks has no other schedule"
            raise ValueError(f"pattern='count' {need}: {reason}")

    @property
    def token_passes(self) -> float:
        """One for each view of a sequence."""
        return 1 if self.coupling == "single" else 2

    @property
    def loss_claims(self) -> Claim:
        """Only the bound's own weights estimate the bound."""
        return self.claims if self.weights == "bound" else "heuristic"

    @property
    def fills_masks(self) -> bool:
        """The network predicts all masks at once."""
        return True

    def counted(self) -> "Masked":
        """Returns the objective with a fixed number of masks; a grid of times is another bound.

        In continuous time each schedule gives every number of masks the same weight, so none is
        needed.
        """
        if self.steps:
            return self
        # Under any other schedule a count would not be uniform.
        return replace(self, process=MaskNoise(vocab=self.vocab), pattern="count")

    # ----------------------------------------------------------------------------------- loss

    def loss(self, models: Models, batch: Batch, key: Array) -> Loss:
        """Returns the loss of one view of each sequence, or the mean of two."""
        # 1. One time for each sequence, spread evenly over the global batch.
        t_BL, density_BL = self.draw_times(models, batch, key)
        # 2. Destroy tokens. A sample's noise depends on its number and the step alone.
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        if self.pattern == "count":
            z_BL = self.mask_count(key_B, batch, t_BL, models.progress)
        else:
            z_BL = self.process.corrupt(key_B, batch.tokens_BL, t_BL, batch.noisable_BL)
        # 3. Predict them, and charge what the masked positions cost.
        nats_BL, routing = self.view_nats(
            models, batch, keys.key(key, "view", 0), z_BL, t_BL
        )
        masked_BL = self.process.undecided(z_BL, batch.layout)
        loss = self.sums(batch, nats_BL, masked_BL, (t_BL, density_BL), routing)
        if self.coupling == "single":
            return loss
        # 4. The same for the complement: that of a mask drawn at t is one drawn at 1 − t.
        t_BL = jnp.maximum(1 - t_BL, SMALLEST)
        z_BL = self.complement(batch, z_BL, models.progress)
        nats_BL, routing = self.view_nats(
            models, batch, keys.key(key, "view", 1), z_BL, t_BL
        )
        masked_BL = self.process.undecided(z_BL, batch.layout)
        return mean_of(
            [loss, self.sums(batch, nats_BL, masked_BL, (t_BL, density_BL), routing)]
        )

    def view_nats(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        z_BL: Array,
        t_BL: Array,
    ) -> tuple[Array, Routing | None]:
        """Returns the cost of one noised view in training, nats_BL, and its routing statistics.

        Args:
          models: the network.
          batch: the clean sequences.
          key: for what members draw from predictions.
          z_BL: the noised sequences.
          t_BL: their times.
        """
        del key
        # Where masks are counted the network is given their share.
        network_time_BL = t_BL
        if self.pattern == "count":
            network_time_BL = self.network_time(batch, z_BL, t_BL, models.progress)
        output = self.read(models, batch, z_BL, network_time_BL)
        # Padding and prompts have weight 0.
        nats_BL = self.nats(
            self.weights, output.prediction, batch, z_BL, t_BL, models.progress
        )
        return nats_BL, output.routing

    def nats(
        self,
        weights: Weights,
        prediction: Prediction,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
        progress: Array | float = 1.0,
    ) -> Array:
        """Returns the weighted cross-entropy at masked positions, nats_BL.

        Args:
          weights: those of the bound, or others of training.
          prediction: the network's law of the clean tokens.
          batch: the clean sequences.
          z_BL: the noised sequences.
          t_BL: their times.
          progress: fraction of the updates done, on which blocks may depend.
        """
        if weights == "bound" and self.pattern == "bernoulli" and not self.steps:
            return self.process.charge(
                prediction, batch.tokens_BL, z_BL, t_BL, scale(batch)
            )
        weight_BL = self._weight(weights, batch, z_BL, t_BL, progress)
        x_BL, scale_BL = batch.tokens_BL, scale(batch)
        return self.process.cross_entropy(prediction, x_BL, z_BL, weight_BL, scale_BL)

    def _weight(
        self,
        weights: Weights,
        batch: Batch,
        z_BL,
        t_BL,
        progress,
    ):
        """Returns w(t), where it is not the rate of the schedule."""
        # Weights of training that are not the bound's.
        if weights == "flat":
            return 1.0
        if weights == "context":
            return _context_weight(batch, self.process.undecided(z_BL, batch.layout))
        # n/k of the group.
        if self.pattern == "count":
            masked_count_BL = self.masked_count(batch, z_BL, progress)
            return self.noisable_count(batch, progress) / jnp.maximum(
                masked_count_BL, 1
            )
        # T times the probability that a mask is revealed in one step of the grid.
        return self.steps * self.process.reveal_prob(t_BL, t_BL - 1 / self.steps)

    def bound_nats(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns w(t)·(−log p(x_i | z)) at masked positions, 0 elsewhere, nats_BL."""
        network_time_BL = self.network_time(batch, z_BL, t_BL, models.progress)
        prediction = self.read(models, batch, z_BL, network_time_BL).prediction
        return self.nats("bound", prediction, batch, z_BL, t_BL, models.progress)

    def network_time(
        self,
        batch: Batch,
        z_BL,
        t_BL,
        progress: Array | float = 1.0,
    ):
        """Returns the time that the network is given: where masks are counted, their share."""
        if self.pattern == "bernoulli":
            return t_BL
        # A group without noisable positions has no masks.
        noisable_count_BL = jnp.maximum(self.noisable_count(batch, progress), 1)
        share_BL = self.masked_count(batch, z_BL, progress) / noisable_count_BL
        return jnp.broadcast_to(share_BL, z_BL.shape)

    # ------------------------------------------------------------------------ what is masked

    def count_groups(self, batch: Batch, progress: Array | float = 1.0) -> Array | None:
        """Returns the number of the group whose masks are counted together; None: the row."""
        del batch, progress
        return None

    def noisable_count(self, batch: Batch, progress: Array | float = 1.0) -> Array:
        """Returns n: how many positions of the group may be masked."""
        return fixed_count.total(batch.noisable_BL, self.count_groups(batch, progress))

    def masked_count(
        self,
        batch: Batch,
        z_BL,
        progress: Array | float = 1.0,
    ) -> Array:
        """Returns k: how many positions of the group are masked."""
        masked_BL = self.process.undecided(z_BL, batch.layout) & batch.noisable_BL
        return fixed_count.total(masked_BL, self.count_groups(batch, progress))

    def time_cells(self, length: int) -> int:
        """Returns the cells of a grid of times, or of the numbers of masks."""
        if self.pattern == "bernoulli":
            return self.steps
        # Rows may have any number of noisable positions up to the length.
        return math.lcm(*range(1, length + 1))

    def times_from_uniform(self, u_BL: Array) -> Array:
        """Returns t_BL, rounded up to the grid of a discretised bound."""
        t_BL = jnp.maximum(u_BL, SMALLEST)
        if self.steps:
            t_BL = jnp.ceil(t_BL * self.steps) / self.steps
        return t_BL

    def corrupt(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        t_BL: Array,
    ) -> Array:
        """Draws z of the bound: each position alone, or a fixed number of them."""
        if self.pattern == "bernoulli":
            return super().corrupt(models, batch, key, t_BL)
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        return self.mask_count(key_B, batch, t_BL, models.progress)

    def mask_count(
        self,
        key_B,
        batch: Batch,
        t_BL,
        progress: Array | float,
    ) -> Array:
        """Draws z with a fixed number of masks in each group."""
        u_BL = keys.uniform_BL(key_B, t_BL.shape[1])
        groups_BL = self.count_groups(batch, progress)
        # The time decides how many positions are masked, u which ones.
        k_BL = fixed_count.number(t_BL, self.noisable_count(batch, progress))
        chosen_BL = fixed_count.chosen(u_BL, batch.noisable_BL, k_BL, groups_BL)
        return self.process.mask_out(batch.tokens_BL, chosen_BL)

    def complement(
        self,
        batch: Batch,
        z_BL,
        progress: Array | float = 1.0,
    ) -> Array:
        """Returns the sequences with exactly the other positions masked; of all masks all again."""
        # Everything that this view shows.
        left_BL = ~self.process.undecided(z_BL, batch.layout)
        if self.pattern == "count":
            masked_count_BL = self.masked_count(batch, z_BL, progress)
            left_BL |= masked_count_BL == self.noisable_count(batch, progress)
        return self.process.mask_out(batch.tokens_BL, left_BL & batch.noisable_BL)

    def log_q(
        self,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
        own: dict | None = None,
    ) -> Array:
        """Returns log q(z | x), in parts along the positions."""
        if self.pattern == "bernoulli":
            return super().log_q(batch, z_BL, t_BL, own)
        # Every choice of k positions is equally likely.
        masked_BL = self.process.undecided(z_BL, batch.layout)
        k_BL = fixed_count.number(t_BL, self.noisable_count(batch))
        groups_BL = self.count_groups(batch)
        log_q_BL = fixed_count.log_law(masked_BL, batch.noisable_BL, k_BL, groups_BL)
        return jnp.where(masked_BL | (z_BL == batch.tokens_BL), log_q_BL, -jnp.inf)


def _context_weight(batch: Batch, masked_BL: Array) -> Array:
    """Returns ½ Σ_{j kept} p(1 − p)^(|i−j|−1), over the positions of the same segment."""
    i_L = jnp.arange(masked_BL.shape[1])
    distance_LL = jnp.abs(i_L[:, None] - i_L)
    beyond_LL = jnp.maximum(distance_LL - 1, 0)
    near_LL = 0.5 * _NEAR * (1 - _NEAR) ** beyond_LL
    near_LL = jnp.where(distance_LL > 0, near_LL, 0.0)
    # Only tokens that are shown and count give context, in their own segment.
    hidden_BL = masked_BL | (batch.weights_BL == 0)
    shown_BL = jnp.where(hidden_BL, 0.0, 1.0)
    segments_BL = batch.layout.segments_BL
    # Without segments a row is one document.
    if segments_BL is None:
        segments_BL = jnp.ones(masked_BL.shape, int)
    same_BLL = segments_BL[:, :, None] == segments_BL[:, None, :]
    return jnp.einsum("BM,BLM,LM->BL", shown_BL, same_BLL.astype(jnp.float32), near_LL)
