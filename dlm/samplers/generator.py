"""From requests to replies: `Generator` encodes, runs the passes of a plan, and decodes.

`generate` runs the passes of a plan over a canvas. Tasks, agents and commands know only
`generator(list[Request]) -> list[Reply]`.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Cache,
    Canvas,
    Net,
    Process,
    Sampled,
    Tokenizer,
    Visibility,
)
from dlm.core.vocab import Vocab
from dlm.samplers import positions, requests, row_keys
from dlm.samplers.drivers.base import Recorder
from dlm.samplers.guidance import guided
from dlm.samplers.plan import Sampler, cache_kind, resolve
from dlm.samplers.requests import Reply, Request


def generate(
    net: Net,
    plan: Sampler,
    process: Process,
    canvas: Canvas,
    key_B: Array,
    *,
    prefill: int = 0,
    stop: bool = False,
    trace: bool = False,
) -> Sampled:
    """Runs the passes of a plan over a canvas.

    A row depends neither on its batch nor on the length of the canvas.

    Args:
      net: the network.
      plan: the settings of all passes, resolved for the model.
      process: how tokens were destroyed in training.
      canvas: its `cache` is an empty one if the plan uses one (`plan.cache_kind`).
      key_B: one key for each row.
      prefill: leading positions, all of them anchors, that are computed in one pass.
      stop: whether a row is finished at its end of text.
      trace: whether every pass is recorded.
    """
    B, L = canvas.z_BL.shape
    total = sum(part.total_steps(L) for part in plan.passes)
    frames = plan.frames(L) + (prefill > 0) if trace else 0
    cache = canvas.cache
    canvas = process.open(row_keys.named(key_B, "prior"), canvas)
    blank = Recorder(frames).blank(B, L)
    nothing_BL = jnp.zeros((B, L))
    done = Sampled(canvas, nothing_BL, jnp.int32(0), blank)
    before = 0
    for number, part in enumerate(plan.passes):
        recorder = Recorder(frames, total, before)
        if part.remask_fraction:
            done = remasked_text(done, part.remask_fraction, process)
            done = _recorded(done, recorder)
        # Each pass begins with an empty cache.
        start = replace(done, canvas=replace(done.canvas, cache=cache))
        pass_key_B = row_keys.named(key_B, "pass", number) if number else key_B
        call = guided(net, part.guidance, process.vocab)
        limits = dict(stop=stop, prefill=prefill)
        done = part.driver.run(
            call, part, process, start, pass_key_B, recorder, **limits
        )
        before += part.total_steps(L)
    return replace(done, canvas=_padded(done.canvas, process))


def _recorded(done: Sampled, recorder: Recorder) -> Sampled:
    """Adds a frame for the text before a pass."""
    left = recorder.left(-1)
    trace = recorder.frame(done.trace, done.canvas.z_BL, done.log_prob_BL, left)
    return replace(done, trace=trace)


def _padded(canvas: Canvas, process: Process) -> Canvas:
    """Returns the canvas with padding instead of masks, which only follow the end of a text."""
    if not process.final:
        return canvas
    undecided_BL = process.undecided(canvas.z_BL, canvas.layout)
    return replace(canvas, z_BL=jnp.where(undecided_BL, process.vocab.pad, canvas.z_BL))


def remasked_text(done: Sampled, fraction: float, process: Process) -> Sampled:
    """Returns the text with a share of its tokens masked again, those of lowest log-probability."""
    canvas = done.canvas
    log_prob_BL = done.log_prob_BL
    written_BL = ~canvas.frozen_BL
    if process.final:
        written_BL &= ~process.undecided(canvas.z_BL, canvas.layout)
    written_B1 = written_BL.sum(1, keepdims=True)
    count_B1 = jnp.ceil(fraction * written_B1 - 1e-3)
    # The least probable tokens have the highest scores.
    score_BL = jnp.where(written_BL, -log_prob_BL, -jnp.inf)
    rank_BL = positions.ranks(score_BL)
    again_BL = written_BL & (rank_BL < count_B1)
    z_BL = jnp.where(again_BL, process.vocab.mask, canvas.z_BL)
    log_prob_BL = jnp.where(again_BL, 0.0, log_prob_BL)
    return replace(done, canvas=replace(canvas, z_BL=z_BL), log_prob_BL=log_prob_BL)


# ----------------------------------------------------------------------------- text in, text out


@dataclass(frozen=True)
class Model:
    """A network, and what sampling needs to know of it."""

    net: Callable[[Any], Net]  # from parameters
    empty_cache: Callable[[int, int], Cache]  # from the numbers of rows and positions
    process: Callable[[Any], Process]  # from parameters
    visibility: Visibility
    tokenizer: Tokenizer


class Generator:
    """A model with a plan, compiled once for each shape."""

    def __init__(
        self,
        model: Model,
        params,
        sampler: Sampler,
        *,
        seed: int = 0,
        trace: bool = False,
        sharding=None,
    ):
        """Resolves the plan for the model.

        Args:
          model: the network and its capabilities.
          params: its parameters.
          sampler: the plan.
          seed: of all samples.
          trace: whether replies have a trace.
          sharding: where on a mesh the results are.
        """
        self.model, self.params, self.seed = model, params, seed
        self.sampler = plan = resolve(sampler, model.process(params), model.visibility)
        kinds = {cache_kind(part, model.visibility) for part in plan.passes}
        self.cached = kinds != {"none"}
        # Guidance computes every row twice.
        copies = 2 if plan.guidance else 1

        def run(params, canvas: Canvas, key_B, prefill: int) -> Sampled:
            rows, length = canvas.z_BL.shape
            if self.cached:
                canvas = replace(canvas, cache=model.empty_cache(rows * copies, length))
            net = model.net(params)
            process = model.process(params)
            return generate(
                net,
                plan,
                process,
                canvas,
                key_B,
                prefill=prefill,
                stop=True,
                trace=trace,
            )

        self.run = jax.jit(run, static_argnames="prefill", out_shardings=sharding)

    def holding(self, params, seed: int) -> "Generator":
        """Returns the same program with other parameters and another seed."""
        other = copy.copy(self)
        other.params, other.seed = params, seed
        return other

    @property
    def vocab(self) -> Vocab:
        """The ids of tokens."""
        return self.model.tokenizer.vocab

    def __call__(self, batch: list[Request], first: int = 0) -> list[Reply]:
        """Answers a batch; row i draws from the key of sample `first` + i, whatever the others."""
        tokenizer = self.model.tokenizer
        visibility = self.model.visibility
        rows = [requests.as_row(request, tokenizer, visibility) for request in batch]
        canvas = requests.as_canvas(rows, self.vocab, visibility)
        index_B = first + jnp.arange(len(rows))
        begin = time.perf_counter()
        sampled = self.fill(canvas, index_B, self._prefill(canvas))
        sampled = jax.block_until_ready(sampled)
        seconds = time.perf_counter() - begin
        host = jax.tree.map(np.asarray, sampled)
        start_BL = np.asarray(canvas.z_BL)
        replies = []
        for b, row in enumerate(rows):
            replies.append(
                requests.as_reply(host, b, row, start_BL[b], tokenizer, seconds)
            )
        return replies

    def fill(self, canvas: Canvas, index_B, prefill: int = 0) -> Sampled:
        """Fills a canvas, row i from the key of sample index_B[i].

        The first `prefill` positions, all of them anchors, are computed in one pass.
        """
        sample_key = keys.key(keys.root(self.seed), "sample")
        key_B = keys.per_sample(sample_key, index_B)
        return self.run(self.params, canvas, key_B, prefill=prefill)

    def _prefill(self, canvas: Canvas) -> int:
        """Returns how many leading positions, anchors in every row, are computed in one pass."""
        common = np.asarray(canvas.frozen_BL).all(0)
        count = np.argmin(np.append(common, False))
        return self.prefill(int(count))

    def prefill(self, anchors: int) -> int:
        """Rounds a number of leading anchors down to a bucket; 0 without an exact cache."""
        visibility = self.model.visibility
        if (
            self.sampler.driver.drafts
            or cache_kind(self.sampler, visibility) != "exact"
        ):
            return 0
        unit = math.lcm(requests.BUCKET, visibility.block or 1)
        return anchors // unit * unit
