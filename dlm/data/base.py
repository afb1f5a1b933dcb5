"""Source: the base class of corpora, and how their documents are split, filtered and identified."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Split = Literal["train", "held_out"]
Splits = dict[Split, list[str]]


class Source(ABC):
    """A corpus: documents in two splits."""

    @abstractmethod
    def documents(self, split: Split) -> Sequence[str]:
        """Return the documents of a split, by random access."""

    def fingerprint(self, split: Split) -> str | None:
        """Identify the documents of a split without reading them; None: by their content."""
        return None

    @property
    def dropped(self) -> dict[str, int]:
        """How much the source left out, by kind: {'duplicates': 3}."""
        return {}


def is_held_out(document: str, share: float) -> bool:
    """Decide from a document's text alone whether it is held out.

    So equal documents are in the same split, and adding some moves no others.
    """
    content = document.encode("utf-8", "replace")
    # The hash is a number that is uniform below 2²⁵⁶.
    sha256 = hashlib.sha256(content)
    number = int.from_bytes(sha256.digest(), "big")
    return number < share * 2**256


def digest(documents: Iterable[str]) -> dict:
    """Identify a text, independent of its name and place: sha256, bytes, number of documents.

    The sha256 covers the documents in their order and the borders between them.
    """
    sha256 = hashlib.sha256()
    size = 0
    count = 0
    for document in documents:
        content = document.encode("utf-8", "replace")
        # The length marks the border between documents.
        sha256.update(b"%d " % len(content))
        sha256.update(content)
        size += len(content)
        count += 1
    return dict(sha256=sha256.hexdigest(), bytes=size, documents=count)


def split_by_hash(documents: Iterable[str], share: float) -> Splits:
    """Split documents by `is_held_out`, in their order."""
    train: list[str] = []
    held_out: list[str] = []
    # Each split keeps the order of the corpus.
    for document in documents:
        split = held_out if is_held_out(document, share) else train
        split.append(document)
    return dict(train=train, held_out=held_out)


def filtered(documents: Iterable[str], unique: bool, dropped: Counter) -> list[str]:
    """Select the documents that are not empty, with `unique` only the first of equal ones.

    Adds the numbers of the others to `dropped`.
    """
    everything = list(documents)
    # The order is the corpus's own, also of the first ones of equal documents.
    nonempty = [document for document in everything if document]
    selected = list(dict.fromkeys(nonempty)) if unique else nonempty
    dropped["empty documents"] += len(everything) - len(nonempty)
    dropped["duplicates"] += len(nonempty) - len(selected)
    return selected


def describe_dropped(dropped: Mapping[str, int]) -> str:
    """Describe what a source left out: '199 duplicates, 3 empty lines', or nothing."""
    parts = [f"{number:,} {kind}" for kind, number in dropped.items() if number]
    return ", ".join(parts)


def check_share(share: float) -> None:
    """Check the share of held-out documents; 1 makes all of a file a test text."""
    if not 0 < share <= 1:
        raise ValueError(f"held_out must be above 0 and at most 1, not {share}")
