"""Strings in, strings out: `generate(list[Request]) -> list[Reply]` is all that agents, tasks and commands know of a model.

A request is a template: strings (or ids) are anchors that never change, numbers are holes of that many tokens. A prompt is a string
and one hole; infilling has text on both sides.
"""

import copy
import math
import time
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts import Canvas, Layout, Net, Visibility
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.nn.visibility import is_autoregressive
from dlm.samplers import plan
from dlm.samplers.drivers.base import Sampled
from dlm.samplers.plan import Sampler, resolve
from dlm.samplers.requests import Reply, Request

_BUCKET = 32  # canvas and prefill lengths are multiples of this, so that few shapes compile


def generate(
    net: Net,
    sampler: Sampler,
    process,
    canvas: Canvas,
    key_B,
    *,
    memory=None,
    prefill=0,
    stop=False,
    trace=False,
) -> Sampled:
    """Fills the masks of `canvas`.

    There is one key per row, so a row depends neither on its batch nor on the length of the canvas.

    Args:
      memory: an empty cache for the canvas, if the sampler uses one (`plan.cache_kind`).
      prefill: so many leading positions, all of them anchors, are computed in one pass.
      stop: a row ends at its end of text.
      trace: every pass is recorded.
    """
    sampled = sampler.driver.run(net, sampler, process, canvas, key_B, memory, prefill, stop, trace)
    # Only positions after the end of a text may still be masks.
    z_BL = sampled.canvas.z_BL
    hidden_BL = (z_BL == process.vocab.mask) & process.final
    z_BL = jnp.where(hidden_BL, process.vocab.pad, z_BL)
    return replace(sampled, canvas=replace(sampled.canvas, z_BL=z_BL))


