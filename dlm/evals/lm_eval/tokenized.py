"""From the strings of a request to rows of tokens, the last of which are scored. No JAX.

    context · continuation ─> ids, first     encoded whole, cut where the encoded context ends
                                             (separately, where a token reaches over that border)
    ids, first ─> pieces                     of at most `room` tokens; each scored token is in one
                                             of them, with as much text before it as fits

                         before │ canvas        before: what an autoregressive row reads first
    one that fits          x₀   │ x₁ x₂ x₃ [x₄ x₅]         [ ]: scored
    one that is too long   x₀   │ [x₁ x₂ x₃ x₄ x₅]   then   x₂ │ x₃ x₄ x₅ [x₆ x₇]

A request's numbers depend on its text alone. The border is lm_eval's (`TemplateLM._encode_pair`):
trailing spaces of the context belong to the continuation. Lengths of rows are rounded up to a few,
so that few programs compile; the length of a request depends on the request alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dlm.core.errors import UserError
from dlm.data import packing
from dlm.text.quoted import Quoted

Ids = np.ndarray  # int32
Arrays = dict[str, np.ndarray]
Span = tuple[int, int, int]
Batches = Iterator[tuple[int, list[int]]]

_SHORTEST = 16  # tokens of a row


class Piece(NamedTuple):
    """A row of tokens, of which those from `first` on are scored."""

    ids: Ids
    first: int
    before: int  # the token before the row, which a network with shifted input reads
    number: int  # keys the noise


Pieces = Sequence[Piece]


@dataclass(frozen=True)
class Speller:
    """Encodes requests for a model: `shift` is 1 where it reads the token before each position.

    `room` is the number of tokens that it was trained with.
    """

    tokenizer: Any
    shift: int
    room: int

    def encoded(self, text: str) -> Ids:
        """Returns the ids of a text, with those that precede a text."""
        ids = self.tokenizer.encode_marked(text)
        return self.tokenizer.fronted(ids, self.shift)

    def pair(self, context: str, continuation: str) -> tuple[Ids, int]:
        """Returns (ids, where the continuation begins).

        From there on the ids spell the continuation, with the spaces before it, and nothing else.
        Where a token would reach over the border, both sides are encoded separately. Raises
        UserError for a continuation without tokens.
        """
        stripped = context.rstrip()
        if stripped:
            known = self.encoded(stripped)
            ids = self.encoded(context + continuation)
            start = ids[: len(known)]
            if not np.array_equal(start, known):
                spaces = context[len(stripped) :]
                rest = Quoted(spaces, ()) + continuation
                further = self.tokenizer.encode_further(rest)
                ids = np.append(known, further)
        else:
            # Something has to precede the first token that is scored.
            known = self._front()
            ids = self.tokenizer.encode_marked(context + continuation)
            has_front = len(known) and np.array_equal(ids[:1], known)
            if not has_front:
                ids = np.append(known, ids)
        if len(ids) == len(known) and continuation:
            raise UserError(
                f"{continuation[:40]!r} has no tokens to score (after {context[-40:]!r}): "
                "the tokenizer makes nothing of it"
            )
        return ids, len(known)

    def _front(self) -> Ids:
        tokenizer = self.tokenizer
        ids = tokenizer.front(self.shift)
        if not ids:
            ids = [tokenizer.prefix] * self.shift
        return np.array(ids, np.int32)

    def whole(self, text: str) -> tuple[Ids, int]:
        """Returns the same for a text that is scored from its first token on."""
        return self.pair("", text)

    def pieces(self, ids: Ids, first: int, text: str) -> tuple[list[Piece], int]:
        """Returns (the rows in which the tokens from `first` on are scored, tokens that were cut).

        `text` is that of the request. The tokens that were cut are of the context: no row has them.
        """
        rows = []
        cut = 0
        spans = windows(len(ids), first, self.room, self.shift)
        for n, (begin, target, end) in enumerate(spans):
            # A network with shifted input reads the first token without scoring it.
            row = begin + self.shift
            before = self.tokenizer.prefix
            if self.shift:
                before = int(ids[begin])
            piece = Piece(
                ids=ids[row:end],
                first=target - row,
                before=before,
                number=number(text, n),
            )
            rows.append(piece)
            if n == 0:
                cut = begin
        return rows, cut

    def prompt(self, context: str, tokens: int) -> tuple[Piece, int]:
        """Returns (the row after which `tokens` are written, tokens of the context that were cut).

        Nothing in the row is scored.
        """
        ids = self.tokenizer.encode_marked(context)
        ids, before = self.tokenizer.opening(ids, self.shift)
        # As in lm_eval there is room for the last token that is written, although no call reads it.
        free = self.room - tokens
        excess = len(ids) + self.shift - free
        cut = max(excess, 0)
        if cut and self.shift:
            before = int(ids[cut - 1])
        row = ids[cut:]
        piece = Piece(row, first=len(row), before=before, number=number(context))
        return piece, cut


def windows(count: int, first: int, room: int, shift: int) -> Iterator[Span]:
    """Yields (begin, target, end) of the pieces of `count` tokens.

    Each piece scores the tokens from `target` to `end`, and begins `room` tokens before its end;
    with a `shift` one more, which is only read.
    """
    target = first
    while target < count:
        end = min(target + room, count)
        yield max(end - room - shift, 0), target, end
        target = end


def number(text: str, part: int = 0) -> int:
    """Returns 31 bits that identify a text and a part of it."""
    content = f"{part} {text}".encode("utf-8", "replace")
    sha256 = hashlib.sha256(content)
    start = sha256.digest()[:4]
    return int.from_bytes(start, "big") >> 1


def bucket(length: int, most: int) -> int:
    """Returns the length of a row for so many tokens: 16, 24, 32, 48, 64, …, up to `most`."""
    size = _SHORTEST
    while size < length:
        # From 2ⁿ to 3 · 2ⁿ⁻¹, and from there to 2ⁿ⁺¹.
        if size & (size - 1) == 0:
            size = size * 3 // 2
        else:
            size = size // 3 * 4
    return max(min(size, most), length)


def batches(pieces: Pieces, rows: int, room: int) -> Batches:
    """Yields (length, indices of the pieces) of batches, all of one length.

    Pieces that take equally long are in the same batch.
    """
    by_length: dict[int, list[int]] = {}
    for i, piece in enumerate(pieces):
        length = bucket(len(piece.ids), room)
        members = by_length.setdefault(length, [])
        members.append(i)

    def scored(i: int) -> int:
        piece = pieces[i]
        return len(piece.ids) - piece.first

    for length, members in sorted(by_length.items()):
        members.sort(key=scored)
        for begin in range(0, len(members), rows):
            yield length, members[begin : begin + rows]


def stacked(pieces: Pieces, rows: int, length: int, pad: int, shift: int) -> Arrays:
    """Returns the arrays of a batch; only tokens that are scored are noised and have weight.

    Args:
        pieces: at most `rows` of them; the rest is padding
        rows: of the batch
        length: of each row
        pad: the id of padding
        shift: 1 where the network reads the token before each position
    """
    ids_B = [piece.ids for piece in pieces]
    arrays = packing.apart(ids_B, rows, length, pad)
    first_B = np.zeros(rows, np.int32)
    number_B = np.zeros(rows, np.int32)
    before_B = np.full(rows, pad, np.int32)
    for b, piece in enumerate(pieces):
        first_B[b] = piece.first
        number_B[b] = piece.number
        before_B[b] = piece.before

    # All before `first` is given: neither noise nor the loss may touch it.
    scored_BL = np.arange(length) >= first_B[:, None]
    scored_BL = scored_BL & arrays["noisable_BL"]
    arrays["noisable_BL"] = scored_BL
    arrays["weights_BL"] = scored_BL.astype(np.float32)
    arrays["index_B"] = number_B
    if shift:
        arrays["before_B"] = before_B
    return arrays


def stopped(text: str, until: Sequence[str]) -> str:
    """Returns the text up to the first of the stop strings."""
    end = len(text)
    for stop in until:
        # An empty string stops nothing.
        if stop and stop in text:
            end = min(end, text.index(stop))
    return text[:end]
