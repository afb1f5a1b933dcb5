"""The tokens of a split, computed once, stored on disk and memory-mapped.

A flat array of ids, and the offset at which each document begins. Two files per (tokenizer,
documents), named by the hash of both, in $DLM_CACHE or ~/.cache/dlm/tokens; they may be deleted at
any time. Where nothing can be written, or there is no home, the arrays stay in memory.
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
_UINT16_IDS = 2**16


class Tokens(NamedTuple):
    """Document d is flat[offsets[d] : offsets[d + 1]]."""

    flat: np.ndarray  # uint16, or uint32 where ids do not fit
    offsets: np.ndarray  # int64, one more than there are documents
    size: int = 2**32  # of the vocabulary: every id is below
    file: Path | None = None  # that `flat` is mapped from

    def at(self, index: np.ndarray) -> np.ndarray:
        """Return flat[index].

        Raises UserError where the file was damaged since it was written: a model would clip ids
        silently.
        """
        ids = self.flat[index]
        if ids.size and ids.max() >= self.size:
            raise UserError(
                f"{self.file} is damaged: it contains id {ids.max()}, "
                f"and the vocabulary has {self.size} ids; delete it and start again"
            )
        return ids


def folder() -> Path | None:
    """Return the default folder; None where the user has no home, as in some containers."""
    default = os.path.join("~", ".cache", "dlm", "tokens")
    path = os.path.expanduser(os.environ.get("DLM_CACHE") or default)
    # expanduser leaves '~' where it does not know the home.
    return None if path.startswith("~") else Path(path)


def tokenized(
    tokenizer: Tokenizer,
    documents: Sequence[str],
    cache_dir: Path | None = None,
    identity: str | None = None,
) -> Tokens:
    """Encode all documents, without specials, or load their tokens from the cache.

    `identity` is the documents' fingerprint where it is known without reading them.
    """
    cache_dir = cache_dir or folder()
    if cache_dir is None:
        return _encoded(tokenizer, documents)
    key = fingerprint(tokenizer, documents, identity)
    flat_file = cache_dir / f"{key}.tokens.npy"
    offsets_file = cache_dir / f"{key}.offsets.npy"
    tokens = _loaded(flat_file, offsets_file, tokenizer.size)
    if tokens is not None:
        return tokens
    encoded = _encoded(tokenizer, documents)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _write(offsets_file, encoded.offsets)
        _write(flat_file, encoded.flat)
    except OSError:
        pass  # a cache that cannot be written is no error
    return encoded


def _loaded(flat_file: Path, offsets_file: Path, size: int) -> Tokens | None:
    """The stored tokens; None where files are absent or damaged, such as by a full disk."""
    try:
        flat = np.load(flat_file, mmap_mode="r", allow_pickle=False)
        offsets = np.load(offsets_file, allow_pickle=False)
        covers_all = offsets[0] == 0 and offsets[-1] == len(flat)
        if covers_all and (np.diff(offsets) >= 0).all():
            return Tokens(flat, offsets, size, flat_file)
    except (OSError, ValueError, IndexError):
        pass
    return None


def fingerprint(
    tokenizer: Tokenizer, documents: Sequence[str], identity: str | None = None
) -> str:
    """Hash the documents, their order, and the tokenizer.

    Documents with an `identity` are not read.
    """
    digest = hashlib.sha256(f"1 {tokenizer.fingerprint} ".encode())
    if identity is not None:
        digest.update(identity.encode())
        return digest.hexdigest()[:32]
    for document in documents:
        content = document.encode("utf-8", "replace")
        # The length marks the border between documents.
        digest.update(b"%d " % len(content))
        digest.update(content)
    return digest.hexdigest()[:32]


def _encoded(tokenizer: Tokenizer, documents: Sequence[str]) -> Tokens:
    dtype = np.uint16 if tokenizer.size <= _UINT16_IDS else np.uint32
    flats = [np.zeros(0, dtype)]
    lengths = [0]
    for chunk in _chunks(documents):
        ids = tokenizer.encode_all(chunk)
        flats.append(np.concatenate(ids).astype(dtype))
        lengths.extend(map(len, ids))
    offsets = np.cumsum(lengths, dtype=np.int64)
    return Tokens(np.concatenate(flats), offsets, tokenizer.size)


def _chunks(documents: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for i in range(len(documents)):
        chunk.append(documents[i])
        characters += len(chunk[-1])
        if characters >= _CHUNK:
            yield chunk
            chunk = []
            characters = 0
    if chunk:
        yield chunk


def _write(path: Path, array: np.ndarray) -> None:
    with files.whole(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
