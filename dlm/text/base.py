"""Tokenizer: the base class of all tokenizers. Strings and bytes ↔ ids, and the bytes of every id.

The bytes of a text are the sum of `bytes_V` over its ids, so nats per token become bits per byte
for any vocabulary.
"""

import functools
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlm.core.vocab import Vocab
from dlm.text import quoted

SPECIALS = ("<|eos|>", "<|bos|>", "<|pad|>", "<|mask|>")  # in the order of their ids
MASK_SIGN = "░"  # how `decode` and `piece` show a mask

# Python's error handler 'surrogateescape' represents a byte that is not UTF-8 by one of these.
_ESCAPED_BYTE = re.compile("([\udc80-\udcff])")
_FIRST_ESCAPE = 0xDC00
_NO_CHARACTER = "\uffff"  # a noncharacter of Unicode, which no text contains

Array = np.ndarray
Ids = Array | Sequence[int]
Opening = tuple[Array, int]  # the ids of a row, the token before it


def closing(size: int) -> Vocab:
    """Return the vocabulary of `size` ids whose last four are eos, bos, pad and mask."""
    begin = size - len(SPECIALS)
    eos, bos, pad, mask = range(begin, size)
    return Vocab(size=size, eos=eos, bos=bos, pad=pad, mask=mask)


def utf8(text: str) -> bytes:
    """Encode any str as UTF-8; a lone surrogate, which UTF-8 cannot carry, becomes '?'."""
    return text.encode("utf-8", "replace")


def blanked(text: str, spans: quoted.Spans) -> str:
    """Overwrite each (begin, end) span of a text with as many characters that no text contains."""
    characters = list(text)
    for begin, end in spans:
        length = end - begin
        characters[begin:end] = _NO_CHARACTER * length
    return "".join(characters)


def _joined(parts: list[Array]) -> Array:
    ids = np.concatenate(parts)
    return ids.astype(np.int32)


def _content(bytes_of_id: list[bytes], ids: Ids) -> bytes:
    listed = np.asarray(ids).tolist()
    parts = [bytes_of_id[id] for id in listed]
    return b"".join(parts)


