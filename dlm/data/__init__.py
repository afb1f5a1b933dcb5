"""Data: documents to packed batches, addressable by step. No JAX, but for grain's import of it inside `loader`.

source ─ documents('train' | 'held_out') ─> tokens (cached on disk) ─> windows (packed) ─> loader: batches from any step on
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "held_out"]


def is_held_out(document: str, share: float) -> bool:
    """Whether a document is held out: a function of its text alone, so that adding documents moves none of the others."""
    return int.from_bytes(hashlib.sha256(document.encode("utf-8", "replace")).digest(), "big") < share * 2**256


def by_hash(documents: Iterable[str], share: float) -> dict[Split, list[str]]:
    """Both splits, in the order given; empty documents and exact duplicates are dropped."""
    splits: dict[Split, list[str]] = dict(train=[], held_out=[])
    for document in dict.fromkeys(documents):
        if document:
            splits["held_out" if is_held_out(document, share) else "train"].append(document)
    return splits


def check_share(share: float) -> None:
    """1 holds everything out, which makes a file a pure test text."""
    if not 0 < share <= 1:
        raise ValueError(f"held_out must be above 0 and at most 1, not {share}")
