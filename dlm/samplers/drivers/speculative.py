"""Self-speculation: the network drafts several tokens, and verifies them in a single pass.

    draft     q_i = p(x_i | x_<p, x_p … x_j), j < i      a window of S masks, filled in `steps`
                                                         passes, each the next S/steps in the order
    verify    p_i = p(x_i | x_<i) for all i of the window at once: two streams, blocks of one
    accept    x_i with probability min(1, p_i(x_i)/q_i(x_i)), from the first on; the first that is
              refused is drawn from max(0, p_i − q_i)/Σ

(S2D2, arXiv:2603.25702.) The law of the text is that of the verifier, deciding one position after
the other (arXiv:2211.17192, theorem 1); the draft only changes how many passes it takes. That needs
each q_i to be the law of x_i given the positions before it in the order, so drafts are filled in
the order too. For models with blocks (`objectives.block`, whose blocks of one are the verifier)
from left to right; for `objectives.any_order` in any order. Accepted tokens are cached, and
computed once more if they were drawn by the verifier.

`sampler.block` is S, `sampler.steps` the passes of a draft. A round costs one pass more, and
settles at least one token.

Shapes: B rows, L positions, S of them in a draft, R in a pass with a cache, V ids.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import (
    Cache,
    Canvas,
    Net,
    Prediction,
    Process,
    Recorder,
    Sampled,
    Trace,
)
from dlm.core.errors import UserError
from dlm.core.named import Seed
from dlm.core.pytree import pytree
from dlm.nn.visibility.block import Block
from dlm.samplers import drafts, positions, row_keys
from dlm.samplers.drivers.base import Driver, ended
from dlm.samplers.plan import Sampler


@dataclass(frozen=True)
class Speculative(Driver):
    """Drafts of several tokens, of which a verified part is accepted."""

    order: Literal["left_to_right", "shuffled", "given"] = (
        "left_to_right"  # given: by the layout's block_BL
    )
    seed: Seed = Seed(0)  # of the shuffled order

    claims: ClassVar[str] = "the law of deciding one position after the other"
    order_randomness: ClassVar[str | None] = (
        "decides by chance which drafts are kept; its likelihood is that of "
        "samplers.rules.ordered with steps=block"
    )
    needs_final: ClassVar[bool] = True
    drafts: ClassVar[bool] = True

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
        del prefill  # all anchors are computed in one pass
        canvas = replace(start.canvas, cache=None)
        cache = start.canvas.cache
        # Blocks of one verify.
        visibility = canvas.visibility
        assert isinstance(visibility, Block), "other visibilities cannot verify"
        canvas = replace(canvas, visibility=replace(visibility, size=1))
        rank_BL = self._ranks(canvas)
        order = drafts.Order.of(canvas, rank_BL, self.order == "left_to_right")
        loop = _Loop(net, plan, process, canvas, order, key_B, recorder, stop)
        s = loop.first(start, cache)
        s = jax.lax.while_loop(loop.unfinished, loop.round, s)
        # A pass for the anchors, and in each round one more than a draft takes.
        anchors = int(cache is not None)
        each = loop.passes + 1
        nfe = start.nfe + anchors + s.round * each
        return Sampled(replace(canvas, z_BL=s.z_BL), s.log_prob_BL, nfe, s.trace)

    def _ranks(self, canvas: Canvas) -> Array:
        """Returns the rank of each position in the order, int32_BL.

        Anchors come first and attend to each other; from left to right they stay in place.
        """
        B, L = canvas.z_BL.shape
        if self.order == "left_to_right":
            return jnp.broadcast_to(jnp.arange(L), (B, L))
        if self.order == "given":
            score_BL = canvas.layout.block_BL
            if score_BL is None:
                raise UserError(
                    "sampler.driver.order='given' needs an order with each text: use "
                    "left_to_right or shuffled"
                )
        else:
            root = jax.random.key(self.seed)
            score_BL = jax.random.uniform(root, (1, L))
        score_BL = jnp.where(canvas.frozen_BL, -1.0, score_BL)
        order_BL = jnp.argsort(score_BL, 1)
        rank_BL = jnp.argsort(order_BL, 1)
        return jnp.where(canvas.frozen_BL, -1, rank_BL)


@pytree
class _State:
    """The changing part of a pass over a canvas."""

    round: Array
    z_BL: Array
    settled_B: Array  # positions decided, in the order
    log_prob_BL: Array
    ended_B: Array  # rows that need no further round
    cache: Cache | None
    trace: Trace | None


@pytree
class _Window:
    """The positions of a round."""

    index_BS: Array  # positions in the row
    valid_BS: Array  # bool, those not beyond the end of the order
    settled_B: Array  # rank of the first
    last_B1: Array  # rank of the last


@dataclass(frozen=True)
class _Loop:
    """The fixed part of a pass, and its steps."""

    net: Net
    plan: Sampler
    process: Process
    start: Canvas
    order: drafts.Order
    key_B: Array
    recorder: Recorder
    stop: bool

    @property
    def size(self) -> int:
        """Positions of a draft."""
        return min(self.plan.block, self.start.z_BL.shape[1])

    @property
    def each(self) -> int:
        """Tokens that a pass of a draft fills, whatever the length of the canvas."""
        return -(-self.plan.block // self.plan.steps)

    @property
    def passes(self) -> int:
        """Passes of a draft."""
        return -(-self.size // self.each)

    def first(self, start: Sampled, cache: Cache | None) -> _State:
        """Returns the state before the first round; anchors are computed at once."""
        B, L = self.start.z_BL.shape
        order = self.order
        if cache is not None:
            z_BL = self.start.z_BL
            i_L = jnp.arange(L)
            index_BL = jnp.broadcast_to(i_L, (B, L))
            _, cache = self._read(z_BL, cache, index_BL, order.rank_BL)
        return _State(
            round=jnp.int32(0),
            z_BL=self.start.z_BL,
            settled_B=order.begin_B,
            log_prob_BL=start.log_prob_BL,
            ended_B=order.begin_B >= order.end_B,
            cache=cache,
            trace=start.trace,
        )

    def unfinished(self, s: _State) -> Array:
        """Returns whether a row needs a further round."""
        return ~s.ended_B.all()

    def round(self, s: _State) -> _State:
        """Drafts, verifies, and writes the accepted tokens."""
        L = s.z_BL.shape[1]
        key_B = row_keys.named(self.key_B, "round", s.round)
        window = self._window(s)
        drafted_BS, q_BSV, cache = self._draft(s, key_B, window)
        z_BL = self._put(s.z_BL, window.index_BS, drafted_BS, window.valid_BS)
        prediction, cache = self._verify(z_BL, cache, window)
        sharp = self._sharp(prediction)
        p_BSV = sharp.probs()
        final_BS, count_B = drafts.accepted(
            key_B, p_BSV, q_BSV, drafted_BS, window.valid_BS
        )
        # Positions behind the first refused draft are masks again.
        count_B1 = count_B[:, None]
        accepted_BS = jnp.arange(self.size) < count_B1
        settled_BS = window.valid_BS & accepted_BS
        z_BL = self._put(s.z_BL, window.index_BS, final_BS, settled_BS)
        log_prob_BS = prediction.log_prob(final_BS)
        log_prob_BL = self._put(s.log_prob_BL, window.index_BS, log_prob_BS, settled_BS)
        settled_B = s.settled_B + count_B
        at_end_B = settled_B >= self.order.end_B
        ended_B = s.ended_B | at_end_B
        if self.stop:
            start = self.start
            undecided_BL = self.process.undecided(z_BL, start.layout)
            ended_B |= ended(self.process, start, z_BL, undecided_BL)
        least = settled_B.min()
        left = 1 - least / L
        trace = self.recorder.frame(s.trace, z_BL, log_prob_BL, left)
        return _State(s.round + 1, z_BL, settled_B, log_prob_BL, ended_B, cache, trace)

    def _window(self, s: _State) -> _Window:
        """Returns the next positions of the order."""
        L = s.z_BL.shape[1]
        first_B1 = s.settled_B[:, None]
        end_B1 = self.order.end_B[:, None]
        rank_BS = first_B1 + jnp.arange(self.size)
        ended_B1 = s.ended_B[:, None]
        valid_BS = rank_BS < end_B1
        valid_BS &= ~ended_B1
        behind_B1 = first_B1 + self.size
        last_B1 = jnp.minimum(behind_B1, end_B1) - 1
        # Ranks beyond the end are not valid, whatever their position.
        in_row_BS = jnp.minimum(rank_BS, L - 1)
        index_BS = positions.take(self.order.position_BL, in_row_BS)
        return _Window(index_BS, valid_BS, s.settled_B, last_B1)

    def _sharp(self, prediction: Prediction) -> Prediction:
        plan = self.plan
        return prediction.tempered(plan.temperature, plan.top_p, plan.top_k)

    # ------------------------------------------------------------------------ draft and verdict

    def _draft(self, s: _State, key_B: Array, window: _Window):
        """Returns (tokens, the laws that they were drawn from, cache)."""

        def step(n, carry):
            z_BS, q_BSV, cache = carry
            z_BL = self._put(s.z_BL, window.index_BS, z_BS, window.valid_BS)
            prediction, cache = self._predict(z_BL, cache, window)
            law = self._sharp(prediction)
            drawn_BS = law.sample(row_keys.named(key_B, "draft", n))
            # Each pass fills its part of the draft.
            pass_S = jnp.arange(self.size) // self.each
            now_S = pass_S == n
            z_BS = jnp.where(now_S, drawn_BS, z_BS)
            q_BSV = jnp.where(now_S[:, None], law.probs(), q_BSV)
            return z_BS, q_BSV, cache

        shape = window.index_BS.shape
        vocab = self.process.vocab
        masks_BS = jnp.full(shape, vocab.mask, jnp.int32)
        nothing_BSV = jnp.zeros((*shape, vocab.size))
        carry = masks_BS, nothing_BSV, s.cache
        return jax.lax.fori_loop(0, self.passes, step, carry)

    def _predict(self, z_BL: Array, cache: Cache | None, window: _Window):
        """Returns the prediction in the window, all of it one block, and the cache.

        The token before it is computed once more, since the verifier may have drawn it.
        """
        index_BS = window.index_BS
        rank_BL = self.order.rank_BL
        shape = index_BS.shape
        block_BS = jnp.broadcast_to(window.last_B1, shape)
        if cache is None:
            block_BL = self._put(rank_BL, index_BS, block_BS, window.valid_BS)
            prediction = self._whole(z_BL, block_BL)
            return prediction.gather(index_BS), None
        settled_B1 = window.settled_B[:, None]
        rank_B1 = jnp.maximum(settled_B1 - 1, 0)
        before_B1 = positions.take(self.order.position_BL, rank_B1)
        before_block_B1 = positions.take(rank_BL, before_B1)
        # The token before, then the window.
        index_BR = jnp.concatenate([before_B1, index_BS], 1)
        valid_BR = jnp.concatenate([settled_B1 > 0, window.valid_BS], 1)
        block_BR = jnp.concatenate([before_block_B1, block_BS], 1)
        prediction, cache = self._read(z_BL, cache, index_BR, block_BR, valid_BR)
        after_first_S = 1 + jnp.arange(self.size)
        after_first_BS = jnp.broadcast_to(after_first_S, shape)
        return prediction.gather(after_first_BS), cache

    def _verify(self, z_BL: Array, cache: Cache | None, window: _Window):
        """Returns the prediction of each position from all before it in the order, and a cache."""
        rank_BL = self.order.rank_BL
        if cache is None:
            frozen_BL = self.start.frozen_BL
            hidden_BL = jnp.where(frozen_BL, z_BL, self.process.vocab.mask)
            prediction = self._whole(hidden_BL, rank_BL, z_BL)
            return prediction.gather(window.index_BS), None
        # No position attends to those beyond the end.
        beyond = rank_BL.shape[1]
        rank_BS = positions.take(rank_BL, window.index_BS)
        block_BS = jnp.where(window.valid_BS, rank_BS, beyond)
        index_BS = window.index_BS
        return self._read(z_BL, cache, index_BS, block_BS, window.valid_BS, clean=True)

    # ------------------------------------------------------------------- calls of the network

    def _noised(self, z_BL: Array) -> Canvas:
        """Returns the canvas with these tokens, and the time 1 at undecided ones."""
        undecided_BL = self.process.undecided(z_BL, self.start.layout)
        t_BL = jnp.where(undecided_BL, 1.0, 0.0)
        return replace(self.start, z_BL=z_BL, t_BL=t_BL)

    def _whole(self, z_BL, block_BL, clean_BL=None) -> Prediction:
        """Returns the prediction of a pass over all positions."""
        canvas = self._noised(z_BL)
        layout = replace(canvas.layout, block_BL=block_BL)
        canvas = replace(canvas, layout=layout, clean_BL=clean_BL)
        return self.net(canvas).prediction

    def _read(
        self,
        z_BL: Array,
        cache: Cache,
        index_BR: Array,
        block_BR: Array,
        valid_BR: Array | bool = True,
        clean: bool = False,
    ) -> tuple[Prediction, Cache]:
        """Returns (prediction, cache) of a pass over these positions alone.

        `clean`: as [masks ; tokens], of which the tokens are cached.
        """
        part = self._noised(z_BL).gather(index_BR)
        if clean:
            mask = self.process.vocab.mask
            tokens_BR = part.z_BL
            masks_BR = jnp.full_like(tokens_BR, mask)
            t_BR = jnp.ones(masks_BR.shape)
            part = replace(part, z_BL=masks_BR, t_BL=t_BR, clean_BL=tokens_BR)
        beyond = z_BL.shape[1]
        slots_BR = jnp.where(valid_BR, index_BR, beyond)
        layout = replace(part.layout, block_BL=block_BR, index_BL=slots_BR)
        rank_BL = self.order.rank_BL
        every = replace(self.start.layout, block_BL=rank_BL)
        slotted = replace(cache, layout=every, slots_BL=slots_BR, start=None)
        part = replace(part, layout=layout, cache=slotted)
        output = self.net(part)
        stored = output.cache
        assert stored is not None
        return output.prediction, Cache(stored.k_NBMJK, stored.v_NBMJK)

    def _put(self, array_BL, index_BS, value_BS, where_BS) -> Array:
        """Returns the array with the values where `where_BS` is true.

        Positions that occur more than once are beyond the end of the order.
        """
        beyond = array_BL.shape[1]
        index_BS = jnp.where(where_BS, index_BS, beyond)
        value_BS = value_BS.astype(array_BL.dtype)
        return jax.vmap(_scatter)(array_BL, index_BS, value_BS)


def _scatter(array_L, index_S, value_S):
    return array_L.at[index_S].set(value_S, mode="drop")
