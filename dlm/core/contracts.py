"""What the rooms hand to each other: Batch, Canvas, Output, Prediction, Loss. Frozen dataclasses that are JAX pytrees.

    loader ─ Batch ─> objective ─ Canvas ─> denoise ─ Output(Prediction) ─> objective ─ Loss ─> update
                      sampler   ─ Canvas ─> denoise ─ Output(Prediction) ─> rule ─ Canvas …

Axis letters: B batch, L length, V vocabulary, D width.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from dlm.core import keys

COLDEST = (
    1e-6  # nats: logits are not known better, and below this temperature the likeliest id is taken
)

Pattern = Literal[
    "count", "own"
]  # how a bound is estimated: as `counted`, where the network is not told the time, or as in training

_tree = jax.tree_util.register_dataclass


@_tree
@dataclass(frozen=True)
class Batch:
    """Packed sequences. Segment 0 is padding; positions restart in every segment."""

    tokens_BL: jax.Array  # int32
    weights_BL: jax.Array  # float32, 1 where a position counts in the loss
    noisable_BL: jax.Array  # bool, where a process may destroy the token
    index_B: jax.Array  # int32, global sample number
    fields: dict[str, jax.Array] = field(default_factory=dict)  # segments_BL, positions_BL, …
    total: int = field(
        default=1, metadata=dict(static=True)
    )  # samples in the global batch, over hosts and microbatches


@_tree
@dataclass(frozen=True)
class Canvas:
    """What a denoiser sees, in training and in sampling alike."""

    z_BL: jax.Array  # int32, noised tokens
    t_BL: jax.Array  # float32, time of each position: 0 clean, 1 all noise
    frozen_BL: jax.Array  # bool, anchors that no sampler may touch
    fields: dict[str, jax.Array] = field(default_factory=dict)


@_tree
@dataclass(frozen=True)
class Output:
    """What a denoiser says of a canvas."""

    prediction: Any
    hidden_BLD: Any = None
    carry: Any = None
    cache: Any = None
    heads: Any = None
    aux: Any = None

    def at(self, position_BR: jax.Array) -> "Output":
        """What is said of each row's positions alone; `heads` that are arrays hold a number for each position."""

        def take(x):
            return (
                jnp.take_along_axis(x, position_BR, 1)
                if isinstance(x, jax.Array)
                else x.at(position_BR)
            )

        heads = (
            None if self.heads is None else {name: take(head) for name, head in self.heads.items()}
        )
        return Output(
            self.prediction.at(position_BR), carry=self.carry, cache=self.cache, heads=heads
        )


class Prediction(Protocol):
    """p(x_i | canvas) for every position; ids that are never generated (bos, pad, mask) have probability 0."""

    def log_prob(self, ids_BL: jax.Array) -> jax.Array: ...
    def probs(self) -> jax.Array: ...
    def draw(
        self, key_B: jax.Array, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
    ) -> jax.Array: ...
    def tempered(
        self, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
    ) -> "Prediction": ...
    def confidence(self, kind: str = "top") -> jax.Array: ...
    def best(self) -> jax.Array: ...
    def at(self, position_BR: jax.Array) -> "Prediction": ...


