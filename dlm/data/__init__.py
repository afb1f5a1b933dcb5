"""Data: documents to packed batches, addressable by step. No JAX, but for grain's import of it inside `loader`.

source ─ documents('train' | 'held_out') ─> tokens (cached on disk) ─> windows (packed) ─> loader: batches from any step on

A source that drops something of what it was given has `dropped` as well: how many of what, {'duplicates': 3}.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

Split = Literal["train", "held_out"]


def is_held_out(document: str, share: float) -> bool:
    """Whether a document is held out: a function of its text alone, so that equal ones share a split and adding some moves no others."""
    return (
        int.from_bytes(hashlib.sha256(document.encode("utf-8", "replace")).digest(), "big")
        < share * 2**256
    )


def digest(documents: Iterable[str]) -> dict:
    """What a text is, whatever it is called and wherever it lies: the sha256 of its documents in their order, its bytes, their number."""
    sha256, size, count = hashlib.sha256(), 0, 0
    for document in documents:
        raw = document.encode("utf-8", "replace")
        sha256.update(b"%d " % len(raw))
        sha256.update(raw)
        size, count = size + len(raw), count + 1
    return dict(sha256=sha256.hexdigest(), bytes=size, documents=count)


def by_hash(documents: Iterable[str], share: float) -> dict[Split, list[str]]:
    """Both splits, in the order given."""
    splits: dict[Split, list[str]] = dict(train=[], held_out=[])
    for document in documents:
        splits["held_out" if is_held_out(document, share) else "train"].append(document)
    return splits


def kept(documents: Iterable[str], unique: bool, dropped: Counter) -> list[str]:
    """The documents that are not empty, where `unique` only the first of equal ones; `dropped` counts the others."""
    given = list(documents)
    full = [document for document in given if document]
    found = list(dict.fromkeys(full)) if unique else full
    dropped.update(
        {"empty documents": len(given) - len(full), "duplicates": len(full) - len(found)}
    )
    return found


def told(dropped: Mapping[str, int]) -> str:
    """'199 duplicates, 3 empty lines', or nothing."""
    return ", ".join(f"{number:,} {what}" for what, number in dropped.items() if number)


def check_share(share: float) -> None:
    """1 holds everything out, which makes a file a pure test text."""
    if not 0 < share <= 1:
        raise ValueError(f"held_out must be above 0 and at most 1, not {share}")
