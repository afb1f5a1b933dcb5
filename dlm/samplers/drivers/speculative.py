"""Self-speculation: the network drafts several tokens at once, and verifies them one by one in a single pass (S2D2, arXiv:2603.25702).

    draft     q_i = p(x_i | x_<p, x_p … x_j), j < i      a window of S masks, filled in `steps` passes, each the next S/steps in the order
    verify    p_i = p(x_i | x_<i) for all i of the window at once: two streams, blocks of one
    accept    x_i with probability min(1, p_i(x_i)/q_i(x_i)), from the first on; the first that is not is drawn from max(0, p_i − q_i)/Σ

The law of what is written is that of the verifier, deciding one position after the other (2211.17192, theorem 1): the draft only
changes how many passes it takes. That needs each q_i to be the law of x_i given what stands before it in the order, so drafts are filled in
the order too. For models with blocks (`objectives.block`, of which blocks of one are the verifier) from left to right; for
`objectives.any_order` in any order. What was accepted is kept in a cache, and read once more if it was drawn anew.

`sampler.block` is S, `sampler.steps` the passes of a draft; a round costs one pass more, and settles at least one token.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Canvas, Net
from dlm.core.named import Seed
from dlm.samplers.drivers.base import Driver, Recorder, Sampled
from dlm.samplers.rules.base import anchors, last


@dataclass(frozen=True)
class Speculative(Driver):
    order: Literal["left_to_right", "shuffled", "given"] = (
        "left_to_right"  # given: by the layout's block_BL
    )
    seed: Seed = 0  # of the shuffled order

    claims: ClassVar = "the law of deciding one position after the other"
    order_randomness: ClassVar = "decides by chance which drafts are kept; its likelihood is that of samplers.rules.ordered with steps=block"
    needs_final: ClassVar = True
    drafts: ClassVar = True

    def run(
        self,
        net: Net,
        sampler,
        process,
        canvas: Canvas,
        key_B,
        memory,
        prefill,
        stop,
        trace,
    ) -> Sampled:
        """Fills the canvas; see `generator.generate` for the arguments."""
        record = Recorder(canvas.z_BL.shape[1] if trace else 0)
        return _SpeculativeRun(
            self, net, sampler, process, canvas, key_B, memory, stop, record
        ).run()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _At:
    round: jax.Array
    z_BL: jax.Array
    settled_B: jax.Array  # positions, in the order
    logprob_BL: jax.Array
    done_B: jax.Array
    memory: Any
    trace_arrays: Any


class _SpeculativeRun:
    """One batch; all that does not change while it runs."""

    def __init__(self, rule, net, sampler, process, canvas, key_B, memory, stop, record):
        self.rule, self.net, self.sampler, self.process = rule, net, sampler, process
        self.key_B, self.memory, self.stop, self.record = key_B, memory, stop, record
        self.start = replace(canvas, visibility=replace(canvas.visibility, size=1))
        self.B, self.L = canvas.z_BL.shape
        self.S = min(sampler.block, self.L)
        self.each = -(
            -sampler.block // sampler.steps
        )  # tokens that a pass fills, whatever the length of the canvas
        self.passes = -(-self.S // self.each)  # of a draft
        self.rank_BL = self._ranks(canvas)
        self.order_BL = jnp.argsort(self.rank_BL, 1)
        self.open_BL = ~canvas.frozen_BL
        fixed = self.rule.order == "left_to_right"
        last_B = jnp.where(self.open_BL, jnp.arange(self.L) + 1, 0).max(1)
        self.begin_B = (
            jnp.where(self.open_BL.any(1), self.open_BL.argmax(1), last_B)
            if fixed
            else canvas.frozen_BL.sum(1)
        )
        self.end_B = last_B if fixed else jnp.full(self.B, self.L)  # padding stands behind

    def _ranks(self, canvas: Canvas):
        """Anchors come first and see each other; without an order they stand where they are."""
        row_index_BL = jnp.broadcast_to(jnp.arange(self.L), (self.B, self.L))
        if self.rule.order == "left_to_right":
            return row_index_BL
        u_BL = (
            canvas.layout.block_BL
            if self.rule.order == "given"
            else jax.random.uniform(jax.random.key(self.rule.seed), (1, self.L))
        )
        fixed_BL = jnp.where(canvas.frozen_BL, -1.0, u_BL)
        rank_BL = jnp.argsort(jnp.argsort(fixed_BL, 1), 1)
        return jnp.where(canvas.frozen_BL, -1, rank_BL)

    def run(self):
        start = self.start
        memory, trace_arrays = self.memory, self.record.blank(self.B, self.L)
        if memory is not None:  # all anchors are read at once
            memory = self._read(
                start.z_BL,
                memory,
                jnp.broadcast_to(jnp.arange(self.L), (self.B, self.L)),
                self.rank_BL,
            )[1]
        nothing_BL = jnp.zeros((self.B, self.L))
        at = _At(
            jnp.int32(0),
            start.z_BL,
            self.begin_B,
            nothing_BL,
            self.begin_B >= self.end_B,
            memory,
            trace_arrays,
        )
        at = jax.lax.while_loop(lambda at: ~at.done_B.all(), self._round, at)
        nfe = at.round * (self.passes + 1) + (self.memory is not None)
        return Sampled(replace(start, z_BL=at.z_BL), at.logprob_BL, nfe, at.trace_arrays)

    def _round(self, at: _At) -> _At:
        key_B = jax.vmap(lambda k: keys.key(k, "round", at.round))(self.key_B)
        index_BS = at.settled_B[:, None] + jnp.arange(self.S)
        row_index_BS = jnp.take_along_axis(self.order_BL, jnp.minimum(index_BS, self.L - 1), 1)
        valid_BS = (index_BS < self.end_B[:, None]) & ~at.done_B[:, None]
        drafted_BS, q_BSV, memory = self._draft(at, key_B, row_index_BS, valid_BS)
        z_BL = self._put(at.z_BL, row_index_BS, drafted_BS, valid_BS)
        prediction, memory = self._verify(z_BL, memory, row_index_BS, valid_BS)
        sharp = self.sampler.temperature, self.sampler.top_p, self.sampler.top_k
        final_BS, count_B = _accepted(
            key_B, prediction.tempered(*sharp).probs(), q_BSV, drafted_BS, valid_BS
        )
        kept_BS = valid_BS & (jnp.arange(self.S) < count_B[:, None])
        z_BL = self._put(at.z_BL, row_index_BS, final_BS, kept_BS)
        logprob_BL = self._put(at.logprob_BL, row_index_BS, prediction.log_prob(final_BS), kept_BS)
        settled_B = at.settled_B + count_B
        done_B = at.done_B | (settled_B >= self.end_B) | self._ended(z_BL)
        trace_arrays = self.record(at.trace_arrays, z_BL, logprob_BL, 1 - settled_B.min() / self.L)
        return _At(at.round + 1, z_BL, settled_B, logprob_BL, done_B, memory, trace_arrays)

    def _draft(self, at: _At, key_B, row_index_BS, valid_BS):
        """(tokens, the laws they were drawn from, memory)."""
        sharp = self.sampler.temperature, self.sampler.top_p, self.sampler.top_k
        last_B1 = jnp.minimum(at.settled_B[:, None] + self.S, self.end_B[:, None]) - 1

        def step(n, carry):
            z_BS, q_BSV, memory = carry
            z_BL = self._put(at.z_BL, row_index_BS, z_BS, valid_BS)
            prediction, memory = self._window(
                z_BL, memory, at.settled_B, row_index_BS, valid_BS, last_B1
            )
            law = prediction.tempered(*sharp)
            drawn_BS = law.sample(jax.vmap(lambda k: keys.key(k, "draft", n))(key_B))
            chunk_S = jnp.arange(self.S) // self.each == n
            return (
                jnp.where(chunk_S, drawn_BS, z_BS),
                jnp.where(chunk_S[:, None], law.probs(), q_BSV),
                memory,
            )

        blank_BS = jnp.full(row_index_BS.shape, self.process.vocab.mask, jnp.int32)
        nothing_BSV = jnp.zeros((*row_index_BS.shape, self.process.vocab.size))
        return jax.lax.fori_loop(0, self.passes, step, (blank_BS, nothing_BSV, at.memory))

    def _window(self, z_BL, memory, settled_B, row_index_BS, valid_BS, last_B1):
        """The prediction at the window, all of it one block; the token before it is read once more, since it may have been drawn anew."""
        if memory is None:
            block_BL = self._put(
                self.rank_BL, row_index_BS, jnp.broadcast_to(last_B1, row_index_BS.shape), valid_BS
            )
            return self._whole(z_BL, block_BL).gather(row_index_BS), None
        before_B1 = jnp.take_along_axis(self.order_BL, jnp.maximum(settled_B - 1, 0)[:, None], 1)
        row_index_BR = jnp.concatenate([before_B1, row_index_BS], 1)
        known_BR = jnp.concatenate([(settled_B > 0)[:, None], valid_BS], 1)
        block_BR = jnp.concatenate(
            [
                jnp.take_along_axis(self.rank_BL, before_B1, 1),
                jnp.broadcast_to(last_B1, row_index_BS.shape),
            ],
            1,
        )
        output, memory = self._read(z_BL, memory, row_index_BR, block_BR, known_BR)
        return output.prediction.gather(
            jnp.broadcast_to(1 + jnp.arange(self.S), row_index_BS.shape)
        ), memory

    def _verify(self, z_BL, memory, row_index_BS, valid_BS):
        """The prediction of each position of the window from all before it in the order."""
        if memory is None:
            hidden_BL = jnp.where(self.open_BL, self.process.vocab.mask, z_BL)
            prediction = self._whole(hidden_BL, self.rank_BL, z_BL)
            return prediction.gather(row_index_BS), None
        block_BS = jnp.where(
            valid_BS, jnp.take_along_axis(self.rank_BL, row_index_BS, 1), self.L
        )  # beyond the end nobody is heard
        output, memory = self._read(z_BL, memory, row_index_BS, block_BS, valid_BS, clean=True)
        return output.prediction, memory

    def _whole(self, z_BL, block_BL, clean_BL=None):
        """The prediction of a pass over all positions."""
        t_BL = jnp.where(z_BL == self.process.vocab.mask, 1.0, 0.0)
        layout = replace(self.start.layout, block_BL=block_BL)
        more = dict(layout=layout, clean_BL=clean_BL)
        return self.net(replace(self.start, z_BL=z_BL, t_BL=t_BL, **more)).prediction

    def _read(self, z_BL, memory, row_index_BR, block_BR, valid_BR=True, clean=False):
        """(Output, memory) of a pass over these places; `clean`: as [masks ; tokens], of which the tokens are remembered."""
        t_BL = jnp.where(z_BL == self.process.vocab.mask, 1.0, 0.0)
        part = replace(self.start, z_BL=z_BL, t_BL=t_BL).gather(row_index_BR)
        if clean:
            blank_BR = jnp.full_like(part.z_BL, self.process.vocab.mask)
            t_BR = jnp.ones(blank_BR.shape)
            part = replace(part, z_BL=blank_BR, t_BL=t_BR, clean_BL=part.z_BL)
        slots_BR = jnp.where(valid_BR, row_index_BR, self.L)
        layout = replace(part.layout, block_BL=block_BR, index_BL=slots_BR)
        all_positions = replace(self.start.layout, block_BL=self.rank_BL)
        cache = replace(memory, layout=all_positions, slots_BL=slots_BR, start=None)
        output = self.net(replace(part, layout=layout, cache=cache))
        return output, output.cache

    def _put(self, array_BL, row_index_BS, value_BS, where_BS):
        """The array with the values where they are wanted; places that stand more than once are those of positions beyond the end."""
        safe_BS = jnp.where(where_BS, row_index_BS, self.L)
        return jax.vmap(lambda a, p, v: a.at[p].set(v, mode="drop"))(
            array_BL, safe_BS, value_BS.astype(array_BL.dtype)
        )

    def _ended(self, z_BL):
        """Rows with an end of text that no mask precedes."""
        if not self.stop:
            return jnp.zeros(self.B, bool)
        vocab, i_L = self.process.vocab, jnp.arange(self.L)

        def first(hit_BL):
            return jnp.where(hit_BL, i_L, self.L).min(1)

        ends_BL = vocab.ending(z_BL) & self.open_BL & (i_L > last(anchors(self.start))[:, None])
        return first(ends_BL) < first(z_BL == vocab.mask)


def _accepted(key_B, p_BSV, q_BSV, drafted_BS, valid_BS):
    """(tokens, how many of them are settled): drafts up to the first that is refused, and another token in its place."""
    accept_B, again_B = (
        jax.vmap(lambda k, n=name: keys.key(k, n))(key_B) for name in ("accept", "again")
    )
    S = drafted_BS.shape[1]

    def prob_of_draft(law_BSV):
        return jnp.take_along_axis(law_BSV, drafted_BS[..., None], -1)[..., 0]

    refused_BS = (
        keys.uniform_BL(accept_B, S) * prob_of_draft(q_BSV) >= prob_of_draft(p_BSV)
    ) & valid_BS
    first_B = jnp.where(refused_BS.any(1), refused_BS.argmax(1), S)
    rest_BSV = jnp.maximum(p_BSV - q_BSV, 0)
    rest_BSV = jnp.where(
        rest_BSV.sum(-1, keepdims=True) > 0, rest_BSV, p_BSV
    )  # equal up to rounding
    other_BS = keys.categorical(again_B, jnp.log(rest_BSV))
    tokens_BS = jnp.where(jnp.arange(S) == first_B[:, None], other_BS, drafted_BS)
    return tokens_BS, jnp.minimum(first_B + 1, valid_BS.sum(1))
