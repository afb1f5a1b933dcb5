"""Which positions a step decides, and the times from and to which it moves.

    Blocks     └─ 0 ─┘└─ 1 ─┘└ …      blocks of `size` positions, decided from left to right
    Sliding         └─ w ─┘─>         `size` positions from the first undecided one on, wherever
                                      that is (deferred commitment, arXiv:2601.02076)

A window begins where its block does and is as long as all others: the last one may reach beyond the
canvas, where no position is active. What is sampled is numbered from there, so a position's random
numbers depend neither on the length of the canvas nor on other rows.

Shapes: B rows, L positions, R of them in the window of a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Canvas, Layout, Process
from dlm.nn.visibility import is_autoregressive
from dlm.nn.visibility.block import numbers
from dlm.samplers import positions


class Times(NamedTuple):
    """A step's beginning and end, t > s."""

    t_B: Array
    s_B: Array


@dataclass(frozen=True)
class Blocks:
    """Blocks of a canvas, decided in the order of their numbers."""

    process: Process
    number_BL: Array  # int32 [B or 1, L], the block of each position
    size: int  # positions of a block
    steps: int  # of a block, at most
    length: int  # of the canvas
    count: int  # blocks of the canvas, at most
    whole: bool  # whether a window is the whole canvas, in its order
    aligned: bool  # whether all windows are inside the canvas
    timeless: bool  # whether the network is given the time 0, with which it was trained
    # (u, process) → time of the noise when a share u of the steps is left.
    clock: Callable[[Any, Process], Any]

    slides: ClassVar[bool] = False

    @property
    def total(self) -> int:
        """Steps of all blocks, at most."""
        return self.count * self.steps

    def block(self, step):
        """Returns the block of a step."""
        return step // self.steps

    def index(self, canvas: Canvas, step) -> Array:
        """Returns the positions of the window, [B, R]."""
        rows = canvas.z_BL.shape[0]
        if self.whole:
            index_R = jnp.arange(self.length)
        else:
            first = self.block(step) * self.size
            index_R = first + jnp.arange(self.size)
        shape = rows, len(index_R)
        return jnp.broadcast_to(index_R, shape)

    def times(self, canvas: Canvas, index_BR: Array, step) -> Times:
        """Returns the times of a step."""
        del index_BR
        rows = canvas.z_BL.shape[0]
        n = step % self.steps
        t = self.clock(1 - n / self.steps, self.process)
        s = self.clock(1 - (n + 1) / self.steps, self.process)
        return Times(jnp.full(rows, t), jnp.full(rows, s))

    def inside(self, step) -> Array:
        """Returns where the block of a step is, bool [B or 1, L]."""
        return self.number_BL == self.block(step)

    def reached(self, step) -> Array:
        """Returns where that block and those before it are, bool [B or 1, L]."""
        return self.number_BL <= self.block(step)

    def network_time(self, canvas: Canvas, index_BR, step, t_B) -> Array:
        """Returns the time of each position: t in the block, 0 before it, 1 after it."""
        del index_BR
        shape = canvas.z_BL.shape
        if self.timeless:
            return jnp.zeros(shape)
        after_BL = self.number_BL > self.block(step)
        time_BL = jnp.where(self.inside(step), t_B[:, None], after_BL)
        return jnp.broadcast_to(time_BL, shape).astype(jnp.float32)

    def first_step_after(self, step, todo_BL: Array, stepwise: bool) -> Array:
        """Returns the first step of the next block with something to do, `total` without one.

        `stepwise`: the blocks between are visited too, since their keys and values are needed.
        """
        block = self.block(step)
        if stepwise:
            last = jnp.where(todo_BL, self.number_BL, -1).max()
            following = jnp.where(block < last, block + 1, self.count)
        else:
            later_BL = todo_BL & (self.number_BL > block)
            following = jnp.where(later_BL, self.number_BL, self.count).min()
        return following * self.steps


@dataclass(frozen=True)
class Sliding(Blocks):
    """A window of `size` positions that begins at the first undecided one of each row."""

    slides: ClassVar[bool] = True

    def index(self, canvas: Canvas, step) -> Array:
        """Returns the positions of each row's window, [B, R]."""
        del step
        undecided_BL = self.process.undecided(canvas.z_BL, canvas.layout)
        any_B = undecided_BL.any(1)
        first_B = undecided_BL.argmax(1)
        first_B = jnp.where(any_B, first_B, self.length)
        return first_B[:, None] + jnp.arange(self.size)

    def times(self, canvas: Canvas, index_BR: Array, step) -> Times:
        """Returns the times of a step: t is the share of the window that is undecided."""
        del step
        undecided_BL = self.process.undecided(canvas.z_BL, canvas.layout)
        inside_BR = positions.take(undecided_BL, index_BR)
        inside_BR &= index_BR < self.length
        segments_BL = canvas.layout.segments_BL
        length_B = self.length if segments_BL is None else (segments_BL > 0).sum(1)
        # Rounded the same whether the length is a constant or not.
        share_B = 1 / jnp.clip(length_B, 1, self.size)
        t_B = jnp.maximum(inside_BR.sum(1), 1) * share_B
        s_B = t_B - 1 / self.steps
        return Times(t_B, jnp.maximum(s_B, 0.0))

    def inside(self, step) -> Array:
        """Returns that a window may be anywhere."""
        del step
        return jnp.ones_like(self.number_BL, bool)

    def reached(self, step) -> Array:
        """Returns that a text may end anywhere."""
        return self.inside(step)

    def network_time(self, canvas: Canvas, index_BR, step, t_B) -> Array:
        """Returns the time of each position: t in the window, 0 before it, 1 after it."""
        del step
        if self.timeless:
            return jnp.zeros(canvas.z_BL.shape)
        i_L = jnp.arange(self.length)
        first_B1 = index_BR[:, :1]
        end_B1 = first_B1 + self.size
        in_or_before_BL = i_L < end_B1
        later_BL = jnp.where(in_or_before_BL, t_B[:, None], 1.0)
        return jnp.where(i_L < first_B1, 0.0, later_BL)


def windows_of(plan, process: Process, canvas: Canvas) -> Blocks:
    """Returns the windows of a pass over a canvas (`plan`: samplers.plan.Sampler)."""
    L = canvas.z_BL.shape[1]
    visibility = canvas.visibility
    size = min(plan.block or L, L)
    # Blocks that a network was trained on begin again in each document of a packed row.
    trained = visibility.block is not None and visibility.streams == 2
    layout = canvas.layout if trained else Layout()
    packed = layout.positions_BL is not None
    whole = packed or size == L
    aligned = packed or L % size == 0
    slides = plan.window == "sliding"
    kind = Sliding if slides else Blocks
    return kind(
        process=process,
        number_BL=numbers(size, layout.complete(L)) // size,
        size=size,
        steps=plan.steps,
        length=L,
        count=-(-L // size),
        whole=whole and not slides,
        aligned=aligned and not slides,
        timeless=is_autoregressive(visibility),
        clock=_uniform if plan.remask is None else plan.remask.clock,
    )


def _uniform(u, process):
    del process
    return u
