"""Strings in, strings out: `generate(list[Request]) -> list[Reply]` is all that agents, tasks and commands know of a model.

A request is a template: strings (or ids) are anchors that never change, numbers are holes of that many tokens. A prompt is a string
and one hole; infilling has text on both sides.
"""

import copy
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.nn.masks import Mask
from dlm.samplers import loop, reading
from dlm.samplers.config import Cache, Sampler

_BUCKET = 32  # canvas and prefill lengths are multiples of this, so that few shapes compile


@dataclass(frozen=True)
class Request:
    parts: tuple[str | int | np.ndarray, ...]

    @classmethod
    def prompt(cls, text: str, tokens: int) -> "Request":
        return cls((text, tokens) if text else (tokens,))

    @classmethod
    def infill(cls, template: str, tokens: int, hole: str = "___") -> "Request":
        """Every `hole` in the template stands for `tokens` tokens."""
        if hole not in template:
            raise UserError(f"nothing to fill in: the template has no {hole}")
        parts: list[str | int] = []
        for piece in template.split(hole):
            parts += [piece, tokens] if piece else [tokens]
        return cls(tuple(parts[:-1]))


@dataclass(frozen=True)
class Reply:
    text: str  # anchors and generated tokens, up to the first end of text after the last anchor
    ids: np.ndarray  # of the request's parts, with its holes filled
    frozen: np.ndarray  # bool, which ids are anchors
    logprob: float  # of the generated tokens when each was committed, nats
    nfe: int  # forward passes of the batch this reply came from
    seconds: float  # of that batch
    trace: dict[str, Any] | None = None  # states [T+1, L], confidence [T, L], times [T+1]


def resolve(sampler: Sampler, process, mask: Mask, first: bool = True) -> Sampler:
    """The sampler as a model with this noise and this attention needs it; raises UserError where it cannot be."""
    if first and sampler.reopen:
        raise UserError(
            f"sampler.reopen={sampler.reopen}: the first pass has nothing to open again; sampler.then.reopen is the second's"
        )
    if mask.kind == "causal" and (sampler.block, sampler.steps) != (1, 1):
        given = f"sampler.block={sampler.block} and sampler.steps={sampler.steps}"
        raise UserError(f"a causal model decides one position in one step: {given} must both be 1")
    _noise(sampler, process)
    _attention(sampler, mask)
    if hasattr(sampler.rule, "drive"):
        return _speculating(sampler, mask)
    if mask.kind == "block":
        if sampler.block not in (0, mask.size):
            raise UserError(
                f"sampler.block={sampler.block} must be 0 or {mask.size}: this model was trained with blocks of that size"
            )
        if (
            mask.size == 1
        ):  # nothing is left to order, and the first of several steps would mostly reveal nothing
            if getattr(sampler.rule, "order", "left_to_right") != "left_to_right":
                raise UserError(
                    f"sampler.rule.order={sampler.rule.order!r}: a model with blocks of one decides from left to right"
                )
            sampler = replace(sampler, steps=1)
        sampler = replace(sampler, block=mask.size)
    then = resolve(sampler.then, process, mask, first=False) if sampler.then else None
    return replace(sampler, then=then)


def _speculating(sampler: Sampler, mask: Mask) -> Sampler:
    """Drafts are longer than what a pass of theirs fills, and verified by blocks of one."""
    rule, order = _name(sampler.rule), sampler.rule.order
    if mask.kind != "block":
        raise UserError(
            f"sampler.rule={rule} needs a model of which blocks of one can verify: objectives.block or any_order"
        )
    if order != "left_to_right" and mask.order != "any":
        raise UserError(
            f"sampler.rule.order={order!r} needs a model that was trained on any order: objectives.any_order"
        )
    if not sampler.block or sampler.steps > sampler.block:
        raise UserError(
            f"sampler.block={sampler.block} is the length of a draft, of at least sampler.steps={sampler.steps} tokens: set both"
        )
    if sampler.then or sampler.remask:
        raise UserError(
            f"sampler.rule={rule} goes with neither sampler.then nor sampler.remask: what is verified stays"
        )
    return sampler


def _noise(sampler: Sampler, process) -> None:
    """What needs masks, or a schedule that all tokens share."""
    rule = _name(sampler.rule)
    if sampler.rule.absorbing and not process.final:
        raise UserError(
            f"sampler.rule={rule} fills masks, and this model's noise leaves none: use samplers.ancestral"
        )
    if sampler.cache.kind == "delayed" and not process.final:
        raise UserError(
            "sampler.cache.kind='delayed' reads masks alone, and this model's noise leaves none: use 'dual' or 'prefix'"
        )
    shared = hasattr(process, "time_of")
    if sampler.remask and not (process.final and shared):
        raise UserError(
            f"sampler.remask={_name(sampler.remask)} needs masks with one schedule for all tokens, and this model's noise has not"
        )
    if rule == "samplers.first_hitting" and not shared:
        raise UserError(
            f"sampler.rule={rule} needs one schedule for all tokens, and this model learned one for each"
        )


