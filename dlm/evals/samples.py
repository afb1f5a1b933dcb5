"""What the model draws from nothing: how varied it is. Never a quality by itself, always beside one.

entropy      −Σ_v p_v log p_v of the tokens of a sample, nats, mean over the samples: low where a sample repeats itself
distinct_n   different n-grams of tokens over all of them, in all samples together: low where samples repeat each other
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.core.intervals import jackknife
from dlm.core.vocab import Vocab


@dataclass(frozen=True)
class Samples:
    num: int = 64  # samples
    length: int = 0  # tokens of each; 0: as long as in training

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "samples"
    reads: ClassVar[bool] = False

    def __post_init__(self):
        if self.num < 2 or self.length < 0:
            raise ValueError(
                f"num={self.num} must be at least 2 and length={self.length} not negative"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the samples."""
        yield from variety(
            [reply.ids for reply in context.draw(self.num, self.length)], context.tokenizer.vocab
        )


def variety(ids_N: list[np.ndarray], vocab: Vocab) -> Iterator[tuple[str, float, float]]:
    """The scores of some samples, each up to its first end of text."""
    cut_N = [before(vocab, ids) for ids in ids_N]
    yield "entropy", *jackknife(np.mean, [_entropy(ids) for ids in cut_N])
    for n in (1, 2, 3):
        grams_N = [
            Counter(zip(*(ids[i:].tolist() for i in range(n)), strict=False)) for ids in cut_N
        ]
        yield (
            f"distinct_{n}",
            *jackknife(
                lambda chosen, grams=grams_N: _distinct([grams[i] for i in chosen]),
                range(len(grams_N)),
            ),
        )


def before(vocab: Vocab, ids: np.ndarray) -> np.ndarray:
    """The ids up to the first end of text, all of them where there is none."""
    ends = np.flatnonzero(vocab.ending(ids))
    return ids[: ends[0]] if len(ends) else ids


def _entropy(ids: np.ndarray) -> float:
    count_V = np.unique(ids, return_counts=True)[1] / max(len(ids), 1)
    return float(-(count_V * np.log(count_V)).sum())


def _distinct(grams: list[Counter]) -> float:
    total = sum(g.total() for g in grams)
    return len(set().union(*grams)) / total if total else 0.0