class Tokenizer(ABC):
    """Strings and bytes ↔ ids.

    `decode(encode(s)) == s`. A text that spells a special token is encoded as plain text.
    Metrics take the bytes of a text: `bytes_of(encode_bytes(b)) == b` for any bytes, while
    `decode` shows broken characters to people as '�'.

    `adds_bos` says whether a published model was used with bos before a text; None: the model is
    trained here.
    """

    adds_bos: bool | None = None

    def __init__(self, vocab: Vocab, bytes_of_id: list[bytes]):
        """`bytes_of_id[i]` are the bytes of id i: none for specials and ids never produced."""
        self.vocab = vocab
        self.size = vocab.size
        self.bos = vocab.bos
        self.eos = vocab.eos
        self.pad = vocab.pad
        self.mask = vocab.mask
        lengths = [len(content) for content in bytes_of_id]
        self.bytes_V = np.array(lengths, np.int32)
        self._bytes = bytes_of_id
        # A mask has no bytes, but people need to see where one is.
        self._shown = list(bytes_of_id)
        self._shown[vocab.mask] = MASK_SIGN.encode()

    # ------------------------------------------------------------------ implemented by each member

    @abstractmethod
    def encode_all(self, texts: list[str]) -> list[Array]:
        """Encode many texts at once, int32, without bos or eos."""

    @abstractmethod
    def content(self) -> str:
        """Return everything that decides how a text is encoded, as one string."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write into a run directory everything that `restore` reads."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names that `encode_marked` turns into one id: special tokens and added tokens."""
        return SPECIALS

    @property
    def fingerprint(self) -> str:
        """The sha256 of `content`, in hex."""
        content = self.content().encode()
        return hashlib.sha256(content).hexdigest()

    # -------------------------------------------------------------------------------------- encode

    def encode(self, text: str) -> Array:
        """Encode one text, int32, without bos or eos."""
        return self.encode_all([text])[0]

    def encode_bytes(self, content: bytes) -> Array:
        """Encode any bytes, int32: valid UTF-8 as `encode` does, every other byte by its own id."""
        text = content.decode("utf-8", "surrogateescape")
        parts = []
        # The split alternates between valid text and escaped bytes.
        for i, part in enumerate(_ESCAPED_BYTE.split(text)):
            is_text = i % 2 == 0
            if is_text:
                ids = self.encode(part)
            else:
                byte = ord(part) - _FIRST_ESCAPE
                ids = np.array([self._id_of_byte[byte]])
            parts.append(ids)
        return _joined(parts)

    @functools.cached_property
    def _id_of_byte(self) -> dict[int, int]:
        """The first id that stands for a single byte alone."""
        ids: dict[int, int] = {}
        for id, content in enumerate(self._bytes):
            if len(content) == 1:
                byte = content[0]
                ids.setdefault(byte, id)
        return ids

    def encode_marked(self, text: str) -> Array:
        """Encode a chat as published, int32: a special token's name becomes its one id.

        In a `Quoted`, a name that contains an untrusted character is encoded as text.
        Normalisation and the prefix space are those of the published file. No bos, eos or template
        is added.
        """
        return self.encode_further(text)

    def encode_further(self, text: str) -> Array:
        """Encode the continuation of another text like `encode_marked`, int32.

        Nothing is normalised or put in front, so everything except names keeps its own bytes.
        """
        # Untrusted names are overwritten, so that the pattern cannot match them.
        searched = blanked(text, self.spelled(text))
        id_of_name = self._id_of_name
        parts = []
        end = 0
        for match in self._name.finditer(searched):
            before = text[end : match.start()]
            id = id_of_name[match[0]]
            parts.append(self.encode(before))
            parts.append(np.array([id]))
            end = match.end()
        rest = text[end:]
        parts.append(self.encode(rest))
        return _joined(parts)

    def encode_prompt(self, text: str) -> Array:
        """Encode a user's prompt, int32; the name of a special token in it is text.

        A published model gets it as it was published, a model trained here as in training.
        """
        if self.adds_bos is None:
            return self.encode(text)
        return self.encode_marked(quoted.Quoted(text))

    # --------------------------------------------------------------------------------------- names

    def named(self, text: str) -> list[str]:
        """List the names that a text contains, each once, in the order of their first position."""
        contained = [name for name in self.names if name in text]
        # Names at the same position are sorted by themselves.
        positions = [(text.find(name), name) for name in contained]
        return [name for _, name in sorted(positions)]

    def spelled(self, text: str) -> quoted.Spans:
        """List (begin, end) of the names in untrusted text, which `encode_marked` keeps as text."""
        return quoted.spelled(text, self.names)

    @functools.cached_property
    def _name(self) -> re.Pattern[str]:
        return quoted.any_of(self.names)

    @property
    def _id_of_name(self) -> dict[str, int]:
        eos, bos, pad, mask = SPECIALS
        return {
            eos: self.eos,
            bos: self.bos,
            pad: self.pad,
            mask: self.mask,
        }

    # ---------------------------------------------------------------------- what precedes a text

    @property
    def prefix(self) -> int:
        """The token before an empty text, for networks with shifted input: bos, else eos."""
        has_bos = 0 <= self.bos < self.size
        return self.bos if has_bos else self.eos

    def front(self, shift: int) -> list[int]:
        """Return the ids that precede every text.

        A published tokenizer defines this itself. Of the models trained here, those whose input is
        shifted (`shift` 1: position i reads token i − 1) read a bos first, the others read none.
        """
        has_prefix = self.adds_bos
        if has_prefix is None:
            has_prefix = bool(shift)
        return [self.prefix] if has_prefix else []

    def fronted(self, ids: Ids, shift: int) -> Array:
        """Return the ids, int32, with `front` before them unless they begin with it already."""
        ids_L = np.asarray(ids, np.int32)
        front = self.front(shift)
        first = ids_L[:1].tolist()
        if not front or first == front:
            return ids_L
        front_ids = np.array(front, np.int32)
        return np.concatenate([front_ids, ids_L])

    def opening(self, text: str | Array, shift: int) -> Opening:
        """Return (the ids of a row that begins with a text or ids, the token before the row).

        Where the network's input is shifted, the very first token is not in the row: the network
        reads it as the token before. Packed rows of training have a rule of their own
        (`data.packing`).
        """
        if isinstance(text, str):
            text = self.encode_prompt(text)
        row_L = self.fronted(text, shift)
        if len(row_L) < shift:
            row_L = np.array([self.prefix], np.int32)
        if not shift:
            return row_L, self.prefix
        return row_L[shift:], int(row_L[0])

    # -------------------------------------------------------------------------------------- decode

    def bytes_of(self, ids: Ids) -> bytes:
        """Join the bytes of the ids: the sum of their `bytes_V`, none for specials and masks."""
        return _content(self._bytes, ids)

    def decode(self, ids: Ids) -> str:
        """Decode for people: broken UTF-8 as '�', masks as '░', other specials left out."""
        content = _content(self._shown, ids)
        return content.decode("utf-8", "replace")

    def piece(self, id: int) -> str:
        r"""Show one id: text, a part of one as '\xe2', a special by its name, a mask as '░'."""
        # If one id has several of these roles, eos is the name.
        ends = (self.eos, self.bos, self.pad)
        if id in ends:
            return SPECIALS[ends.index(id)]
        content = self._shown[int(id)]
        text = content.decode("utf-8", "backslashreplace")
        if text:
            return text
        # The id has no bytes: another special, or none.
        for name, special in self._id_of_name.items():
            if special == id:
                return name
        return ""
