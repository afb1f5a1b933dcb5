"""From a request's strings to rows of tokens of which the last are scored; a request's numbers hang on its text alone. No JAX.

    context · continuation ─ encoded whole, cut where the encoded context ends (apart, where a token reaches over that) ─> ids, first
    ids, first ─> pieces of at most `room` tokens, each scored token in one of them, with as much text before it as there is room for

                                  before  │ canvas                                  before: what an autoregressive row reads first
    one that fits                   x₀    │ x₁ x₂ x₃ [x₄ x₅]                        [ ]: scored
    one that is too long, rolling   x₀    │ [x₁ x₂ x₃ x₄ x₅]   then   x₂ │ x₃ x₄ x₅ [x₆ x₇]

Where context ends is lm_eval's rule (`TemplateLM._encode_pair`): its trailing spaces go to the continuation. Lengths of rows are rounded up
to a few, so that few programs compile; which one a request has depends on itself alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dlm.core.errors import UserError
from dlm.data import packing
from dlm.text.quoted import Quoted

_SHORTEST = 16


class Piece(NamedTuple):
    """A row: tokens of which those from `first` on are scored."""

    ids: np.ndarray
    first: int
    before: int  # the token before the row, which a shifted mask reads
    number: int  # keys the noise


@dataclass(frozen=True)
class Speller:
    """How a model is told a request: `shift` 1 where it reads the token before, and `room` tokens, as many as it was trained with."""

    tokenizer: Any
    shift: int
    room: int

    def encoded(self, text: str) -> np.ndarray:
        """The ids of a text, with what stands in front of it."""
        return self.tokenizer.fronted(self.tokenizer.encode_marked(text), self.shift)

    def pair(self, context: str, continuation: str) -> tuple[np.ndarray, int]:
        """(ids, where the continuation begins): from there on they spell it, with the blanks that stand before it, and nothing else.

        Where a token would reach over the border, both sides are encoded apart. Raises UserError for a continuation that has no tokens.
        """
        stripped, whole, tokenizer = context.rstrip(), context + continuation, self.tokenizer
        if stripped:
            known, ids = self.encoded(stripped), self.encoded(whole)
            if not np.array_equal(ids[: len(known)], known):
                ids = np.append(
                    known,
                    tokenizer.encode_further(Quoted(context[len(stripped) :], ()) + continuation),
                )
        else:
            known = np.int32(tokenizer.front(self.shift) or [tokenizer.prefix] * self.shift)
            ids = tokenizer.encode_marked(whole)
            ids = ids if len(known) and np.array_equal(ids[:1], known) else np.append(known, ids)
        if len(ids) == len(known) and continuation:
            raise UserError(
                f"{continuation[:40]!r} has no tokens to score (after {context[-40:]!r}): the tokenizer makes nothing of it"
            )
        return ids, len(known)

    def whole(self, text: str) -> tuple[np.ndarray, int]:
        """The same of a text that is scored from its first token on."""
        return self.pair("", text)

    def pieces(self, ids: np.ndarray, first: int, text: str) -> tuple[list[Piece], int]:
        """(the rows in which the tokens from `first` on are scored, how many tokens of the context no row has)."""
        results, spread = [], list(windows(len(ids), first, self.room, self.shift))
        for n, (begin, target, end) in enumerate(spread):
            row = begin + self.shift
            before = int(ids[begin]) if self.shift else self.tokenizer.prefix
            results.append(Piece(ids[row:end], target - row, before, number(text, n)))
        return results, spread[0][0] if spread else 0

    def prompt(self, context: str, tokens: int) -> tuple[Piece, int]:
        """(the row after which `tokens` are written, how many tokens of the context it lacks); nothing in it is scored."""
        ids, before = self.tokenizer.opening(self.tokenizer.encode_marked(context), self.shift)
        cut = max(
            len(ids) + self.shift - (self.room - tokens), 0
        )  # as lm_eval: nobody reads the last token written, but there is room for it
        before = int(ids[cut - 1]) if cut and self.shift else before
        return Piece(ids[cut:], len(ids) - cut, before, number(context)), cut


def windows(count: int, first: int, room: int, shift: int) -> Iterator[tuple[int, int, int]]:
    """(begin, target, end) of the pieces of `count` tokens: each scores from `target` to `end`, and begins `room` before its end, with a
    shift one more, which is read."""
    target = first
    while target < count:
        end = min(target + room, count)
        yield max(end - room - shift, 0), target, end
        target = end


def number(text: str, part: int = 0) -> int:
    """31 bits that stand for a text and a part of it."""
    digest = hashlib.sha256(f"{part} {text}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def bucket(length: int, most: int) -> int:
    """The length of the row that so many tokens lie in: 16, 24, 32, 48, 64, …, up to `most`."""
    size = _SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return max(min(size, most), length)


def batches(pieces: Sequence[Piece], rows: int, room: int) -> Iterator[tuple[int, list[int]]]:
    """(length, which pieces) of the batches they are read in: of one length each, those that take as long next to each other."""
    by_length: dict[int, list[int]] = {}
    for i, piece in enumerate(pieces):
        by_length.setdefault(bucket(len(piece.ids), room), []).append(i)
    for length, members in sorted(by_length.items()):
        members.sort(key=lambda i: len(pieces[i].ids) - pieces[i].first)
        yield from (
            (length, members[begin : begin + rows]) for begin in range(0, len(members), rows)
        )


def stacked(
    pieces: Sequence[Piece], rows: int, length: int, pad: int, shift: int
) -> dict[str, np.ndarray]:
    """The arrays of a batch; only what is scored is noised and has weight."""
    arrays = packing.apart([p.ids for p in pieces], rows, length, pad)
    spare = rows - len(pieces)
    asked_BL = arrays["noisable_BL"] & (
        np.arange(length) >= np.array([p.first for p in pieces] + [0] * spare)[:, None]
    )
    arrays |= dict(noisable_BL=asked_BL, weights_BL=asked_BL.astype(np.float32))
    arrays["index_B"] = np.array([p.number for p in pieces] + [0] * spare, np.int32)
    return arrays | (
        dict(before_B=np.array([p.before for p in pieces] + [pad] * spare, np.int32))
        if shift
        else {}
    )


def stopped(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    ends = [text.find(stop) for stop in until if stop]
    return text[: min([end for end in ends if end >= 0], default=len(text))]
