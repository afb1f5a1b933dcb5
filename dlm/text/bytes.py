"""Bytes as tokens: ids 0–255 are the bytes themselves, then eos, bos, pad and mask.

Source: arXiv:2105.13626 (ByT5).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlm.core.vocab import Vocab
from dlm.text.base import Tokenizer, closing, utf8

# ByteTokenizer accepts larger vocabularies, whose further ids are never produced.
_BYTES = 256
_SPECIALS = 4


@dataclass(frozen=True)
class Bytes:
    """Use the 256 bytes and four specials: nothing to learn, nothing to choose."""

    @property
    def vocab(self) -> Vocab:
        return closing(_BYTES + _SPECIALS)

    def fit(self, documents: Iterable[str]) -> Tokenizer:
        """Build the tokenizer; the documents are not read."""
        return ByteTokenizer(self.vocab)

    def restore(self, folder: Path) -> Tokenizer:
        """Build the tokenizer; nothing is read."""
        return ByteTokenizer(self.vocab)


class ByteTokenizer(Tokenizer):
    """Encodes the UTF-8 bytes of a text as they are."""

    def __init__(self, vocab: Vocab):
        single_bytes = [bytes([byte]) for byte in range(_BYTES)]
        no_bytes = [b""] * (vocab.size - _BYTES)
        super().__init__(vocab, single_bytes + no_bytes)

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        # The bytes are the ids.
        byte_arrays = [np.frombuffer(utf8(text), np.uint8) for text in texts]
        return [array.astype(np.int32) for array in byte_arrays]

    def content(self) -> str:
        return "bytes"

    def save(self, folder: Path) -> None:
        """Write nothing."""
