"""Text: strings to ids and back, with the exact number of bytes that every id stands for. No JAX.

A config (`Bytes`, `BPE`) knows its `vocab` before any corpus is read, and turns a corpus (`fit`) or a run directory (`restore`)
into a `Tokenizer`. The bytes of a text are the sum of `bytes_V` over its ids, so nats per token become bits per byte for any
vocabulary.
"""

import functools
import hashlib
import re
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from dlm.core.vocab import Vocab
from dlm.text import quoted

SPECIALS = ("<|eos|>", "<|bos|>", "<|pad|>", "<|mask|>")  # in the order of their ids
MASK_SIGN = "░"  # what `decode` and `piece` show for a mask
_BROKEN = re.compile(
    "([\udc80-\udcff])"
)  # how Python's 'surrogateescape' spells a byte that is no UTF-8


def closing(size: int) -> Vocab:
    """The vocabulary of `size` ids whose last four are eos, bos, pad and mask."""
    return Vocab(size=size, eos=size - 4, bos=size - 3, pad=size - 2, mask=size - 1)


def utf8(text: str) -> bytes:
    """The bytes of any str; a lone surrogate, which UTF-8 cannot carry, becomes '?'."""
    return text.encode("utf-8", "replace")


def blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with as many signs that no text has in the place of each span."""
    signs = list(text)
    for begin, end in spans:
        signs[begin:end] = "\uffff" * (end - begin)
    return "".join(signs)


class Tokenizer(ABC):
    """Strings and bytes ↔ ids. `decode(encode(s)) == s`; a text that spells a special token is encoded as plain text. What measures a text
    takes its bytes: `bytes_of(encode_bytes(b)) == b` for any of them, while `decode` shows broken characters as '�', for people."""

    adds_bos: bool | None = (
        None  # whether a published model was used with bos in front of a text; None: it was trained here, or is to be
    )

    def __init__(self, vocab: Vocab, bytes_of_id: list[bytes]):
        """`bytes_of_id[i]` is what id i stands for; empty for specials and for ids that are never produced."""
        self.vocab = vocab
        self.size, self.bos, self.eos, self.pad, self.mask = (
            vocab.size,
            vocab.bos,
            vocab.eos,
            vocab.pad,
            vocab.mask,
        )
        self.bytes_V = np.array([len(b) for b in bytes_of_id], np.int32)
        self._bytes, self._shown = bytes_of_id, list(bytes_of_id)
        self._shown[vocab.mask] = MASK_SIGN.encode()

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of one text, without bos or eos."""
        return self.encode_all([text])[0]

    @abstractmethod
    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        """int32 ids of many texts at once."""

    def encode_bytes(self, content: bytes) -> np.ndarray:
        """int32 ids of any bytes: what is UTF-8 in them as `encode` has it, every other byte by its own id."""
        text, *rest = _BROKEN.split(content.decode("utf-8", "surrogateescape"))
        found = [self.encode(text)]
        for broken, text in zip(rest[::2], rest[1::2], strict=True):
            found += [[self._id_of_byte[ord(broken) - 0xDC00]], self.encode(text)]
        return np.concatenate(found).astype(np.int32)

    @functools.cached_property
    def _id_of_byte(self) -> dict[int, int]:
        """The first id that stands for a single byte alone."""
        return {
            content[0]: id
            for id, content in reversed(list(enumerate(self._bytes)))
            if len(content) == 1
        }

    @abstractmethod
    def content(self) -> str:
        """Everything that decides how a text is encoded, as one string."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes into a run directory what `restore` reads."""

    @property
    def names(self) -> tuple[str, ...]:
        """What `encode_marked` takes for one id each: the names of special tokens, and of all that were added to the pieces."""
        return SPECIALS

    def named(self, text: str) -> list[str]:
        """The names that a text spells, each once, in their order."""
        return [
            name
            for _, name in sorted((text.find(name), name) for name in self.names if name in text)
        ]

    def spelled(self, text: str) -> list[tuple[int, int]]:
        """(begin, end) of what strangers wrote in a text and is a name: `encode_marked` takes it for text."""
        return quoted.spelled(text, self.names)

    @functools.cached_property
    def _name(self) -> re.Pattern:
        """Any name, of several that begin at one place the longest; nothing where there is none."""
        return re.compile(
            "|".join(map(re.escape, sorted(self.names, key=len, reverse=True))) or "(?!)"
        )

    def encode_marked(self, text: str) -> np.ndarray:
        """int32 ids as published, for chats: a special token's name becomes its one id, unless a stranger had a hand in it (of a `Quoted`);
        normalisation and prefix space are the file's own. No bos, eos or template is added."""
        return self.encode_further(text)

    def encode_further(self, text: str) -> np.ndarray:
        """The same of a text that goes on from another: nothing is normalised or put in front, so that all but names has its own bytes."""
        parts, end = [], 0
        for match in self._name.finditer(blanked(text, self.spelled(text))):
            parts += [self.encode(text[end : match.start()]), [self._id_of_name[match[0]]]]
            end = match.end()
        return np.concatenate([*parts, self.encode(text[end:])]).astype(np.int32)

    @property
    def _id_of_name(self) -> dict[str, int]:
        return dict(zip(SPECIALS, (self.eos, self.bos, self.pad, self.mask), strict=True))

    # ------------------------------------------------------------------------------------------------- what precedes a text

    @property
    def prefix(self) -> int:
        """What an empty text is for a network that reads the token before: bos, else eos."""
        return self.bos if 0 <= self.bos < self.size else self.eos

    def front(self, shift: int) -> list[int]:
        """What stands in front of every text. A published tokenizer says so itself; of the models trained here, those that read the token
        before (`shift` 1, as `nn.masks.Mask.reads`) have always read a bos first, and the others none."""
        return [self.prefix] if (shift if self.adds_bos is None else self.adds_bos) else []

    def fronted(self, ids, shift: int) -> np.ndarray:
        """int32 ids with what stands in front of them, once."""
        ids, front = np.asarray(ids, np.int32), self.front(shift)
        return ids if not front or ids[:1].tolist() == front else np.append(np.int32(front), ids)

    def told(self, text: str) -> np.ndarray:
        """int32 ids of what somebody says to the model, as published where it was, else as in training; the name of a special is text."""
        return (
            self.encode(text) if self.adds_bos is None else self.encode_marked(quoted.Quoted(text))
        )

    def opening(self, text: str | np.ndarray, shift: int) -> tuple[np.ndarray, int]:
        """(the ids of a row that begins with a text, given as such or as ids; the token that stands before the row).

        Where the network reads the token before, the first one of all is not in the row: it is read, and nothing precedes it. Packed rows
        of training have their own rule (`data.packing`).
        """
        ids = self.fronted(self.told(text) if isinstance(text, str) else text, shift)
        ids = ids if len(ids) >= shift else np.int32([self.prefix])
        return ids[shift:], int(ids[0]) if shift else self.prefix

    def bytes_of(self, ids) -> bytes:
        """What the ids stand for, as many bytes as the sum of their `bytes_V`: none for specials and masks."""
        return b"".join(self._bytes[i] for i in np.asarray(ids).tolist())

    def decode(self, ids) -> str:
        """The text of the ids: bytes joined, broken UTF-8 as '�', masks as '░', other specials left out."""
        return b"".join(self._shown[i] for i in np.asarray(ids).tolist()).decode("utf-8", "replace")

    def piece(self, id: int) -> str:
        r"""One id for display: its text, a part of a character as '\xe2', a special by its name, a mask as '░'."""
        names = {
            self.pad: SPECIALS[2],
            self.bos: SPECIALS[1],
            self.eos: SPECIALS[0],
        }  # of one id that has several, eos is the name
        shown = names.get(int(id)) or self._shown[int(id)].decode("utf-8", "backslashreplace")
        return shown or next((name for name, own in self._id_of_name.items() if own == id), "")

    @property
    def fingerprint(self) -> str:
        """sha256 of `content`, in hex."""
        return hashlib.sha256(self.content().encode()).hexdigest()
