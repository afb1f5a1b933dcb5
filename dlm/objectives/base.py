"""The base of all objectives, and of those that destroy tokens.

    loss     one draw of t and z per sample:    E_t E_{z ~ q(z_t|x)} Σ_i nats_i(z, t)
    bound    the same mean from several draws, t stratified within each sequence, with its
             Monte-Carlo error

Each member writes its `loss` out: draw a time, destroy tokens, call the network, charge the
undecided positions. What `bound` returns is a bound or exact (`claims`). The loss is an
`UnbiasedLoss`, an estimate of it, or a `Loss` that claims nothing where only training is meant.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Batch,
    Bound,
    Canvas,
    Claim,
    Loss,
    Mean,
    Models,
    Output,
    Process,
    Routing,
    UnbiasedLoss,
    Visibility,
)
from dlm.core.vocab import Vocab
from dlm.nn.visibility.full import Full
from dlm.noise import time_sampling

# Of blocks, spans and grids of time: far beyond any use, and far within float32 and int32.
LONGEST = 2**20
# u ~ U[0, 1) may be 0; the bias is below float32's resolution of the bound.
SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Base:
    """Defaults of the objective contract."""

    # The ids of tokens, mask and padding, which the tokenizer defines.
    vocab: Vocab

    # ---------------------------------------------------------------------------------- claims

    @property
    def claims(self) -> Claim:
        """What `bound` returns."""
        return "bound"

    @property
    def loss_claims(self) -> Claim:
        """What the loss is an estimate of: `claims`, or 'heuristic'."""
        return self.claims

    @property
    def token_passes(self) -> float:
        """How often the network reads each token in a training step: streams × passes."""
        return 1

    @property
    def process(self) -> Process | None:
        """How tokens are destroyed; None where nothing is."""
        return None

    @property
    def fills_masks(self) -> bool:
        """Whether `read` predicts the masks of a sequence in one pass, for evaluators."""
        return False

    # ------------------------------------------------------------------------ what is learned

    def init(self, key: Array) -> dict:
        """Returns the objective's own parameters; none."""
        del key
        return {}

    def statistics(self) -> Any:
        """Returns what training carries from update to update, before the first; None: nothing."""
        return None

    def process_of(self, own: dict) -> Process | None:
        """Returns the process, of which nothing is learned."""
        del own
        return self.process

    def counted(self) -> "Base":
        """Returns an objective with the same bound, estimated under a fixed number of masks.

        It varies less (`noise.fixed_count`), and holds for a network that is not given the time.
        The objective itself where the bound allows no fixed number.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class Diffusion(Base):
    """Everything that follows from a process and a network: draws of t and z, and the bound."""

    @property
    def times(self) -> time_sampling.Kind:
        """How t is drawn; a field of members whose variance depends on it."""
        return "iid"

    @property
    def visibility(self) -> Visibility:
        """The whole canvas is visible."""
        return Full()

    def statistics(self) -> Array | None:
        """Returns the costs at each time, before the first update, where times depend on them."""
        return time_sampling.initial_costs() if self.times == "importance" else None

    # ----------------------------------------------------------------------------------- times

    def draw_times(
        self,
        models: Models,
        batch: Batch,
        key: Array,
    ) -> tuple[Array, Array]:
        """Returns (t_BL, density_BL): the times of a step, and how densely they are drawn.

        A density of 1 is uniform.
        """
        # One time for the whole row.
        u_BL, density_BL = time_sampling.draw(self.times, batch, key, models.statistics)
        return self.times_from_uniform(u_BL), density_BL

    def bound_times(
        self,
        batch: Batch,
        key: Array,
        stratum,
        strata: int,
    ) -> Array:
        """Returns t_BL of the bound: in one of so many equal parts of (0, 1]."""
        # Independent inside of a stratum, whatever training does.
        u_BL, _ = time_sampling.draw("iid", batch, key)
        return self.times_from_uniform((stratum + u_BL) / strata)

    def times_from_uniform(self, u_BL: Array) -> Array:
        """Returns t_BL in (0, 1] from numbers in [0, 1)."""
        return jnp.maximum(u_BL, SMALLEST)

    def time_cells(self, length: int) -> int:
        """Returns the number of equal cells of (0, 1] inside which nothing depends on time.

        0 is continuous time.
        """
        del length
        return 0

    # ------------------------------------------------------------------------------- noised tokens

    def corrupt(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        t_BL: Array,
    ) -> Array:
        """Draws z ~ q(z_t | x).

        A sample's noise depends on its number and the step, never on batch, host or device.
        """
        # The stream's name seeds the key, so it never changes.
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        process = self._process(models.own)
        return process.corrupt(key_B, batch.tokens_BL, t_BL, batch.noisable_BL)

    def log_q(
        self,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
        own: dict | None = None,
    ) -> Array:
        """Returns log q(z | x) of what `corrupt` draws, in parts along the positions."""
        # Positions that are not noisable keep their token.
        same_BL = jnp.where(z_BL == batch.tokens_BL, 0.0, -jnp.inf)
        log_q_BL = self._process(own or {}).log_q(z_BL, t_BL, batch.tokens_BL)
        return jnp.where(batch.noisable_BL, log_q_BL, same_BL)

    def support(self, vocab: Vocab, length: int):
        """Returns every z that `corrupt` may draw, z_ZL; None: all of tokens and masks."""
        del vocab, length
        return None

    def _process(self, own: dict) -> Process:
        process = self.process_of(own)
        if process is None:
            raise TypeError(f"{type(self).__name__} destroys tokens without a process")
        return process

    # ------------------------------------------------------------------------------- costs

    def read(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Output:
        """Returns the network's output for the noised sequence."""
        return models.student(Canvas.of(batch, z_BL, t_BL, self.visibility))

    def bound_nats(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns the cost of z at time t, nats_BL; its mean over t and z is the bound."""
        # Predict, and charge what the process says.
        prediction = self.read(models, batch, z_BL, t_BL).prediction
        process = self._process(models.own)
        return process.charge(prediction, batch.tokens_BL, z_BL, t_BL, scale(batch))

    def sums(
        self,
        batch: Batch,
        nats_BL: Array,
        noised_BL: Array,
        time: tuple[Array, Array],
        routing: Routing | None,
    ) -> Loss:
        """Returns the loss: the sum of these costs over the density of their times.

        Args:
          batch: gives the weights.
          nats_BL: cost of each position.
          noised_BL: where tokens are destroyed, for the log.
          time: t_BL and density_BL of `draw_times`.
          routing: sums of the student's routers.
        """
        t_BL, density_BL = time
        # A mean over the positions that count, padding and prompts excluded.
        weight = batch.weights_BL.sum()
        noised_sum = (noised_BL & (batch.weights_BL > 0)).sum() * 1.0
        statistics = None
        # The cost of a sample at its time, without the density.
        if self.times == "importance":
            cost_B = jax.lax.stop_gradient(nats_BL.sum(1))
            statistics = time_sampling.bucket_costs(t_BL[:, 0], cost_B)
        # Only a loss with the mean of the bound may be logged as bits.
        kind = UnbiasedLoss if self.loss_claims == self.claims else Loss
        metrics = dict(masked_share=Mean(noised_sum, weight))
        return kind((nats_BL / density_BL).sum(), weight, metrics, routing, statistics)

    def bound(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        samples: int,
    ) -> Bound:
        """Returns the mean of `samples` draws, an even number; memory is that of one draw.

        Times are stratified within each sequence. The variance is estimated from neighbouring
        strata, E(y_2j − y_2j+1)² ≥ var y_2j + var y_2j+1 (Cochran's collapsed strata), so it is
        never underestimated in the mean.
        """
        if samples < 2 or samples % 2:
            need = "must be even and at least 2, to pair neighbouring strata"
            raise ValueError(f"samples={samples} {need}")
        # The objective after all warm-ups is reported.
        models = replace(models, progress=1.0)

        def one(_, k):
            # Another key for each draw, the same on every device.
            sample_key = keys.key(key, "bound", k)
            t_BL = self.bound_times(batch, sample_key, k, samples)
            z_BL = self.corrupt(models, batch, sample_key, t_BL)
            return None, self.bound_nats(models, batch, z_BL, t_BL)

        # One draw after the other: memory is that of one.
        _, nats_TBL = jax.lax.scan(one, None, jnp.arange(samples))
        # Neighbouring strata are paired.
        pairs = nats_TBL.sum(-1).reshape(samples // 2, 2, -1)
        variance_B = jnp.square(pairs[:, 0] - pairs[:, 1]).sum(0) / samples**2
        return Bound(nats_TBL.mean(0), variance_B)


def is_over(warmup: float, progress: Array | float) -> bool:
    """Whether a warm-up is known to be over before anything is computed."""
    return not warmup or (isinstance(progress, float) and progress >= warmup)


def scale(batch: Batch) -> Array:
    """Returns the weight of each position in the loss; padding and prompts have weight 0."""
    # Where nothing is noised nothing is learned.
    counted_BL = batch.noisable_BL & (batch.weights_BL > 0)
    return jnp.where(counted_BL, batch.weights_BL, 0.0)


def mean_of(losses: list[Loss]) -> Loss:
    """Returns the mean of several losses of the same batch; their routing statistics add up."""
    # The weights are the same, so the sums are averaged, too.
    mean = jax.tree.map(lambda *parts: sum(parts) / len(losses), *losses)
    return replace(mean, routing=total(*(loss.routing for loss in losses)))


def total(*routing: Routing | None) -> Routing | None:
    """Returns the sum of routing statistics."""
    return jax.tree.map(lambda *parts: sum(parts), *routing)
