"""Packing: documents end to end, cut into windows of equal length; segment ids keep documents from seeing each other.

    documents     aaaa$ | bb$ | cccccc$ | dd$          $ = eos
    windows of 6  aaaa$b | b$cccc | cc$dd$
    segments      111112 | 112222 | 111222             positions restart where the segment changes

A window is found by its number alone (binary search over cumulative lengths), so a run can start at any step.
"""

import numpy as np

from dlm.data.token_cache import Tokens

POLICY = (
    "eos ends every document, counts in the loss and carries 0 bytes; padding is segment 0, has weight 0, is never noised and never "
    "attended to by real tokens; no bos stands in the stream (a causal model shifts it in)"
)


class Windows:
    """Random access: `windows[i]` is a dict of arrays of one window, `rows` of several.

    Training passes `order_seed`: documents follow each other in a fixed pseudo-random order, the incomplete last window is dropped.
    Without it the order is the corpus's own and the last window is padded. What stands in a document up to its first token `prompt` is
    given: no noise, no weight.
    """

    def __init__(
        self,
        tokens: Tokens,
        length: int,
        eos: int,
        pad: int,
        order_seed: int | None = None,
        marked_V: np.ndarray | None = None,
        prompt: int | None = None,
    ):
        documents = len(tokens.offsets) - 1
        shuffled = order_seed is not None
        # RandomState, unlike Generator, promises the same numbers in every NumPy version.
        order = (
            np.random.RandomState(order_seed % 2**32).permutation(documents)
            if shuffled
            else np.arange(documents)
        )
        self._lengths = np.diff(tokens.offsets)[order]
        self._starts = np.concatenate([[0], np.cumsum(self._lengths + 1)])  # in the stream
        self._offsets = tokens.offsets[:-1][order]  # in the flat array
        self._given = (
            np.zeros(documents, np.int64) if prompt is None else _up_to(prompt, tokens)[order]
        )  # tokens of each prompt
        self._tokens, self._eos, self._pad, self._marked_V, self.length = (
            tokens,
            eos,
            pad,
            marked_V,
            length,
        )
        self.total = int(self._starts[-1])  # tokens in the stream, eos included
        self._windows = self.total // length if shuffled else -(-self.total // length)

    def __len__(self) -> int:
        return self._windows

    @property
    def prompts(self) -> tuple[float, float]:
        """(The share of the documents that have a prompt, the share of the windows that hold nothing else)."""
        return float((self._given > 0).mean()), 1 - len(self.asked()) / self._windows

    def asked(self) -> np.ndarray:
        """The numbers of the windows in which some token counts."""
        return np.flatnonzero(
            np.diff(
                self._counted(np.minimum(np.arange(self._windows + 1) * self.length, self.total))
            )
        )

    def _counted(self, at_N: np.ndarray) -> np.ndarray:
        """How many tokens of the stream count before each of these places."""
        before_N = np.concatenate([[0], np.cumsum(self._lengths + 1 - self._given)])
        document_N = np.searchsorted(self._starts, at_N, "right") - 1
        given_N = np.append(self._given, 0)[document_N]
        return before_N[document_N] + np.maximum(at_N - self._starts[document_N] - given_N, 0)

    def own(self, numbers_B: np.ndarray) -> np.ndarray:
        """The number that each of these windows has among all."""
        return numbers_B

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        if not 0 <= i < self._windows:
            raise IndexError(i)
        return {
            name.removesuffix("_BL") + "_L": array[0]
            for name, array in self.rows(np.array([i])).items()
        }

    def rows(self, numbers_B: np.ndarray) -> dict[str, np.ndarray]:
        """The windows of these numbers, stacked; numbers from `len(self)` on give windows of padding."""
        at_BL = numbers_B[:, None] * self.length + np.arange(self.length)
        real_BL = at_BL < min(self.total, self._windows * self.length)
        at_BL = np.minimum(at_BL, self.total - 1)
        document_BL = np.searchsorted(self._starts, at_BL, "right") - 1
        inside_BL = at_BL - self._starts[document_BL]
        last_BL = inside_BL == self._lengths[document_BL]
        token_BL = self._tokens.at(
            np.minimum(self._offsets[document_BL] + inside_BL, max(len(self._tokens.flat) - 1, 0))
        )
        positions_BL = np.minimum(
            inside_BL, np.arange(self.length)
        )  # a piece begins at its document's start or the window's
        tokens_BL = np.where(real_BL, np.where(last_BL, self._eos, token_BL), self._pad).astype(
            np.int32
        )
        asked_BL = real_BL & (inside_BL >= self._given[document_BL])
        marks = {} if self._marked_V is None else {"marked_BL": self._marked_V[tokens_BL]}
        return marks | dict(
            tokens_BL=tokens_BL,
            segments_BL=np.where(real_BL, document_BL - document_BL[:, :1] + 1, 0).astype(np.int32),
            positions_BL=np.where(real_BL, positions_BL, 0).astype(np.int32),
            weights_BL=asked_BL.astype(np.float32),
            noisable_BL=asked_BL,
        )


def _up_to(prompt: int, tokens: Tokens) -> np.ndarray:
    """How many tokens of each document stand up to its first `prompt`, that one included; 0 where it has none."""
    prompt_ends = np.append(np.flatnonzero(tokens.flat == prompt), len(tokens.flat))
    first = prompt_ends[np.searchsorted(prompt_ends, tokens.offsets[:-1])]
    return np.where(first < tokens.offsets[1:], first + 1 - tokens.offsets[:-1], 0)


class Chosen:
    """Some windows of another sequence, in the order of `numbers`."""

    def __init__(self, windows: Windows, numbers: np.ndarray):
        self._windows, self._numbers, self.length = windows, numbers, windows.length

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return self._windows[int(self._numbers[i])]

    @property
    def prompts(self) -> tuple[float, float]:
        """Those of all windows and documents, chosen or not."""
        return self._windows.prompts

    def own(self, numbers_B: np.ndarray) -> np.ndarray:
        """The number that each of these windows has among all, which decides its noise; beyond the last one there is only padding."""
        inside_B = numbers_B < len(self)
        return np.where(
            inside_B, self._numbers[np.where(inside_B, numbers_B, 0)], len(self._windows)
        )

    def rows(self, numbers_B: np.ndarray) -> dict[str, np.ndarray]:
        return self._windows.rows(self.own(numbers_B))


def apart(ids_B: list[np.ndarray], batch: int, length: int, pad: int) -> dict[str, np.ndarray]:
    """Texts that are not packed: each a row of its own, padded to one shape; rows that no text fills have weight 0."""
    real_BL = np.zeros((batch, length), bool)
    tokens_BL = np.full((batch, length), pad, np.int32)
    for b, ids in enumerate(ids_B):
        tokens_BL[b, : len(ids)], real_BL[b, : len(ids)] = ids, True
    return dict(
        tokens_BL=tokens_BL,
        segments_BL=real_BL.astype(np.int32),
        positions_BL=np.where(real_BL, np.arange(length), 0).astype(np.int32),
        weights_BL=real_BL.astype(np.float32),
        noisable_BL=real_BL,
        index_B=np.arange(batch, dtype=np.int32),
    )
