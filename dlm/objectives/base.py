"""objectives — batch → what is trained (loss) and what is reported (bound), in nats; here is what all that destroy tokens have in common.

    loss     one draw of t and z per sample:    E_t E_{z ~ q(z_t|x)} Σ_i terms_i(z, t)
    bound    the same mean from several draws, t stratified within each sequence, with its Monte-Carlo error

A member says what it destroys tokens with and what a destroyed sequence costs (`terms`). What `bound` returns is a bound, or exact; the
`loss` is an `Estimate` of it, or, where only training is meant, a `Loss` that claims nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch, Bound, Canvas, Loss, UnbiasedLoss, Visibility
from dlm.core.vocab import Vocab
from dlm.nn.visibility.full import Full
from dlm.noise import time_sampling
from dlm.noise.time_sampling import draw

LONGEST = (
    2**20
)  # of blocks, spans and grids of time: far beyond any use, and far within float32 and int32
SMALLEST = 1e-6  # u ~ U[0, 1) may be 0; the bias is below float32's resolution of the bound


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    vocab: Vocab | None = None

    times: ClassVar[str] = (
        "iid"  # how t is drawn (noise.time_sampling); a field of those whose cost depends on it
    )
    claims: ClassVar[str] = "bound"
    token_passes: ClassVar[int] = (
        1  # how often the network reads a token in a training step: streams × passes
    )
    visibility: ClassVar[Visibility] = Full()

    @property
    def loss_claims(self) -> str:
        """What `claims` says where the loss has the mean of what is reported, 'heuristic' where it has not."""
        return self.claims

    def bound_nats(self, net, batch: Batch, z_BL, t_BL) -> jax.Array:
        """What the destroyed sequence z costs at time t, nats_BL; its mean over t and z is the bound."""
        raise TypeError(f"{type(self).__name__} has no terms()")

    def time_cells(self, length: int) -> int:
        """Into how many equal cells of (0, 1] time falls, if nothing changes inside a cell; 0 for continuous time."""
        return 0

    def draw_times(self, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(t_BL, density): the time of each position in a training step, and how densely such times are drawn (1: uniformly)."""
        u_BP = draw(self.times, batch.index_B, batch.total, key, self.parts(batch))
        if self.times != "importance":
            return self.at(u_BP, batch), jnp.ones(batch.tokens_BL.shape)
        u_BP, density_BP = time_sampling.importance_times(
            u_BP,
            jnp.zeros((1, time_sampling.BUCKETS)) if batch.cost_BT is None else batch.cost_BT,
        )
        return self.at(u_BP, batch), jnp.broadcast_to(density_BP, batch.tokens_BL.shape)

    def at(self, u_BP, batch: Batch) -> jax.Array:
        """Times t_BL from uniform numbers, as many per sample as it has `parts`."""
        return jnp.broadcast_to(jnp.maximum(u_BP, SMALLEST), batch.tokens_BL.shape)

    def corrupt_batch(self, batch: Batch, key: jax.Array, t_BL) -> jax.Array:
        """z ~ q(z_t | x), keyed by sample number."""
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        return self.process.corrupt(key_B, batch.tokens_BL, t_BL, batch.noisable_BL)

    def corrupted_for_training(self, batch: Batch, key: jax.Array, t_BL) -> jax.Array:
        """z as training sees it; what is reported always has `corrupted`."""
        return self.corrupt_batch(batch, key, t_BL)

    def support(self, vocab: Vocab, length: int):
        """Every z that `corrupted` may draw, z_ZL, where these are not simply all sequences of tokens and masks."""
        return None

    def log_q(self, batch: Batch, z_BL, t_BL) -> jax.Array:
        """log q(z | x) of the sequence, in parts along its positions: what `corrupted` draws, for enumerations."""
        given_BL = jnp.where(z_BL == batch.tokens_BL, 0.0, -jnp.inf)
        return jnp.where(
            batch.noisable_BL, self.process.log_q(z_BL, t_BL, batch.tokens_BL), given_BL
        )

    def views(self, batch: Batch, key: jax.Array) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
        """What a training step looks at, once or more: (z_BL, t_BL, the density by which its cost is divided)."""
        t_BL, density_BL = self.draw_times(batch, key)
        return [(self.corrupted_for_training(batch, key, t_BL), t_BL, density_BL)]

    def loss(self, net, batch: Batch, key: jax.Array) -> Loss:
        """The mean over the views of a training step."""
        views = self.views(batch, key)
        losses = [
            self._view_loss(net, batch, *view, keys.key(key, "view", n))
            for n, view in enumerate(views)
        ]
        return jax.tree.map(lambda *parts: sum(parts) / len(views), *losses)

    def _view_loss(self, net, batch: Batch, z_BL, t_BL, density_BL, key) -> Loss:
        kind = UnbiasedLoss if self.loss_claims == self.claims else Loss
        nats_BL = self.training_nats(net, batch, z_BL, t_BL, key)
        noised_BL = self.noised(batch, z_BL) & (batch.weights_BL > 0)
        seen = (
            time_sampling.bucket_costs(t_BL[:, 0], jax.lax.stop_gradient(nats_BL.sum(1)))
            if self.times == "importance"
            else None
        )
        return kind(
            (nats_BL / density_BL).sum(),
            batch.weights_BL.sum(),
            {"masked_sum": noised_BL.sum() * 1.0},
            seen,
        )

    def noised(self, batch: Batch, z_BL) -> jax.Array:
        """Which positions are destroyed, bool_BL."""
        return z_BL != batch.tokens_BL

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key) -> jax.Array:
        """What a view costs in training; the terms themselves unless a member weighs them otherwise."""
        return self.bound_nats(net, batch, z_BL, t_BL)

    def bound(self, net, batch: Batch, key: jax.Array, samples: int) -> Bound:
        """Mean of `samples` draws (an even number), t stratified within each sequence; memory is that of one draw.

        The variance is estimated from neighbouring strata, E(y_2j − y_2j+1)² ≥ var y_2j + var y_2j+1 (Cochran's collapsed
        strata), so it errs on the safe side.
        """
        if samples < 2 or samples % 2:
            raise ValueError(
                f"samples={samples} must be even and at least 2, to pair neighbouring strata"
            )

        def one(_, k):
            sample_key = keys.key(key, "bound", k)
            t_BL = self.at(
                (k + draw("iid", batch.index_B, batch.total, sample_key, self.parts(batch)))
                / samples,
                batch,
            )
            return None, self.bound_nats(
                net, batch, self.corrupt_batch(batch, sample_key, t_BL), t_BL
            )

        _, bound_nats_TBL = jax.lax.scan(one, None, jnp.arange(samples))
        pairs = bound_nats_TBL.sum(-1).reshape(samples // 2, 2, -1)
        return Bound(
            bound_nats_TBL.mean(0), jnp.square(pairs[:, 0] - pairs[:, 1]).sum(0) / samples**2
        )

    def counted(self) -> "Diffusion":
        """One whose bound has the same value, for a network that is not told the time, and is estimated under a fixed number of destroyed
        positions (`noise.fixed_count`), so that it scatters less; itself where the bound allows no count."""
        return self

    def memory(self):
        """What training remembers from update to update, before the first; None for nothing."""
        return time_sampling.initial_costs() if self.times == "importance" else None

    def parts(self, batch: Batch) -> int:
        """How many times of its own a sample has."""
        return 1

    def canvas(self, batch: Batch, z_BL, t_BL, **fields) -> Canvas:
        return Canvas.of(batch, z_BL, t_BL, self.visibility, **fields)
