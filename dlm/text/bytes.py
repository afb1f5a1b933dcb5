"""Bytes as tokens: ids 0–255 are the bytes themselves, then eos, bos, pad and mask."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlm import text
from dlm.core.vocab import Vocab


@dataclass(frozen=True)
class Bytes:
    """Nothing to learn and nothing to choose: 260 ids."""

    @property
    def vocab(self) -> Vocab:
        return text.closing(260)

    def fit(self, documents: Iterable[str]) -> text.Tokenizer:
        """The tokenizer; the documents are not read."""
        return ByteTokenizer(self.vocab)

    def restore(self, folder: Path) -> text.Tokenizer:
        """The tokenizer; there is nothing to read."""
        return ByteTokenizer(self.vocab)


class ByteTokenizer(text.Tokenizer):
    def __init__(self, vocab: Vocab):
        super().__init__(vocab, [bytes([i]) for i in range(256)] + [b""] * (vocab.size - 256))

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.utf8(t), np.uint8).astype(np.int32) for t in texts]

    def content(self) -> str:
        return "bytes"

    def save(self, folder: Path) -> None:
        """Nothing to write."""
