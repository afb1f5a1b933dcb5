"""The variety of samples drawn without a prompt. It is no quality, and belongs beside one.

entropy      −Σ_v p_v log p_v of the tokens of a sample, nats, mean over the samples: low where a
             sample repeats itself
distinct_n   different n-grams of tokens over all n-grams, in all samples together: low where
             samples repeat each other

Source: distinct-n is arXiv:1510.03055.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.core.vocab import Vocab
from dlm.evals.base import Base, Scores, estimate


@dataclass(frozen=True)
class Samples(Base):
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

    def run(self, context: EvalContext, step: int) -> Scores:
        replies = context.draw(self.num, self.length)
        yield from variety([reply.ids for reply in replies], context.tokenizer.vocab)


def variety(ids_N: Sequence[np.ndarray], vocab: Vocab) -> Scores:
    """Yields the scores of some samples, each up to its first end of text."""
    # Text after an end is no part of the sample.
    cut_N = [before(vocab, ids) for ids in ids_N]
    entropy_N = [_entropy(ids) for ids in cut_N]
    yield estimate("entropy", np.mean, entropy_N)
    for n in (1, 2, 3):
        yield _distinct(n, [_grams(ids, n) for ids in cut_N])


def before(vocab: Vocab, ids: np.ndarray) -> np.ndarray:
    """Returns the ids up to the first end of text, all of them where there is none."""
    ends = np.flatnonzero(vocab.ending(ids))
    return ids[: ends[0]] if len(ends) else ids


def _entropy(ids: np.ndarray) -> float:
    # Ids that do not occur contribute 0.
    _, number_V = np.unique(ids, return_counts=True)
    share_V = number_V / max(len(ids), 1)
    return float(-(share_V * np.log(share_V)).sum())


def _grams(ids: np.ndarray, n: int) -> Counter:
    shifted = [ids[i:].tolist() for i in range(n)]
    return Counter(zip(*shifted, strict=False))


def _distinct(n: int, grams_N: list[Counter]) -> Score:
    """The share of different n-grams."""

    # The jackknife omits one sample after the other, by its number.
    def share(chosen: np.ndarray) -> float:
        grams = [grams_N[i] for i in chosen]
        total = sum(counter.total() for counter in grams)
        different: set = set().union(*grams)
        return len(different) / total if total else 0.0

    return estimate(f"distinct_{n}", share, range(len(grams_N)))
