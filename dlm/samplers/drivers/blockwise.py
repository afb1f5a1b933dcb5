"""The one generation loop: passes × blocks × steps × rule.

    canvas   p r o m p t _ _ _ _ _ _ _ _      frozen anchors may stand anywhere in it
    block            └─ 1 ─┘└─ 2 ─┘└ …        1 position: AR · the whole canvas: full diffusion · between: semi-autoregressive
    window           └─ w ─┘─>                with window='sliding' it begins at the first mask, wherever that is
    step     t = 1 ──> s ──> … ──> 0          read (samplers.cached_reader), let tokens come back as masks, then the rule moves from t to s

Positions outside the block, and anchors, never change. A row is done when an end of text stands with no mask before it; the loop ends when
every row is done. A causal network is told the time 0 it was trained at.

A window always begins where its block does and is as long as all others: the last one may reach beyond the canvas, where nothing is active.
What is drawn is numbered from there, so a position's random numbers depend neither on the length of the canvas nor on the rows beside it.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Canvas, Layout, Net, Output
from dlm.nn.visibility import is_autoregressive
from dlm.nn.visibility.block import numbers
from dlm.samplers import plan, positions
from dlm.samplers.cached_reader import Reader
from dlm.samplers.drivers.base import Driver, Recorder, Sampled, Tempered
from dlm.samplers.guidance import guided
from dlm.samplers.plan import Sampler
from dlm.samplers.rules.base import StepView, anchors, last

_ENDS = ("unmasked", "unchanged", "late")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _At:
    """Where a pass has got to."""

    n: jax.Array  # steps, of all blocks
    nfe: jax.Array
    since: jax.Array  # since the last whole reading
    canvas: Canvas
    state: Any  # the rule's
    logprob_BL: jax.Array
    block_done_B: jax.Array  # rows with nothing left to do in this block
    done_B: jax.Array  # rows with nothing left to do
    just_changed_BL: jax.Array  # what was revealed in the last step
    memory: Any
    trace_arrays: Any


@dataclass(frozen=True)
class Blockwise(Driver):
    """Block after block from left to right, in each at most `steps` steps of the plan's rule."""

    claims: ClassVar = "the law of the rule"

    def run(
        self,
        net: Net,
        sampler: Sampler,
        process,
        canvas: Canvas,
        key_B,
        memory,
        prefill,
        stop,
        trace,
    ) -> Sampled:
        """Fills the canvas; see `generator.generate` for the arguments."""
        B, L = canvas.z_BL.shape
        passes = [
            _Pass(net, part, process, canvas.visibility, key_B, stop, i)
            for i, part in enumerate(sampler.passes)
        ]
        total = sum(part.total(L) for part in passes)
        frames = total + (prefill > 0) + sum(part.sampler.remask_fraction > 0 for part in passes)
        record = Recorder(frames if trace else 0)
        if not process.final:  # a hole holds the remains of any text at t = 1
            noise_B = jax.vmap(lambda k: keys.key(k, "prior"))(key_B)
            prior_BL = process.prior(noise_B, (B, L))
            canvas = replace(canvas, z_BL=jnp.where(canvas.frozen_BL, canvas.z_BL, prior_BL))
        nfe, logprob_BL, trace_arrays = jnp.int32(0), jnp.zeros((B, L)), record.blank(B, L)
        before = 0
        for part in passes:
            part.share_left = lambda n, before=before: 1 - (before + n + 1) / total
            at = part.run(canvas, logprob_BL, nfe, memory, prefill, record, trace_arrays)
            canvas, logprob_BL, nfe, trace_arrays = (
                at.canvas,
                at.logprob_BL,
                at.nfe,
                at.trace_arrays,
            )
            before += part.total(L)
        return Sampled(canvas, logprob_BL, nfe, trace_arrays)


