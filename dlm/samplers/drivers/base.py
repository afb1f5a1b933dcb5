"""The base of all drivers, the recorder of a trace, and predictions with sharpness."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Canvas, Confidence, Output, Prediction, Process, Trace
from dlm.samplers.rules.base import anchors, last


class Driver:
    """The base of all drivers; a subclass is a frozen dataclass with `run`."""

    claims: ClassVar[str]
    order_randomness: ClassVar[str | None] = None
    needs_final: ClassVar[bool] = False
    drafts: ClassVar[bool] = False


class Recorder:
    """Writes a frame of every pass into preallocated arrays, or nothing where `frames` is 0."""

    def __init__(self, frames: int, total: Any = 1, before: Any = 0):
        """Prepares a trace.

        Args:
          frames: how many passes are recorded, at most.
          total: steps of all passes over the canvas.
          before: steps of the passes over the canvas that are done.
        """
        self.frames = frames
        self.total = total
        self.before = before

    def blank(self, B: int, L: int) -> Trace | None:
        """Returns a trace without a frame; None where nothing is recorded."""
        T = self.frames
        if not T:
            return None
        states_TBL = jnp.zeros((T, B, L), jnp.int32)
        log_prob_TBL = jnp.zeros((T, B, L))
        times_T = jnp.zeros(T)
        return Trace(states_TBL, log_prob_TBL, times_T, jnp.int32(0))

    def left(self, step: Any) -> Any:
        """Returns the share of all steps that is left after this one of the current pass."""
        done = self.before + step + 1
        return 1 - done / self.total

    def frame(
        self,
        trace: Trace | None,
        z_BL: Array,
        log_prob_BL: Array,
        left: Any,
    ) -> Trace | None:
        """Returns the trace with a further frame.

        Args:
          trace: None where nothing is recorded.
          z_BL: the tokens now.
          log_prob_BL: of each, when it was decided.
          left: the share of the steps that is left.
        """
        if trace is None:
            return None
        n = trace.passes
        states_TBL = trace.states_TBL.at[n].set(z_BL)
        log_prob_TBL = trace.log_prob_TBL.at[n].set(log_prob_BL)
        times_T = trace.times_T.at[n].set(left)
        return Trace(states_TBL, log_prob_TBL, times_T, n + 1)


# -------------------------------------------------------------------------------- the end of text


def ended(
    process: Process,
    start: Canvas,
    z_BL: Array,
    undecided_BL: Array,
    reached_BL: Any = True,
) -> Array:
    """Returns the rows whose text has ended, bool_B.

    It ends at an id that ends texts, after the last anchor, with no undecided position before it.

    Args:
      process: knows the ids.
      start: the canvas before the first step, with the anchors.
      z_BL: the tokens now.
      undecided_BL: positions still to be filled.
      reached_BL: positions at which a text may end by now.
    """
    i_L = jnp.arange(z_BL.shape[1])
    last_anchor_B1 = last(anchors(start))[:, None]
    # An anchor never ends a text.
    generated_BL = ~start.frozen_BL & (i_L > last_anchor_B1)
    end_BL = process.vocab.ending(z_BL) & generated_BL & reached_BL
    return _first(end_BL) < _first(undecided_BL)


def _first(hit_BL: Array) -> Array:
    """Returns the first such position of each row, L where there is none."""
    L = hit_BL.shape[1]
    i_L = jnp.arange(L)
    return jnp.where(hit_BL, i_L, L).min(1)


# --------------------------------------------------------------------------------------- sharpness


@dataclass(frozen=True)
class Tempered:
    """A prediction that samples with the sampler's sharpness; all else is that of `base`."""

    # Confidence and scores ignore the sharpness, so that it never changes an order.

    base: Prediction
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def sample(
        self, key_B: Array, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
    ) -> Array:
        """Samples with its own sharpness; another is ignored."""
        del temperature, top_p, top_k
        return self.base.sample(key_B, *self._sharpness)

    def tempered(
        self, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
    ) -> Prediction:
        """Returns the distribution that `sample` samples from."""
        del temperature, top_p, top_k
        return self.base.tempered(*self._sharpness)

    @property
    def _sharpness(self) -> tuple[float, float, int]:
        return self.temperature, self.top_p, self.top_k

    def gather(self, position_BR: Array) -> "Tempered":
        """Returns the prediction at these positions of each row alone."""
        base = self.base.gather(position_BR)
        return replace(self, base=base)

    def log_prob(self, ids_BL: Array) -> Array:
        """Returns log-probabilities at temperature 1."""
        return self.base.log_prob(ids_BL)

    def probs(self) -> Array:
        """Returns all probabilities at temperature 1."""
        return self.base.probs()

    def confidence(self, kind: Confidence = "top") -> Array:
        """Scores each position at temperature 1."""
        return self.base.confidence(kind)

    def argmax(self) -> Array:
        """Returns the most likely id at each position."""
        return self.base.argmax()


def tempered(output: Output, plan) -> Output:
    """Returns the output with the sharpness of a plan (samplers.plan.Sampler)."""
    prediction = output.prediction
    sharp = Tempered(prediction, plan.temperature, plan.top_p, plan.top_k)
    return replace(output, prediction=sharp)
