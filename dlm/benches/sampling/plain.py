"""The usual sampling loop, as the reference code of LLaDA has it (arXiv:2502.09992).

It runs on the host: every pass computes the whole canvas, and draws tokens and confidences
everywhere, without a cache.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlm import benches
from dlm.app.experiment import Experiment
from dlm.core.contracts import Canvas

BLOCK = 32  # positions decided together
FORWARD_CALLS = 8  # of which the median is reported


class Plain:
    """The usual loop, and one bare forward pass.

    `judged` is for its samples alone, whose distribution it keeps: each step is one program, and
    draws no noise where nothing can be revealed.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: Any,
        args: argparse.Namespace,
        judged: bool = False,
    ):
        self.experiment = experiment
        self.params = params
        self.steps = args.steps
        self.shape = args.rows, args.length
        self.mask = experiment.run.nn.vocab.mask
        blocks = -(-args.length // BLOCK)
        self.nfe = blocks * args.steps
        self._step: Callable = self._revealed
        if judged:
            self._step = jax.jit(self._in_block, static_argnames="count")

    def draw(self, seed: int = 0) -> list[np.ndarray]:
        """Returns the ids of all rows, at temperature 1.

        Blocks are decided from left to right; each step reveals the most probable of its draws.
        """
        _, length = self.shape
        # One key for the batch, as the reference code has it.
        key = jax.random.key(seed)
        z_BL = jnp.full(self.shape, self.mask, jnp.int32)
        for begin in range(0, length, BLOCK):
            width = min(BLOCK, length - begin)
            end = begin + BLOCK
            for count in _shares(width, self.steps):
                # More steps than positions: the last ones have nothing to reveal.
                if count == 0:
                    continue
                key, step_key = jax.random.split(key)
                logits_BLV = self._forward(self.params, z_BL)
                z_BL = self._step(
                    z_BL,
                    logits_BLV,
                    step_key,
                    end,
                    count=count,
                )
        return list(np.asarray(z_BL))

    def _in_block(self, z_BL, logits_BLV, key, end, *, count: int):
        """Reveals in the block alone: nothing before it is masked, nothing after is revealed."""
        length = z_BL.shape[1]
        # A canvas may be shorter than a block.
        width = min(BLOCK, length)
        begin = jnp.minimum(end - BLOCK, length - width)
        # The logits are of the whole canvas: only their use is limited.
        z_BW = jax.lax.dynamic_slice_in_dim(z_BL, begin, width, 1)
        logits_BWV = jax.lax.dynamic_slice_in_dim(logits_BLV, begin, width, 1)
        z_BW = self._revealed(
            z_BW,
            logits_BWV,
            key,
            end - begin,
            count=count,
        )
        return jax.lax.dynamic_update_slice_in_dim(z_BL, z_BW, begin, 1)

    def _revealed(self, z_BL, logits_BLV, key, end, *, count: int):
        """Reveals the `count` most probable masks before `end` in each row."""
        rows, length = z_BL.shape
        shape = logits_BLV.shape
        noise_BLV = jax.random.gumbel(key, shape, mode="high")
        drawn_BL = jnp.argmax(logits_BLV + noise_BLV, -1)
        p_BLV = jax.nn.softmax(logits_BLV, -1)
        drawn_BL1 = drawn_BL[..., None]
        p_BL = jnp.take_along_axis(p_BLV, drawn_BL1, -1)[..., 0]
        before_L = jnp.arange(length) < end
        masked_BL = (z_BL == self.mask) & before_L
        # Decided positions are never chosen.
        score_BL = jnp.where(masked_BL, p_BL, -jnp.inf)
        # Row by row, as the reference code does it.
        for b in range(rows):
            _, chosen_R = jax.lax.top_k(score_BL[b], count)
            tokens_R = drawn_BL[b, chosen_R].astype(jnp.int32)
            z_BL = z_BL.at[b, chosen_R].set(tokens_R)
        return z_BL

    def seconds(self) -> float:
        return sum(benches.seconds_each(self.draw, 1))

    def forward_seconds(self) -> float:
        """Returns the seconds of one jitted pass over the whole canvas, the median of some."""
        z_BL = jnp.full(self.shape, self.mask, jnp.int32)

        def once() -> None:
            jax.block_until_ready(self._forward(self.params, z_BL))

        seconds = benches.seconds_each(once, FORWARD_CALLS)
        return float(np.median(seconds))

    @functools.cached_property
    def _forward(self) -> Callable:
        experiment = self.experiment
        visibility = experiment.objective.visibility

        @jax.jit
        def logits(params, z_BL):
            t_BL = jnp.ones(z_BL.shape)
            frozen_BL = jnp.zeros(z_BL.shape, bool)
            canvas = Canvas(z_BL, t_BL, frozen_BL, visibility)
            output = experiment.net(params)(canvas)
            return output.prediction.logits_BLV

        return logits


def _shares(n: int, steps: int) -> list[int]:
    """Divides n positions over the steps: as equally as possible, the larger shares first."""
    share, rest = divmod(n, steps)
    larger = [share + 1] * rest
    return larger + [share] * (steps - rest)