@_tree
@dataclass(frozen=True)
class Logits:
    """The Prediction given by float32 logits_BLV; −inf marks what is never generated."""

    logits_BLV: jax.Array

    def log_prob(self, ids_BL):
        """log p(ids_i | canvas), nats."""
        chosen_BL = jnp.take_along_axis(self.logits_BLV, ids_BL[..., None], -1)[..., 0]
        return chosen_BL - jax.nn.logsumexp(self.logits_BLV, -1)

    def probs(self):
        return jax.nn.softmax(self.logits_BLV, -1)

    def draw(self, key_B, temperature=1.0, top_p=1.0, top_k=0):
        """ids_BL drawn from the law sharpened to p^(1/temperature), then cut to its top k and its nucleus; 0 (`COLDEST`) takes the mode."""
        if temperature < COLDEST:
            return self.best()
        return keys.categorical(key_B, self.tempered(temperature, top_p, top_k).logits_BLV)

    def tempered(self, temperature=1.0, top_p=1.0, top_k=0):
        """The law that `draw` draws from."""
        if temperature < COLDEST:
            best_BLV = jax.nn.one_hot(
                self.logits_BLV.argmax(-1), self.logits_BLV.shape[-1], dtype=bool
            )
            return Logits(jnp.where(best_BLV, 0.0, -jnp.inf))
        logits_BLV = self.logits_BLV
        if (
            temperature != 1
        ):  # from the largest down: a compiler rounds a large quotient differently where it computes it twice
            highest_BL1 = logits_BLV.max(-1, keepdims=True)
            logits_BLV = (
                logits_BLV - jnp.where(jnp.isfinite(highest_BL1), highest_BL1, 0.0)
            ) / temperature
        return Logits(keep_top_p(keep_top_k(logits_BLV, top_k), top_p))

    def confidence(self, kind="top"):
        """'top': largest probability; 'margin': lead over the second; 'entropy': minus the entropy in nats. Higher is surer."""
        if kind == "entropy":
            log_BLV = jax.nn.log_softmax(self.logits_BLV, -1)
            return jnp.where(jnp.isfinite(log_BLV), jnp.exp(log_BLV) * log_BLV, 0.0).sum(-1)
        if kind == "margin":
            return -jnp.diff(jax.lax.top_k(self.probs(), 2)[0], axis=-1)[..., 0]
        return self.probs().max(-1)

    def best(self):
        """The likeliest id at each position, ids_BL."""
        return self.logits_BLV.argmax(-1).astype(jnp.int32)

    def at(self, position_BR):
        """The prediction of each row's positions alone, [B, R, V]."""
        return Logits(jnp.take_along_axis(self.logits_BLV, position_BR[..., None], 1))


def keep_top_k(logits_BLV: jax.Array, top_k: int) -> jax.Array:
    """Logits with everything below the k-th largest at −inf (ties with it stay); k = 0 keeps all."""
    if not 0 < top_k < logits_BLV.shape[-1]:
        return logits_BLV
    return jnp.where(
        logits_BLV >= jax.lax.top_k(logits_BLV, top_k)[0][..., -1:], logits_BLV, -jnp.inf
    )


def keep_top_p(logits_BLV: jax.Array, top_p: float) -> jax.Array:
    """Logits with everything outside the smallest set of mass ≥ top_p at −inf (ties with its last member stay)."""
    if top_p >= 1.0:
        return logits_BLV
    probs_BLV = jax.nn.softmax(logits_BLV, -1)
    ordered_BLV = -jnp.sort(-probs_BLV, -1)
    before_BLV = jnp.cumsum(ordered_BLV, -1) - ordered_BLV
    floor_BL1 = jnp.where(before_BLV < top_p, ordered_BLV, jnp.inf).min(-1, keepdims=True)
    return jnp.where(probs_BLV >= floor_BL1, logits_BLV, -jnp.inf)


@_tree
@dataclass(frozen=True)
class Mean:
    """A mean as two sums, which add up over microbatches, updates and hosts."""

    value_sum: jax.Array
    count_sum: jax.Array

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.value_sum + other.value_sum, self.count_sum + other.count_sum)


@_tree
@dataclass(frozen=True)
class Loss:
    """Sums, so that microbatches and hosts add up exactly: the loss is nats_sum / weight_sum. It claims nothing about a likelihood."""

    nats_sum: jax.Array
    weight_sum: jax.Array
    metrics: dict[str, jax.Array] = field(default_factory=dict)  # further sums
    seen: Any = None  # sums of what an objective remembers from update to update (`noise.times`)


@_tree
@dataclass(frozen=True)
class UnbiasedLoss(Loss):
    """A loss whose mean is what the objective reports, a bound or the exact likelihood."""


@_tree
@dataclass(frozen=True)
class Bound:
    """An estimate of −log p(x) or of a bound on it, with the variance of each sequence's sum over the noise drawn."""

    nats_BL: jax.Array
    variance_B: jax.Array


@_tree
@dataclass(frozen=True)
class State:
    """All that training carries from update to update."""

    step: jax.Array  # updates done, int32
    params: Any
    moments: Any
    ema: Any  # None when evaluation uses the parameters themselves
    memory: Any = None  # mean squares of the costs at each time, for times="importance"

    @property
    def averaged(self):
        """The parameters that evaluation and sampling use."""
        return self.params if self.ema is None else self.ema
