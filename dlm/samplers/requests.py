"""Requests and replies: the form in which tasks, agents and commands talk to a model.

A request is a template. Strings (or ids) are anchors that never change, numbers are holes of that
many tokens. A prompt is a string and one hole; infilling has text on both sides.

Shapes: B rows, L positions of a canvas, T recorded passes, X any leading axes.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core.contracts import Canvas, Layout, Sampled, Tokenizer, Trace, Visibility
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.nn.visibility import is_autoregressive

_InRow = tuple[np.ndarray, np.ndarray, np.ndarray]
BUCKET = (
    32  # canvas and prefill lengths are multiples of this, so that few shapes compile
)
_NOTHING = "nothing to generate: a request needs at least one token"


@dataclass(frozen=True)
class Request:
    """A template of anchors and holes."""

    parts: tuple[str | int | np.ndarray, ...]  # text, ids, or the length of a hole

    @classmethod
    def prompt(cls, text: str, tokens: int) -> "Request":
        """Returns a request for `tokens` tokens after a text."""
        return cls((text, tokens) if text else (tokens,))

    @classmethod
    def infill(cls, template: str, tokens: int, hole: str = "___") -> "Request":
        """Returns a request for `tokens` tokens instead of every `hole` in the template."""
        if hole not in template:
            raise UserError(f"nothing to fill in: the template has no {hole}")
        parts: list[str | int] = []
        for piece in template.split(hole):
            parts += [piece, tokens] if piece else [tokens]
        return cls(tuple(parts[:-1]))


@dataclass(frozen=True)
class Reply:
    """A filled template."""

    text: str  # anchors and generated tokens, up to the first end of text after the last anchor
    ids: np.ndarray  # of the request's parts, with its holes filled
    frozen: np.ndarray  # bool, which ids are anchors
    logprob: float  # of the generated tokens when each was decided, nats
    nfe: int  # forward passes of the batch that this reply is from
    seconds: float  # of that batch
    trace: dict[str, Any] | None = (
        None  # states [T+1, L], confidence [T, L], times [T+1]
    )


class Row(NamedTuple):
    """A template on a row of a canvas."""

    ids: np.ndarray
    frozen: np.ndarray  # bool, which ids are anchors
    before: int  # the token before them, for a network with shifted input
    # Ids beyond those of the template: 1 where a bos was added in front; −1 where the template's
    # own first id is the one before the row.
    more: int

    def of_template(self, x_XL: np.ndarray | Array, first: Any) -> np.ndarray:
        """Cuts values along the canvas to the ids of the template.

        `first` is the value at its first id where that is not in the row.
        """
        added = max(self.more, 0)
        x_XL = np.asarray(x_XL)[..., added : len(self.ids)]
        if self.more < 0:
            return np.insert(x_XL, 0, first, -1)
        return x_XL


def as_row(request: Request, tokenizer: Tokenizer, visibility: Visibility) -> Row:
    """Encodes a template.

    Adjacent anchors are encoded one by one, and the first with the ids that precede a text.
    """
    parts = request.parts
    _check(parts, visibility)
    anchor: Any = np.zeros(0, np.int32)
    rest = parts
    if not isinstance(parts[0], int):
        anchor = parts[0]
        rest = parts[1:]
    if isinstance(anchor, str):
        anchor = tokenizer.encode_prompt(anchor)
    front, before = tokenizer.opening(anchor, int(visibility.shift == "input"))
    ids = [front]
    frozen = [np.full(len(front), True)]
    for part in rest:
        if isinstance(part, int):
            piece = np.full(part, tokenizer.vocab.mask, np.int32)
        elif isinstance(part, str):
            piece = tokenizer.encode(part)
        else:
            piece = part
        ids.append(piece)
        frozen.append(np.full(len(piece), not isinstance(part, int)))
    all_ids = np.concatenate(ids).astype(np.int32)
    all_frozen = np.concatenate(frozen)
    added = len(front) - len(anchor)
    return Row(all_ids, all_frozen, before, added)


def _check(parts: tuple, visibility: Visibility) -> None:
    later = parts[1:]
    later_anchor = any(not isinstance(part, int) for part in later)
    if later_anchor and not visibility.infills:
        kind = (
            "an autoregressive"
            if is_autoregressive(visibility)
            else "a block-diffusion"
        )
        raise UserError(
            f"{kind} model cannot fill in: it does not see the text after the hole"
        )
    sizes = [part if isinstance(part, int) else len(part) for part in parts]
    if not sum(sizes):
        raise UserError(_NOTHING)


def as_canvas(rows: list[Row], vocab: Vocab, visibility: Visibility) -> Canvas:
    """Pads rows to one bucketed length.

    Padding is frozen, and a segment of its own where positions attend to the whole canvas.
    """
    lengths = [len(row.ids) for row in rows]
    if not rows or not max(lengths):
        raise UserError(_NOTHING)
    L = max(lengths)
    if len(set(lengths)) > 1:
        L = -(-L // BUCKET) * BUCKET
    z_BL = np.full((len(rows), L), vocab.pad, np.int32)
    frozen_BL = np.ones((len(rows), L), bool)
    for b, row in enumerate(rows):
        z_BL[b, : lengths[b]] = row.ids
        frozen_BL[b, : lengths[b]] = row.frozen
    t_BL = jnp.ones(z_BL.shape)
    canvas = Canvas(jnp.asarray(z_BL), t_BL, jnp.asarray(frozen_BL), visibility)
    if min(lengths) < L and not is_autoregressive(visibility):
        length_B1 = np.array(lengths)[:, None]
        in_row_BL = np.arange(L) < length_B1
        segments_BL = jnp.asarray(in_row_BL, jnp.int32)
        canvas = replace(canvas, layout=Layout(segments_BL))
    if visibility.shift == "input":
        before_B = jnp.array([row.before for row in rows], jnp.int32)
        canvas = replace(canvas, before_B=before_B)
    return canvas


def as_reply(
    sampled: Sampled,
    b: int,
    row: Row,
    start_L: np.ndarray,
    tokenizer: Tokenizer,
    seconds: float,
) -> Reply:
    """Returns the reply in row b of a batch.

    Args:
      sampled: the batch, as NumPy arrays.
      b: number of the row.
      row: the template.
      start_L: tokens before the first pass.
      tokenizer: decodes the text.
      seconds: of the batch.
    """
    vocab = tokenizer.vocab
    canvas = sampled.canvas
    ids = row.of_template(canvas.z_BL[b], row.before)
    frozen = row.of_template(canvas.frozen_BL[b], True)
    # Anchors are always part of the text.
    anchors = np.flatnonzero(frozen)
    last_anchor = anchors[-1] if len(anchors) else -1
    after_anchors = np.arange(len(ids)) > last_anchor
    ends = np.flatnonzero(vocab.ending(ids) & after_anchors)
    shown = ids
    if len(ends):
        shown = ids[: ends[0]]
    text = tokenizer.decode(shown)
    trace = None
    if sampled.trace is not None:
        in_row = _in_row(sampled.trace, b)
        trace = _trace(in_row, row, start_L, frozen, vocab.mask)
    log_prob_L = sampled.log_prob_BL[b, : len(row.ids)]
    nfe = int(sampled.nfe)
    return Reply(text, ids, frozen, float(log_prob_L.sum()), nfe, seconds, trace)


def _in_row(trace: Trace, b: int) -> _InRow:
    """Returns (states_TL, log_prob_TL, times_T) of a row in the passes that were recorded."""
    states_TBL, log_prob_TBL, times_T, passes = map(np.asarray, trace)
    states_TL = states_TBL[:passes, b]
    log_prob_TL = log_prob_TBL[:passes, b]
    return states_TL, log_prob_TL, times_T[:passes]


def _trace(
    in_row: _InRow,
    row: Row,
    start_L: np.ndarray,
    frozen: np.ndarray,
    mask: int,
) -> dict[str, Any]:
    """Returns the recorded passes of a template; the confidence is 0 at masks and anchors."""
    states_TL, log_prob_TL, times_T = in_row
    states_TL = np.concatenate([start_L[None], states_TL])
    states_TL = row.of_template(states_TL, row.before)
    log_prob_TL = row.of_template(log_prob_TL, 0.0)
    prob_TL = np.exp(log_prob_TL)
    decided_TL = (states_TL[1:] != mask) & ~frozen
    confidence_TL = np.where(decided_TL, prob_TL, 0.0)
    times = np.append(1.0, times_T)
    return dict(states=states_TL, confidence=confidence_TL, times=times)