class _Pass:
    """One pass of a sampler: all that does not change while it runs."""

    def __init__(
        self, net: Net, sampler: Sampler, process, visibility, key_B, stop: bool, number: int
    ):
        self.sampler, self.process, self.stop = sampler, process, stop
        self.visibility = visibility
        self.net = guided(net, sampler.guidance, process.vocab)
        self.key_B = (
            key_B if number == 0 else jax.vmap(lambda k: keys.key(k, "pass", number))(key_B)
        )
        rule, remask = sampler.rule, sampler.remask
        self.ends = max(rule.ends, remask.ends if remask else "unmasked", key=_ENDS.index)
        self.ends = (
            self.ends if process.final or rule.ends == "unchanged" else "late"
        )  # such noise leaves no masks to count
        self.sliding = sampler.window == "sliding"

    def total(self, L: int) -> int:
        """Steps, at most."""
        return -(-L // (self.sampler.block or L)) * self.sampler.steps

    def run(
        self,
        canvas: Canvas,
        logprob_BL,
        nfe,
        memory,
        prefill: int,
        record: Recorder,
        trace_arrays,
    ) -> _At:
        sampler, (B, L) = self.sampler, canvas.z_BL.shape
        self.record, self.size = record, min(sampler.block or L, L)
        self.blocks = -(-L // self.size)
        # Blocks that a network was trained on begin again in each segment of a packed row.
        trained = self.visibility.block is not None and self.visibility.streams == 2
        layout = canvas.layout if trained else Layout()
        self.block_BL = numbers(self.size, layout.complete(L)) // self.size
        self.packed = layout.positions_BL is not None
        kind = "none" if memory is None else plan.cache_kind(sampler, self.visibility)
        self.aligned = not self.sliding and (
            self.packed or L % self.size == 0
        )  # whether all windows lie inside the canvas
        self.reader = Reader(
            self.net, self.visibility, kind, self.size, self.process.vocab.bos, self.aligned
        )
        self.last_anchor_B = last(anchors(canvas))
        if sampler.remask_fraction:
            canvas, logprob_BL = self._reopened(canvas, logprob_BL)
            trace_arrays = record(trace_arrays, canvas.z_BL, logprob_BL, self.share_left(-1))
        no_B = jnp.zeros(B, bool)
        memory = memory if kind != "none" else None
        at = _At(
            jnp.int32(-1),
            nfe,
            jnp.int32(0),
            canvas,
            sampler.rule.init(canvas),
            logprob_BL,
            no_B,
            no_B,
            canvas.frozen_BL,
            memory,
            trace_arrays,
        )
        if prefill and kind == "exact":
            seen = replace(canvas, t_BL=jnp.zeros((B, L)))
            at = replace(at, memory=self.reader.first(seen, memory, prefill), nfe=nfe + 1)
            at = replace(
                at,
                trace_arrays=record(
                    trace_arrays,
                    canvas.z_BL,
                    logprob_BL,
                    self.share_left(prefill // self.size * sampler.steps - 1),
                ),
            )
            at = replace(at, n=jnp.int32(prefill // self.size * sampler.steps - 1))
        at = self._next(at)
        total = self.blocks * sampler.steps

        def body(at: _At) -> _At:
            block, at = at.n // sampler.steps, self._step(at, whole=True)
            if not self.reader.has_parts or sampler.cache.refresh == 1:
                return at

            def due(at):
                return (at.since < sampler.cache.refresh) if sampler.cache.refresh else True

            def here(at):
                return (at.n < total) & (self.sliding | (at.n // sampler.steps == block)) & due(at)

            return jax.lax.while_loop(here, lambda at: self._step(at, whole=False), at)

        return jax.lax.while_loop(lambda at: at.n < total, body, at)

    # ------------------------------------------------------------------------------------------------------------- one step

    def _step(self, at: _At, whole: bool) -> _At:
        sampler, vocab = self.sampler, self.process.vocab
        b, i = at.n // sampler.steps, at.n % sampler.steps
        row_index_BR, t_B, s_B = self._window(at, b, i)
        position_time_B = sampler.rule.time(at.state, t_B, self.process)
        seen = replace(
            at.canvas, t_BL=self._position_time(at.canvas, row_index_BR, b, position_time_B)
        )
        key_B = jax.vmap(jax.random.fold_in, (0, None))(self.key_B, at.n)
        if whole:
            output, memory = self.reader.whole(seen, at.memory, b, row_index_BR)
        elif self.sliding:
            output, memory = self.reader.scattered(seen, at.memory, row_index_BR, True)
        elif self.reader.kind != "delayed":
            output, memory = self.reader.part(seen, at.memory, b, row_index_BR)
        if whole or self.sliding or self.reader.kind != "delayed":
            return self._moved(
                replace(at, memory=memory), output, seen, row_index_BR, key_B, t_B, s_B, whole
            )
        here_BL = self.block_BL == b
        wanted_BL = (
            here_BL & ~at.canvas.frozen_BL & ((at.canvas.z_BL == vocab.mask) | at.just_changed_BL)
        )
        widths, most = self.reader.widths(), wanted_BL.sum(1).max()

        def narrow(width):
            def branch(at: _At) -> _At:
                row_index_BR = jax.lax.top_k(wanted_BL + 0.5 * here_BL, width)[1]
                wanted_BR = jnp.take_along_axis(wanted_BL, row_index_BR, 1)
                output, memory = self.reader.scattered(seen, at.memory, row_index_BR, wanted_BR)
                return self._moved(
                    replace(at, memory=memory), output, seen, row_index_BR, key_B, t_B, s_B, False
                )

            return branch

        return jax.lax.switch(
            sum(jnp.int32(most > w) for w in widths[:-1]), [narrow(w) for w in widths], at
        )

    def _window(self, at: _At, b, i):
        """(place_BR, t_B, s_B): the positions of this step, and the times it moves from and to."""
        steps, (B, L) = self.sampler.steps, at.canvas.z_BL.shape
        if not self.sliding:
            row_index_BR = (
                jnp.arange(L)[None]
                if self.packed or self.size == L
                else (b * self.size + jnp.arange(self.size))[None]
            )
            t, s = (self._clock(u) for u in (1 - i / steps, 1 - (i + 1) / steps))
            return (
                jnp.broadcast_to(row_index_BR, (B, row_index_BR.shape[1])),
                jnp.full(B, t),
                jnp.full(B, s),
            )
        open_BL = at.canvas.z_BL == self.process.vocab.mask
        start_B = jnp.where(open_BL.any(1), open_BL.argmax(1), L)
        row_index_BR = start_B[:, None] + jnp.arange(self.size)
        segments_BL = at.canvas.layout.segments_BL
        length_B = L if segments_BL is None else (segments_BL > 0).sum(1)  # without padding
        masks_B = (positions.take(open_BL, row_index_BR) & (row_index_BR < L)).sum(1)
        t_B = jnp.maximum(masks_B, 1) * (
            1 / jnp.clip(length_B, 1, self.size)
        )  # rounded alike whether the length is a constant or not
        return row_index_BR, t_B, jnp.maximum(t_B - 1 / steps, 0.0)

    def _clock(self, u):
        return self.sampler.remask.clock(u, self.process) if self.sampler.remask else u

    def _position_time(self, canvas: Canvas, row_index_BR, b, t_B):
        """The time of each position: t in the block, 0 before it, 1 after it."""
        if is_autoregressive(self.visibility):
            return jnp.zeros(canvas.z_BL.shape)
        if self.sliding:
            i_L, first_B1 = jnp.arange(canvas.z_BL.shape[1]), row_index_BR[:, :1]
            return jnp.where(
                i_L < first_B1, 0.0, jnp.where(i_L < first_B1 + self.size, t_B[:, None], 1.0)
            )
        position_time_BL = jnp.where(self.block_BL == b, t_B[:, None], self.block_BL > b)
        return jnp.broadcast_to(position_time_BL, canvas.z_BL.shape).astype(jnp.float32)

    def _moved(
        self, at: _At, output: Output, seen: Canvas, row_index_BR, key_B, t_B, s_B, whole: bool
    ) -> _At:
        """What the rule makes of what was read."""
        sampler, vocab = self.sampler, self.process.vocab
        L, R = seen.z_BL.shape[1], row_index_BR.shape[1]
        everything = (
            R == L and self.aligned and (whole or self.reader.kind != "delayed")
        )  # as it stands
        part = (lambda x: x) if everything else (lambda x: positions.take(x, row_index_BR))
        old = seen if everything else seen.gather(row_index_BR)
        mine_BR = (
            True
            if self.sliding
            else part(jnp.broadcast_to(self.block_BL == at.n // sampler.steps, seen.z_BL.shape))
        )
        active_BR = (
            ~old.frozen_BL
            & mine_BR
            & (row_index_BR < L)
            & ~at.block_done_B[:, None]
            & ~at.done_B[:, None]
        )
        view = StepView(
            self.process, active_BR, t_B, s_B, part(at.logprob_BL), row_index_BL=row_index_BR
        )
        tempered = replace(
            output,
            prediction=Tempered(
                output.prediction, sampler.temperature, sampler.top_p, sampler.top_k
            ),
        )
        if sampler.remask:
            view = self._coming_back(view, tempered, old, key_B)
        new, state = sampler.rule.step(key_B, tempered, old, view, at.state)
        if sampler.remask:
            new = replace(new, z_BL=jnp.where(view.remasked_BL, vocab.mask, new.z_BL))
        changed_BR = new.z_BL != old.z_BL
        logprob_BR = _scored(output.prediction, new.z_BL, changed_BR, view.logprob_BL)
        logprob_BR = jnp.where(new.z_BL == vocab.mask, 0.0, logprob_BR)
        put = (
            (lambda old, new: new)
            if everything
            else (lambda old, new: positions.put(old, row_index_BR, new))
        )
        canvas = replace(seen, z_BL=put(seen.z_BL, new.z_BL))
        logprob_BL = put(at.logprob_BL, logprob_BR)
        just_changed_BL = put(jnp.zeros_like(at.just_changed_BL), changed_BR)
        row = canvas.z_BL, logprob_BL, self.share_left(at.n)
        return self._next(
            replace(
                at,
                nfe=at.nfe + (2 if sampler.guidance else 1),
                since=jnp.int32(1) if whole else at.since + 1,
                canvas=canvas,
                state=state,
                logprob_BL=logprob_BL,
                just_changed_BL=just_changed_BL,
                trace_arrays=self.record(at.trace_arrays, *row),
            )
        )

    def _coming_back(self, view: StepView, output: Output, canvas: Canvas, key_B) -> StepView:
        """σ, and which tokens become masks; none in the last step of a block."""
        remask, alpha = (
            self.sampler.remask,
            lambda t_B: 1 - self.process.schedule.noised(t_B)[:, None],
        )
        sigma_BL = remask.rate(output, canvas, view, alpha(view.t_B), alpha(view.s_B)) * (
            view.s_B[:, None] > 0
        )
        u_BL = keys.uniform_BL(
            jax.vmap(lambda k: keys.key(k, "remask"))(key_B), canvas.z_BL.shape[1]
        )
        remasked_BL = view.active_BL & (canvas.z_BL != self.process.vocab.mask) & (u_BL < sigma_BL)
        return replace(view, sigma_BL=sigma_BL, remasked_BL=remasked_BL)

    # ------------------------------------------------------------------------------------------------------------ what next

    def _next(self, at: _At) -> _At:
        """The next step: of this block while a row has something to do in it, else of the next block with something to do."""
        steps, vocab = self.sampler.steps, self.process.vocab
        b, begun = at.n // steps, at.n >= 0
        open_BL = (at.canvas.z_BL == vocab.mask) & ~at.done_B[:, None]
        here_BL = jnp.broadcast_to((self.block_BL == b) | self.sliding, open_BL.shape)
        if self.ends != "late":
            block_done_B = ~(open_BL & here_BL).any(1)
            if self.ends == "unchanged":
                block_done_B &= ~at.just_changed_BL.any(1) & begun
            at = replace(at, block_done_B=at.block_done_B | (block_done_B & begun))
        over = at.block_done_B | at.done_B
        left = (at.n + 1) % steps != 0  # steps of this block
        if self.sliding:
            at = self._ended(at, begun)
            return replace(
                at,
                n=jnp.where((open_BL & ~at.done_B[:, None]).any(), at.n + 1, self.blocks * steps),
            )
        stays = begun & left & ~over.all()
        at = self._ended(at, begun & ((self.ends == "unmasked") | ~stays))
        stays &= ~(at.block_done_B | at.done_B).all()
        todo_BL = open_BL if self.ends == "unmasked" else ~at.canvas.frozen_BL
        todo_BL &= ~at.done_B[:, None]
        if (
            self.reader.stepwise
        ):  # keys and values of every block are needed, up to the last with something to do
            last = jnp.where(todo_BL, self.block_BL, -1).max()
            following = jnp.where(b < last, b + 1, self.blocks)
        else:
            following = jnp.where(todo_BL & (self.block_BL > b), self.block_BL, self.blocks).min()
        n = jnp.where(stays, at.n + 1, following * steps)
        just_changed = self.sampler.rule.init(at.canvas)
        state = jax.tree.map(lambda new, old: jnp.where(stays, old, new), just_changed, at.state)
        return replace(at, n=n, state=state, block_done_B=at.block_done_B & stays)

    def _ended(self, at: _At, view) -> _At:
        """Rows whose text has ended: an end of text after the last anchor, and no mask before it."""
        if not self.stop:
            return at
        z_BL, vocab, i_L = at.canvas.z_BL, self.process.vocab, jnp.arange(at.canvas.z_BL.shape[1])

        def first(hit_BL):
            return jnp.where(hit_BL, i_L, len(i_L)).min(1)

        ends_BL = vocab.ending(z_BL) & ~at.canvas.frozen_BL & (i_L > self.last_anchor_B[:, None])
        reached_BL = self.block_BL <= jnp.where(
            self.sliding, self.blocks, at.n // self.sampler.steps
        )
        ended_B = first(ends_BL & reached_BL) < first(z_BL == vocab.mask)
        return replace(at, done_B=at.done_B | (ended_B & view))

    def _reopened(self, canvas: Canvas, logprob_BL):
        """The canvas with the least certain share of what was written masked again, and the log-probabilities of the rest."""
        written_BL = ~canvas.frozen_BL & (canvas.z_BL != self.process.vocab.mask)
        count_B1 = jnp.ceil(self.sampler.remask_fraction * written_BL.sum(1, keepdims=True) - 1e-3)
        again_BL = written_BL & (
            positions.ranks(jnp.where(written_BL, -logprob_BL, -jnp.inf)) < count_B1
        )
        z_BL = jnp.where(again_BL, self.process.vocab.mask, canvas.z_BL)
        return replace(canvas, z_BL=z_BL), jnp.where(again_BL, 0.0, logprob_BL)


def _scored(prediction, z_BR, changed_BR, logprob_BR):
    """Log-probabilities, those of what has changed read anew."""

    def score(logprob_BR, position_BR, valid_BR, n):
        scored_BR = prediction.gather(position_BR).log_prob(positions.take(z_BR, position_BR))
        return positions.put(
            logprob_BR,
            position_BR,
            jnp.where(valid_BR, scored_BR, positions.take(logprob_BR, position_BR)),
        )

    return positions.over(changed_BR, score, logprob_BR)
