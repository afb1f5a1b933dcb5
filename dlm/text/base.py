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
_NO_CHARACTER = "\uffff"  # a noncharacter of Unicode, which no text contains
_NEVER = "(?!)"  # a pattern that matches nothing

Ids = np.ndarray | Sequence[int]


def closing(size: int) -> Vocab:
    """Return the vocabulary of `size` ids whose last four are eos, bos, pad and mask."""
    return Vocab(size=size, eos=size - 4, bos=size - 3, pad=size - 2, mask=size - 1)


def utf8(text: str) -> bytes:
    """Encode any str as UTF-8; a lone surrogate, which UTF-8 cannot carry, becomes '?'."""
    return text.encode("utf-8", "replace")


def blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """Overwrite each (begin, end) span of a text with as many characters that no text contains."""
    characters = list(text)
    for begin, end in spans:
        characters[begin:end] = _NO_CHARACTER * (end - begin)
    return "".join(characters)


def longest_first(names: Sequence[str]) -> re.Pattern[str]:
    """Compile a pattern for any of the names; of several that begin together, the longest."""
    alternatives = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives)) or _NEVER)


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
        self.bytes_V = np.array([len(content) for content in bytes_of_id], np.int32)
        self._bytes = bytes_of_id
        # A mask has no bytes, but people need to see where one is.
        self._shown = list(bytes_of_id)
        self._shown[vocab.mask] = MASK_SIGN.encode()

    # ------------------------------------------------------------------ implemented by each member

    @abstractmethod
    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
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
        return hashlib.sha256(self.content().encode()).hexdigest()

    # -------------------------------------------------------------------------------------- encode

    def encode(self, text: str) -> np.ndarray:
        """Encode one text, int32, without bos or eos."""
        return self.encode_all([text])[0]

    def encode_bytes(self, content: bytes) -> np.ndarray:
        """Encode any bytes, int32: valid UTF-8 as `encode` does, every other byte by its own id."""
        text, *rest = _ESCAPED_BYTE.split(content.decode("utf-8", "surrogateescape"))
        parts = [self.encode(text)]
        # The split alternates: an escaped byte, then the text up to the next one.
        for escaped, text in zip(rest[::2], rest[1::2], strict=True):
            byte = ord(escaped) - 0xDC00
            parts.append(np.array([self._id_of_byte[byte]]))
            parts.append(self.encode(text))
        return np.concatenate(parts).astype(np.int32)

    @functools.cached_property
    def _id_of_byte(self) -> dict[int, int]:
        """The first id that stands for a single byte alone."""
        ids: dict[int, int] = {}
        for id, content in enumerate(self._bytes):
            if len(content) == 1:
                ids.setdefault(content[0], id)
        return ids

    def encode_marked(self, text: str) -> np.ndarray:
        """Encode a chat as published, int32: a special token's name becomes its one id.

        In a `Quoted`, a name that contains a character of a stranger is encoded as text.
        Normalisation and the prefix space are those of the published file. No bos, eos or template
        is added.
        """
        return self.encode_further(text)

    def encode_further(self, text: str) -> np.ndarray:
        """Encode the continuation of another text like `encode_marked`, int32.

        Nothing is normalised or put in front, so everything except names keeps its own bytes.
        """
        parts = []
        end = 0
        # A stranger's names are overwritten, so that the pattern cannot match them.
        for match in self._name.finditer(blanked(text, self.spelled(text))):
            parts.append(self.encode(text[end : match.start()]))
            parts.append(np.array([self._id_of_name[match[0]]]))
            end = match.end()
        parts.append(self.encode(text[end:]))
        return np.concatenate(parts).astype(np.int32)

    def encode_prompt(self, text: str) -> np.ndarray:
        """Encode a user's prompt, int32; the name of a special token in it is text.

        A published model gets it as it was published, a model trained here as in training.
        """
        if self.adds_bos is None:
            return self.encode(text)
        return self.encode_marked(quoted.Quoted(text))

    # --------------------------------------------------------------------------------------- names

    def named(self, text: str) -> list[str]:
        """List the names that a text contains, each once, in the order of their first position."""
        found_at = [(text.find(name), name) for name in self.names if name in text]
        return [name for _, name in sorted(found_at)]

    def spelled(self, text: str) -> list[tuple[int, int]]:
        """List (begin, end) of the names that a stranger wrote; `encode_marked` keeps them text."""
        return quoted.spelled(text, self.names)

    @functools.cached_property
    def _name(self) -> re.Pattern[str]:
        return longest_first(self.names)

    @property
    def _id_of_name(self) -> dict[str, int]:
        special_ids = (self.eos, self.bos, self.pad, self.mask)
        return dict(zip(SPECIALS, special_ids, strict=True))

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
        has_prefix = bool(shift) if self.adds_bos is None else self.adds_bos
        return [self.prefix] if has_prefix else []

    def fronted(self, ids: Ids, shift: int) -> np.ndarray:
        """Return the ids, int32, with `front` before them unless they begin with it already."""
        ids_L = np.asarray(ids, np.int32)
        front = self.front(shift)
        if not front or ids_L[:1].tolist() == front:
            return ids_L
        return np.concatenate([np.array(front, np.int32), ids_L])

    def opening(self, text: str | np.ndarray, shift: int) -> tuple[np.ndarray, int]:
        """Return (the ids of a row that begins with a text or ids, the token before the row).

        Where the network's input is shifted, the very first token is not in the row: the network
        reads it as the token before. Packed rows of training have a rule of their own
        (`data.packing`).
        """
        ids = self.encode_prompt(text) if isinstance(text, str) else text
        row_L = self.fronted(ids, shift)
        if len(row_L) < shift:
            row_L = np.array([self.prefix], np.int32)
        before = int(row_L[0]) if shift else self.prefix
        return row_L[shift:], before

    # -------------------------------------------------------------------------------------- decode

    def bytes_of(self, ids: Ids) -> bytes:
        """Join the bytes of the ids: the sum of their `bytes_V`, none for specials and masks."""
        return b"".join(self._bytes[id] for id in np.asarray(ids).tolist())

    def decode(self, ids: Ids) -> str:
        """Decode for people: broken UTF-8 as '�', masks as '░', other specials left out."""
        content = b"".join(self._shown[id] for id in np.asarray(ids).tolist())
        return content.decode("utf-8", "replace")

    def piece(self, id: int) -> str:
        r"""Show one id: its text, part of a character as '\xe2', a special by name, a mask as '░'."""
        # If one id has several of these roles, eos is the name.
        for special, name in zip((self.eos, self.bos, self.pad), SPECIALS, strict=False):
            if id == special:
                return name
        text = self._shown[int(id)].decode("utf-8", "backslashreplace")
        if text:
            return text
        names = (name for name, other in self._id_of_name.items() if other == id)
        return next(names, "")
