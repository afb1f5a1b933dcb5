"""The default loop: blocks from left to right, in each at most `plan.steps` steps of the rule.

    canvas   p r o m p t _ _ _ _ _ _ _ _    frozen anchors may be anywhere in it
    block            └─ 0 ─┘└─ 1 ─┘└ …      1 position: autoregressive · the whole canvas: full
                                            diffusion · between: semi-autoregressive
    step     t = 1 ──> s ──> … ──> 0        compute the prediction (`cached_reader`), choose tokens
                                            to mask again, then the rule moves from t to s

Positions outside the window (`windows`), and anchors, never change. A row is finished at an end of
text with no mask before it; the loop ends when all rows are finished. Source: ours.

Shapes: B rows, L positions, R of them in the window of a step.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import (
    Cache,
    Canvas,
    Net,
    Output,
    Process,
    Recorder,
    Sampled,
    StopsWhen,
)
from dlm.samplers import positions, row_keys
from dlm.samplers.cached_reader import Reader
from dlm.samplers.drivers.base import Driver, ended, tempered
from dlm.samplers.plan import Sampler, cache_kind
from dlm.samplers.remask.base import remasked
from dlm.samplers.rules.base import StepView
from dlm.samplers.state import State
from dlm.samplers.windows import Blocks, Times, windows_of


@dataclass(frozen=True)
class Blockwise(Driver):
    """Block after block, each in a number of steps."""

    claims: ClassVar[str] = "the law of the rule"

    def run(
        self,
        net: Net,
        plan: Sampler,
        process: Process,
        start: Sampled,
        key_B: Array,
        recorder: Recorder,
        *,
        stop: bool = False,
        prefill: int = 0,
    ) -> Sampled:
        """Fills the canvas of `start`.

        Args: those of `core.contracts.Driver`.
        """
        canvas = replace(start.canvas, cache=None)
        cache = start.canvas.cache
        visibility = canvas.visibility
        bos = process.vocab.bos
        kind = "none" if cache is None else cache_kind(plan, visibility)
        if kind == "none":
            cache = None
        windows = windows_of(plan, process, canvas)
        reader = Reader(net, visibility, kind, windows.size, bos, windows.aligned)
        loop = _Loop(plan, process, windows, reader, key_B, recorder, canvas, stop)
        s = loop.first(start, cache)
        if prefill and kind == "exact":
            s = loop.prefilled(s, prefill)
        # The first block may be decided already.
        s = loop.enter(s)
        s = jax.lax.while_loop(loop.unfinished, loop.steps, s)
        return s.sampled()


@dataclass(frozen=True)
class _Loop:
    """The fixed part of a pass, and its steps as functions from state to state."""

    plan: Sampler
    process: Process
    windows: Blocks
    reader: Reader
    key_B: Array
    recorder: Recorder
    start: Canvas
    stop: bool

    def first(self, start: Sampled, cache: Cache | None) -> State:
        """Returns the state before the first block."""
        canvas = self.start
        rows = canvas.z_BL.shape[0]
        nobody_B = jnp.zeros(rows, bool)
        return State(
            step=jnp.int32(-1),
            canvas=canvas,
            cache=cache,
            rule_state=self.plan.rule.init(canvas),
            log_prob_BL=start.log_prob_BL,
            changed_BL=canvas.frozen_BL,
            settled_B=nobody_B,
            ended_B=nobody_B,
            age=jnp.int32(0),
            nfe=start.nfe,
            trace=start.trace,
        )

    def prefilled(self, s: State, count: int) -> State:
        """Returns the state after a pass over `count` leading positions, all of them anchors."""
        blocks = count // self.windows.size
        steps = blocks * self.plan.steps
        last_step = jnp.int32(steps - 1)
        # Anchors are clean.
        shape = s.canvas.z_BL.shape
        clean = replace(s.canvas, t_BL=jnp.zeros(shape))
        cache = self.reader.prefill(clean, s.cache, count)
        s = replace(s, step=last_step, cache=cache, nfe=s.nfe + 1)
        return self.record(s)

    def record(self, s: State) -> State:
        """Adds a frame to the trace."""
        left = self.recorder.left(s.step)
        z_BL = s.canvas.z_BL
        trace = self.recorder.frame(s.trace, z_BL, s.log_prob_BL, left)
        return replace(s, trace=trace)

    # ------------------------------------------------------------------------------------ loops

    def unfinished(self, s: State) -> Array:
        """Returns whether there is a further step."""
        return s.step < self.windows.total

    def steps(self, s: State) -> State:
        """Takes a step with a whole pass, and with a cache those until the next whole pass."""
        block = self.windows.block(s.step)
        refresh = self.plan.cache.refresh
        s = self.take_step(s, whole=True)
        if not self.reader.has_parts or refresh == 1:
            return s

        def cache_suffices(s: State) -> Array:
            more = self.unfinished(s)
            if not self.windows.slides:
                more &= self.windows.block(s.step) == block
            if refresh:
                more &= s.age < refresh
            return more

        def part(s: State) -> State:
            return self.take_step(s, whole=False)

        return jax.lax.while_loop(cache_suffices, part, s)

    # --------------------------------------------------------------------------------- one step

    def take_step(self, s: State, whole: bool) -> State:
        """Computes the prediction in the window and moves from t to s."""
        windows = self.windows
        reader = self.reader
        block = windows.block(s.step)
        index_BR = windows.index(s.canvas, s.step)
        times = windows.times(s.canvas, index_BR, s.step)
        s = self.with_time(s, index_BR, times.t_B)
        # A later pass of a block computes only what the cache lacks.
        if whole:
            output, cache = reader.whole(s.canvas, s.cache, block, index_BR)
        elif windows.slides:
            output, cache = reader.scattered(s.canvas, s.cache, index_BR, True)
        elif reader.kind == "delayed":
            return self.take_delayed_step(s, times)
        else:
            output, cache = reader.part(s.canvas, s.cache, block, index_BR)
        age = jnp.int32(1) if whole else s.age + 1
        s = replace(s, cache=cache, age=age)
        if windows.whole:
            return self.move(s, output, None, times)
        return self.move(s, output, index_BR, times)

    def with_time(self, s: State, index_BR: Array, t_B: Array) -> State:
        """Gives each position of the canvas its time."""
        # A rule may have a clock of its own.
        rule = self.plan.rule
        t_B = rule.time(s.rule_state, t_B, self.process)
        t_BL = self.windows.network_time(s.canvas, index_BR, s.step, t_B)
        canvas = replace(s.canvas, t_BL=t_BL)
        return replace(s, canvas=canvas)

    def take_delayed_step(self, s: State, times: Times) -> State:
        """Computes only masks and tokens of the last step.

        There is a program for each of a few widths; the narrowest that suffices is run.
        """
        here_BL = self.windows.inside(s.step)
        canvas = s.canvas
        lacking_BL = self.process.undecided(canvas.z_BL, canvas.layout)
        lacking_BL |= s.changed_BL
        lacking_BL &= here_BL & ~canvas.frozen_BL
        # Positions that lack a cache come first, then others of the block.
        order_BL = lacking_BL + 0.5 * here_BL

        def of_width(width: int):
            def step(s: State) -> State:
                _, index_BR = jax.lax.top_k(order_BL, width)
                lacking_BR = positions.take(lacking_BL, index_BR)
                output, cache = self.reader.scattered(
                    s.canvas, s.cache, index_BR, lacking_BR
                )
                s = replace(s, cache=cache, age=s.age + 1)
                return self.move(s, output, index_BR, times)

            return step

        widths = self.reader.widths()
        programs = [of_width(width) for width in widths]
        count_B = lacking_BL.sum(1)
        most = count_B.max()
        which = sum(jnp.int32(most > width) for width in widths[:-1])
        return jax.lax.switch(which, programs, s)

    def move(
        self,
        s: State,
        output: Output,
        index_BR: Array | None,
        times: Times,
    ) -> State:
        """Applies the rule at these positions (None: the whole canvas), then advances."""
        plan = self.plan
        mask = self.process.vocab.mask
        key_B = row_keys.at(self.key_B, s.step)
        view = self.view(s, index_BR, times)
        sharp = tempered(output, plan)
        if plan.remask is not None:
            view = remasked(plan.remask, key_B, sharp, view)
        z_BR, rule_state = plan.rule.step(key_B, sharp, view, s.rule_state)
        # Tokens of low quality become masks, whatever the rule did with them.
        if view.remasked_BR is not None:
            z_BR = jnp.where(view.remasked_BR, mask, z_BR)
        # Only tokens that changed are scored.
        changed_BR = z_BR != view.canvas.z_BL
        old_BR = view.log_prob_BR
        log_prob_BR = positions.scored(output.prediction, z_BR, changed_BR, old_BR)
        # Some noise turns tokens into masks too, and these have no probability.
        log_prob_BR = jnp.where(z_BR == mask, 0.0, log_prob_BR)
        s = self.write(s, index_BR, z_BR, log_prob_BR, changed_BR)
        calls = 2 if plan.guidance else 1
        s = replace(s, rule_state=rule_state, nfe=s.nfe + calls)
        s = self.record(s)
        return self.advance(s)

    def view(self, s: State, index_BR: Array | None, times: Times) -> StepView:
        """Returns the step as the rule sees it."""
        canvas = s.canvas
        log_prob_BR = s.log_prob_BL
        L = canvas.z_BL.shape[1]
        inside_BL = self.windows.inside(s.step)
        active_BR = jnp.broadcast_to(inside_BL, canvas.z_BL.shape)
        # A rule sees only the window, with the index of each position in the row.
        if index_BR is None:
            layout = canvas.layout.complete(L)
            canvas = replace(canvas, layout=layout)
        else:
            active_BR = positions.take(active_BR, index_BR)
            active_BR &= index_BR < L
            log_prob_BR = positions.take(log_prob_BR, index_BR)
            canvas = canvas.gather(index_BR)
        finished_B1 = s.finished_B[:, None]
        active_BR &= ~canvas.frozen_BL & ~finished_B1
        return StepView(canvas, self.process, active_BR, *times, log_prob_BR)

    def write(
        self,
        s: State,
        index_BR: Array | None,
        z_BR: Array,
        log_prob_BR: Array,
        changed_BR: Array,
    ) -> State:
        """Writes the results of a step.

        Args:
          s: the state before.
          index_BR: the positions; None: the whole canvas.
          z_BR: their tokens.
          log_prob_BR: the log-probability of each.
          changed_BR: whether it is new.
        """
        if index_BR is None:
            z_BL = z_BR
            log_prob_BL = log_prob_BR
            changed_BL = changed_BR
        else:
            unchanged_BL = jnp.zeros_like(s.changed_BL)
            z_BL = positions.put(s.canvas.z_BL, index_BR, z_BR)
            log_prob_BL = positions.put(s.log_prob_BL, index_BR, log_prob_BR)
            changed_BL = positions.put(unchanged_BL, index_BR, changed_BR)
        canvas = replace(s.canvas, z_BL=z_BL)
        return replace(s, canvas=canvas, log_prob_BL=log_prob_BL, changed_BL=changed_BL)

    # -------------------------------------------------------------------------------- what next

    def undecided(self, s: State) -> Array:
        """Returns the positions still to be filled, bool_BL.

        Where tokens may change at any time, a block is decided by its last step.
        """
        if self.process.final:
            return self.process.undecided(s.canvas.z_BL, s.canvas.layout)
        later_BL = ~self.windows.reached(s.step)
        return jnp.broadcast_to(later_BL, s.canvas.z_BL.shape)

    @property
    def stops_when(self) -> StopsWhen:
        """When a row needs no further step in its block: the later one of rule and remasking."""
        order: tuple[StopsWhen, ...] = ("decided", "unchanged", "out_of_steps")
        rule = self.plan.rule.stops_when
        remask = self.plan.remask
        if not self.process.final and rule != "unchanged":
            return "out_of_steps"  # such noise leaves no masks to count
        if remask is None:
            return rule
        return max(rule, remask.stops_when, key=order.index)

    def advance(self, s: State) -> State:
        """Moves to the next step of the block, or to the next block if all rows are settled."""
        if self.windows.slides:
            return self.slide(self.end_texts(s, True))
        if self.stops_when != "out_of_steps":
            settled_B = s.settled_B | self.settles(s)
            s = replace(s, settled_B=settled_B)
        next_step = s.step + 1
        is_last = next_step % self.plan.steps == 0
        stays = ~is_last & ~s.finished_B.all()
        # A text that may still change has not ended.
        checked = True if self.stops_when == "decided" else ~stays
        s = self.end_texts(s, checked)
        stays &= ~s.finished_B.all()
        return self.enter(s, stays)

    def settles(self, s: State) -> Array:
        """Returns the rows that the last step has settled, bool_B."""
        todo_BL = self.open(s)
        todo_BL &= self.windows.inside(s.step)
        todo_B = todo_BL.any(1)
        if self.stops_when == "unchanged":
            todo_B |= s.changed_BL.any(1)
        return ~todo_B

    def open(self, s: State) -> Array:
        """Returns the undecided positions of rows that have not ended, bool_BL."""
        ended_B1 = s.ended_B[:, None]
        return self.undecided(s) & ~ended_B1

    def slide(self, s: State) -> State:
        """Moves to the next step of a sliding window while a row has an undecided position."""
        more = self.open(s).any()
        step = jnp.where(more, s.step + 1, self.windows.total)
        return replace(s, step=step)

    def enter(self, s: State, stays: Array | bool = False) -> State:
        """Moves to the next block with something to do, unless the pass stays in this one."""
        if self.windows.slides:
            return self.slide(s)
        if self.stops_when == "decided":
            todo_BL = self.open(s)
        else:
            ended_B1 = s.ended_B[:, None]
            todo_BL = ~s.canvas.frozen_BL & ~ended_B1
        stepwise = self.reader.stepwise
        following = self.windows.first_step_after(s.step, todo_BL, stepwise)
        step = jnp.where(stays, s.step + 1, following)

        # A rule begins again in each block.
        def select(new, old):
            return jnp.where(stays, old, new)

        rule_state = self.plan.rule.init(s.canvas)
        rule_state = jax.tree.map(select, rule_state, s.rule_state)
        settled_B = s.settled_B & stays
        return replace(s, step=step, rule_state=rule_state, settled_B=settled_B)

    def end_texts(self, s: State, checked: Array | bool) -> State:
        """Ends the rows with an end of text, if that is `checked` now."""
        if not self.stop:
            return s
        z_BL = s.canvas.z_BL
        undecided_BL = self.undecided(s)
        reached_BL = self.windows.reached(s.step)
        now_B = ended(self.process, self.start, z_BL, undecided_BL, reached_BL)
        now_B &= checked
        return replace(s, ended_B=s.ended_B | now_B)
