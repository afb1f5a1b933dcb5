"""What all drivers share: their result, the recorder of a trace, and predictions with sharpness."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Prediction


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """The finished canvas, and how it was filled."""

    canvas: Canvas
    # Log-probability of each token when it was written, nats; 0 at anchors.
    logprob_BL: jax.Array
    nfe: jax.Array  # forward passes, the same for every row
    # After each pass: z [T, B, L], log-probabilities [T, B, L], the share [T] of steps that are
    # left; and how many of the T are valid.
    trace: Any = None


class Driver:
    """The base of all drivers; a subclass is a frozen dataclass with `run`."""

    claims: ClassVar[str]
    # How the positions decided depend on random draws, if they do so whatever the rule.
    order_randomness: ClassVar[str | None] = None
    needs_final: ClassVar[bool] = False  # works only where decided tokens never change
    drafts: ClassVar[bool] = False  # `block` and `steps` are those of a draft, and no rule is used


@dataclass(frozen=True)
class Recorder:
    """Writes one row per pass into preallocated arrays, or nothing when `passes` is 0."""

    passes: int

    def blank(self, B: int, L: int):
        T = self.passes
        if not T:
            return None
        states_TBL = jnp.zeros((T, B, L), jnp.int32)
        return states_TBL, jnp.zeros((T, B, L)), jnp.zeros(T), jnp.int32(0)

    def __call__(self, trace_arrays, *row):
        if trace_arrays is None:
            return None
        *columns, n = trace_arrays
        written = [column.at[n].set(value) for column, value in zip(columns, row, strict=True)]
        return (*written, n + 1)


@dataclass(frozen=True)
class Tempered:
    """A prediction that draws with the sampler's sharpness; all else is that of `base`."""

    base: Prediction
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def sample(self, key_B):
        return self.base.sample(key_B, self.temperature, self.top_p, self.top_k)

    def tempered(self):
        return self.base.tempered(self.temperature, self.top_p, self.top_k)

    def gather(self, position_BR):
        return Tempered(self.base.gather(position_BR), self.temperature, self.top_p, self.top_k)

    def log_prob(self, ids_BL):
        return self.base.log_prob(ids_BL)

    def probs(self):
        return self.base.probs()

    def confidence(self, kind="top"):
        return self.base.confidence(kind)

    def argmax(self):
        return self.base.argmax()
