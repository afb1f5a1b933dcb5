"""The tokens of a split, computed once: a flat array and where each document begins, kept on disk and memory-mapped.

Two files per (tokenizer, documents), named by the hash of both, in $DLM_CACHE or ~/.cache/dlm/tokens; they may be deleted at any
time. Where nothing can be written, or there is no home, the arrays stay in memory.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlm.core import files
from dlm.core.errors import UserError
from dlm.text.base import Tokenizer

_CHUNK = 4_000_000  # characters encoded at a time


class Tokens(NamedTuple):
    """Document d is flat[offsets[d] : offsets[d + 1]]."""

    flat: np.ndarray  # uint16, or uint32 where ids do not fit
    offsets: np.ndarray  # int64, one more than there are documents
    size: int = 2**32  # of the vocabulary: every id is below
    file: Path | None = None  # that `flat` is read from

    def at(self, index: np.ndarray) -> np.ndarray:
        """flat[index]; a file that was damaged since it was written must not reach a model, which would clip ids without a word."""
        ids = self.flat[index]
        if ids.size and ids.max() >= self.size:
            raise UserError(
                f"{self.file} is damaged: it holds id {ids.max()}, and the vocabulary {self.size} ids; delete it and start again"
            )
        return ids


def folder() -> Path | None:
    """Where token files are kept by default; None where the user has no home, as in a container that runs as any user."""
    found = os.path.expanduser(
        os.environ.get("DLM_CACHE") or os.path.join("~", ".cache", "dlm", "tokens")
    )
    return (
        None if found.startswith("~") else Path(found)
    )  # as it was, where nothing says what ~ stands for


def tokenized(
    tokenizer: Tokenizer, documents: Sequence[str], cache_dir: Path | None = None
) -> Tokens:
    """The tokens of all documents, without specials."""
    cache_dir = cache_dir or folder()
    if cache_dir is None:
        return _encoded(tokenizer, documents)
    key = fingerprint(tokenizer, documents)
    flat_file, offsets_file = cache_dir / f"{key}.tokens.npy", cache_dir / f"{key}.offsets.npy"
    try:
        flat, offsets = (
            np.load(flat_file, mmap_mode="r", allow_pickle=False),
            np.load(offsets_file, allow_pickle=False),
        )
        if offsets[0] == 0 and offsets[-1] == len(flat) and (np.diff(offsets) >= 0).all():
            return Tokens(flat, offsets, tokenizer.size, flat_file)
    except (OSError, ValueError, IndexError):  # absent, cut short by a full disk, or something else
        pass
    encoded = _encoded(tokenizer, documents)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _write(offsets_file, encoded.offsets)
        _write(flat_file, encoded.flat)
    except OSError:
        pass
    return encoded


def fingerprint(tokenizer: Tokenizer, documents: Sequence[str]) -> str:
    """A hash of the documents, their order and what encodes them. Those that can say what they are without being read
    (`fingerprint`) are not read."""
    digest = hashlib.sha256(f"1 {tokenizer.fingerprint} ".encode())
    if hasattr(documents, "fingerprint"):
        digest.update(documents.fingerprint.encode())
        return digest.hexdigest()[:32]
    for document in documents:
        content = document.encode("utf-8", "replace")
        digest.update(b"%d " % len(content))
        digest.update(content)
    return digest.hexdigest()[:32]


def _encoded(tokenizer: Tokenizer, documents: Sequence[str]) -> Tokens:
    dtype = np.uint16 if tokenizer.size <= 2**16 else np.uint32
    flats, lengths = [np.zeros(0, dtype)], [0]
    for chunk in _chunks(documents):
        ids = tokenizer.encode_all(chunk)
        flats.append(np.concatenate(ids).astype(dtype))
        lengths.extend(map(len, ids))
    return Tokens(np.concatenate(flats), np.cumsum(lengths, dtype=np.int64), tokenizer.size)


def _chunks(documents: Sequence[str]) -> Iterator[list[str]]:
    chunk, characters = [], 0
    for i in range(len(documents)):
        chunk.append(documents[i])
        characters += len(chunk[-1])
        if characters >= _CHUNK:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _write(path: Path, array: np.ndarray) -> None:
    with files.whole(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