class Generator:
    """A network with everything it takes to turn requests into replies.

    `net(params)` and `memory(batch, length)`, an empty cache, come from the network; `process(params)`
    and `visibility` from the objective it was trained with; `sharding` says where on a mesh the results lie.
    """

    def __init__(
        self,
        net,
        memory,
        params,
        tokenizer,
        sampler: Sampler,
        process,
        visibility: Visibility,
        *,
        seed=0,
        trace=False,
        sharding=None,
    ):
        sampler = resolve(sampler, process(params), visibility)
        self.params, self.tokenizer, self.sampler, self.visibility, self.seed = (
            params,
            tokenizer,
            sampler,
            visibility,
            seed,
        )
        self.cached = any(plan.cache_kind(part, visibility) != "none" for part in sampler.passes)

        def run(params, canvas, key_B, prefill):
            rows, length = canvas.z_BL.shape
            kept = memory(rows * (2 if sampler.guidance else 1), length) if self.cached else None
            options = dict(memory=kept, prefill=prefill, stop=True, trace=trace)
            return generate(net(params), sampler, process(params), canvas, key_B, **options)

        self.run = jax.jit(run, static_argnames="prefill", out_shardings=sharding)

    def holding(self, params, seed: int) -> "Generator":
        """The same, compiled already, with other parameters and another seed."""
        other = copy.copy(self)
        other.params, other.seed = params, seed
        return other

    @property
    def vocab(self) -> Vocab:
        return self.tokenizer.vocab

    def __call__(self, requests: list[Request], first: int = 0) -> list[Reply]:
        """One batch; row i draws from the key of sample `first` + i, whatever stands in the other rows."""
        rows = [self._row(r) for r in requests]
        canvas = self._canvas(rows)
        begin = time.perf_counter()
        sampled = jax.block_until_ready(
            self.fill(canvas, first + jnp.arange(len(rows)), self._prefill(canvas))
        )
        seconds = time.perf_counter() - begin
        host = jax.tree.map(np.asarray, sampled)
        return [
            self._reply(host, np.asarray(canvas.z_BL), b, row, seconds)
            for b, row in enumerate(rows)
        ]

    def fill(self, canvas: Canvas, index_B, prefill: int = 0) -> Sampled:
        """The canvas filled, row i from the key of sample index_B[i]; the first `prefill` positions, all of them anchors, read at once."""
        key_B = keys.per_sample(keys.key(keys.root(self.seed), "sample"), index_B)
        return self.run(self.params, canvas, key_B, prefill=prefill)

    def _row(self, request: Request) -> "_Row":
        """A template as ids; adjacent anchors are encoded where they stand, and the first with what precedes a text."""
        parts = request.parts
        if not self.visibility.infills and any(not isinstance(p, int) for p in parts[1:]):
            one = is_autoregressive(self.visibility)
            kind = "an autoregressive" if one else "a block-diffusion"
            raise UserError(f"{kind} model cannot fill in: it does not see the text after the hole")
        if not sum(p if isinstance(p, int) else len(p) for p in parts):
            raise UserError("nothing to generate: a request needs at least one token")
        lead, rest = (
            (parts[0], parts[1:])
            if not isinstance(parts[0], int)
            else (np.zeros(0, np.int32), parts)
        )
        lead = self.tokenizer.encode_prompt(lead) if isinstance(lead, str) else lead
        front, before = self.tokenizer.opening(lead, self.reads)
        ids = [
            front,
            *(
                np.full(p, self.vocab.mask, np.int32) if isinstance(p, int) else self._anchor(p)
                for p in rest
            ),
        ]
        frozen = [
            np.full(len(i), not isinstance(p, int)) for i, p in zip(ids, (lead, *rest), strict=True)
        ]
        return _Row(
            np.concatenate(ids).astype(np.int32),
            np.concatenate(frozen),
            before,
            len(front) - len(lead),
        )

    @property
    def reads(self) -> int:
        """How many tokens before a row the network reads: 1 where its input is shifted."""
        return int(self.visibility.shift == "input")

    def _anchor(self, part: str | np.ndarray) -> np.ndarray:
        return self.tokenizer.encode(part) if isinstance(part, str) else part

    def _canvas(self, rows: list["_Row"]) -> Canvas:
        """Rows padded to one bucketed length; padding is frozen and, where positions see everything, a segment of its own."""
        lengths = [len(row.ids) for row in rows]
        if not rows or not max(lengths):
            raise UserError("nothing to generate: a request needs at least one token")
        L = max(lengths) if len(set(lengths)) == 1 else -(-max(lengths) // _BUCKET) * _BUCKET
        z_BL = np.full((len(rows), L), self.vocab.pad, np.int32)
        frozen_BL = np.ones((len(rows), L), bool)
        for b, row in enumerate(rows):
            z_BL[b, : len(row.ids)], frozen_BL[b, : len(row.ids)] = row.ids, row.frozen
        canvas = Canvas(
            jnp.asarray(z_BL), jnp.ones(z_BL.shape), jnp.asarray(frozen_BL), self.visibility
        )
        if min(lengths) < L and not is_autoregressive(self.visibility):
            segments_BL = np.arange(L) < np.array(lengths)[:, None]
            canvas = replace(canvas, layout=Layout(jnp.asarray(segments_BL, jnp.int32)))
        if self.reads:
            before_B = jnp.array([row.before for row in rows], jnp.int32)
            canvas = replace(canvas, before_B=before_B)
        return canvas

    def _prefill(self, canvas: Canvas) -> int:
        """How many leading positions are anchors in every row, as far as they may be read at once."""
        return self.prefill(int(np.argmin(np.append(np.asarray(canvas.frozen_BL).all(0), False))))

    def prefill(self, anchors: int) -> int:
        """How many of so many leading anchors are read at once: rounded down to a bucket; 0 without an exact cache."""
        if plan.cache_kind(self.sampler, self.visibility) != "exact" or self.sampler.driver.drafts:
            return 0
        unit = math.lcm(_BUCKET, self.visibility.block or 1)
        return anchors // unit * unit

    def _reply(self, sampled: Sampled, start_BL, b: int, row: "_Row", seconds: float) -> Reply:
        ids, frozen = (
            row.asked(sampled.canvas.z_BL[b], row.before),
            row.asked(sampled.canvas.frozen_BL[b], True),
        )
        last_anchor = int(np.flatnonzero(frozen)[-1]) if frozen.any() else -1
        ended = np.flatnonzero(
            self.vocab.ending(ids) & (np.arange(len(ids)) > last_anchor)
        )  # anchors are always shown
        shown = ids[: ended[0]] if len(ended) else ids
        trace = None
        if sampled.trace is not None:
            z_TBL, logprob_TBL, t_T, T = sampled.trace
            states_TL = row.asked(np.concatenate([start_BL[None, b], z_TBL[:T, b]]), row.before)
            committed = (states_TL[1:] != self.vocab.mask) & ~frozen
            trace = dict(
                states=states_TL,
                confidence=np.where(committed, np.exp(row.asked(logprob_TBL[:T, b], 0.0)), 0.0),
                times=np.append(1.0, t_T[:T]),
            )
        logprob = float(sampled.logprob_BL[b, : len(row.ids)].sum())
        return Reply(
            self.tokenizer.decode(shown), ids, frozen, logprob, int(sampled.nfe), seconds, trace
        )


class _Row(NamedTuple):
    """A template as it lies on the canvas."""

    ids: np.ndarray
    frozen: np.ndarray  # bool, which ids are anchors
    before: int  # the token before them, where the network reads one
    more: int  # ids that the template has not: 1 where a bos was put in front; −1 where its own first is the one before the row

    def asked(self, x_XL: np.ndarray, first) -> np.ndarray:
        """Of what lies along the canvas the part that lies along the template, with `first` where its first token is not in the row."""
        x_XL = x_XL[..., max(self.more, 0) : len(self.ids)]
        return np.insert(x_XL, 0, first, -1) if self.more < 0 else x_XL