def _attention(sampler: Sampler, mask: Mask) -> None:
    """Which caches, windows and second passes a network's attention allows."""
    kind, whole = sampler.cache.kind, mask.kind == "full"
    if kind in ("prefix", "dual", "delayed") and not whole:
        raise UserError(
            f"sampler.cache.kind={kind!r} is for models that see the whole canvas; this one has an exact cache: use 'auto'"
        )
    if kind == "exact" and reading.kind(replace(sampler, cache=Cache()), mask) != "exact":
        raise UserError(
            "sampler.cache.kind='exact' needs a model that sees nothing later: use 'prefix', 'dual' or 'delayed'"
        )
    if kind in ("prefix", "dual", "delayed") and mask.shift:
        raise UserError(
            f"sampler.cache.kind={kind!r}: a network that predicts a token from the one before it reads more than the block"
        )
    if sampler.guidance and not whole:
        raise UserError(
            f"sampler.guidance={sampler.guidance} needs a model that may see masks in the place of its prompt, without an order"
        )
    if sampler.edge == "sliding":
        if not whole:
            raise UserError(
                "sampler.edge='sliding' needs a model that sees the whole canvas: this one's blocks have their places"
            )
        if kind not in ("auto", "none") and not (kind == "dual" and sampler.cache.refresh):
            raise UserError(
                f"sampler.edge='sliding' goes with cache.kind='none', or 'dual' and a cache.refresh, not with {kind!r}"
            )
    if mask.kind == "causal" and (sampler.then or sampler.remask or sampler.reopen):
        raise UserError(
            "a causal model writes once, from left to right: sampler.then, remask and reopen are for others"
        )


def _name(member) -> str:
    return type(member).__module__.removeprefix("dlm.")


class Generator:
    """A denoiser with everything it takes to turn requests into replies.

    `denoise(params, canvas, *, mask, cache)` and `memory(batch, length)`, an empty cache, come from the network; `process(params)`
    and `mask` from the objective it was trained with; `sharding` says where on a mesh the results lie.
    """

    def __init__(
        self,
        denoise,
        memory,
        params,
        tokenizer,
        sampler: Sampler,
        process,
        mask: Mask,
        *,
        seed=0,
        trace=False,
        sharding=None,
    ):
        sampler = resolve(sampler, process(params), mask)
        self.params, self.tokenizer, self.sampler, self.mask, self.seed = (
            params,
            tokenizer,
            sampler,
            mask,
            seed,
        )
        self.cached = any(reading.kind(part, mask) != "none" for part in sampler.passes)

        def run(params, canvas, key_B, prefill):
            rows, length = canvas.z_BL.shape
            kept = memory(rows * (2 if sampler.guidance else 1), length) if self.cached else None
            options = dict(memory=kept, prefill=prefill, stop=True, trace=trace)
            return loop.generate(
                partial(denoise, params), sampler, process(params), mask, canvas, key_B, **options
            )

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

    def fill(self, canvas: Canvas, index_B, prefill: int = 0) -> loop.Sampled:
        """The canvas filled, row i from the key of sample index_B[i]; the first `prefill` positions, all of them anchors, read at once."""
        key_B = keys.per_sample(keys.key(keys.root(self.seed), "sample"), index_B)
        return self.run(self.params, canvas, key_B, prefill=prefill)

    def _row(self, request: Request) -> "_Row":
        """A template as ids; adjacent anchors are encoded where they stand, and the first with what precedes a text."""
        parts = request.parts
        if self.mask.kind in ("causal", "block") and any(not isinstance(p, int) for p in parts[1:]):
            kind = "an autoregressive" if self.mask.kind == "causal" else "a block-diffusion"
            raise UserError(f"{kind} model cannot fill in: it does not see the text after the hole")
        if not sum(p if isinstance(p, int) else len(p) for p in parts):
            raise UserError("nothing to generate: a request needs at least one token")
        lead, rest = (
            (parts[0], parts[1:])
            if not isinstance(parts[0], int)
            else (np.zeros(0, np.int32), parts)
        )
        lead = self.tokenizer.encode_prompt(lead) if isinstance(lead, str) else lead
        front, before = self.tokenizer.opening(lead, self.mask.reads)
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
        padded = min(lengths) < L and self.mask.kind != "causal"
        fields = (
            {"segments_BL": jnp.asarray(np.arange(L) < np.array(lengths)[:, None], jnp.int32)}
            if padded
            else {}
        )
        fields |= (
            dict(before_B=jnp.array([row.before for row in rows], jnp.int32))
            if self.mask.reads
            else {}
        )
        return Canvas(jnp.asarray(z_BL), jnp.ones(z_BL.shape), jnp.asarray(frozen_BL), fields)

    def _prefill(self, canvas: Canvas) -> int:
        """How many leading positions are anchors in every row, as far as they may be read at once."""
        return self.prefill(int(np.argmin(np.append(np.asarray(canvas.frozen_BL).all(0), False))))

    def prefill(self, anchors: int) -> int:
        """How many of so many leading anchors are read at once: rounded down to a bucket; 0 without an exact cache."""
        if reading.kind(self.sampler, self.mask) != "exact" or hasattr(self.sampler.rule, "drive"):
            return 0
        unit = math.lcm(_BUCKET, max(self.mask.size, 1))
        return anchors // unit * unit

    def _reply(self, sampled: loop.Sampled, start_BL, b: int, row: "_Row", seconds: float) -> Reply:
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
