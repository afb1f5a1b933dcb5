"""Packing: documents end to end, cut into windows of equal length; segments separate documents.

    documents     aaaa$ | bb$ | cccccc$ | dd$          $ = eos
    windows of 6  aaaa$b | b$cccc | cc$dd$
    segments      111112 | 112222 | 111222             positions restart where the segment changes

The stream is all documents with their eos. A binary search over cumulative lengths finds a window
from its number alone, so a run can start at any step.

Shapes: B windows, L positions, N places in the stream, V ids.
"""

import numpy as np

from dlm.data.token_cache import Tokens

POLICY = (
    "eos ends every document, counts in the loss and carries 0 bytes; "
    "padding is segment 0, has weight 0, is never noised and never attended to by real tokens; "
    "no bos stands in the stream (a causal model shifts it in)"
)

Arrays = dict[str, np.ndarray]


class Windows:
    """Random access: `windows[i]` are the arrays of one window, `rows` those of several.

    A document's prompt, up to its first token `prompt`, has no noise and no weight.
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
        """Lay out the stream.

        Args:
            tokens: of all documents.
            length: tokens of a window.
            eos: id that ends each document.
            pad: id that fills the last window.
            order_seed: of training: documents in a fixed pseudo-random order, and the incomplete
                last window is dropped. None: the corpus's own order, and the last is padded.
            marked_V: which ids are marked; None: no marks.
            prompt: id that ends a document's prompt; None: no prompts.
        """
        self.length = length
        self._tokens = tokens
        self._eos = eos
        self._pad = pad
        self._marked_V = marked_V
        order = _order(len(tokens.offsets) - 1, order_seed)
        self._offsets = tokens.offsets[:-1][order]  # in the flat array
        self._lengths = np.diff(tokens.offsets)[order]
        ends = np.cumsum(self._lengths + 1)
        self._starts = np.concatenate([[0], ends])  # in the stream
        self._prompt_lengths = np.zeros(len(order), np.int64)
        if prompt is not None:
            self._prompt_lengths = _up_to(prompt, tokens)[order]
        self.total = int(self._starts[-1])  # tokens in the stream, eos included
        self._windows = self.total // length
        is_incomplete = self.total % length > 0
        if order_seed is None and is_incomplete:
            self._windows += 1

    def __len__(self) -> int:
        return self._windows

    @property
    def prompts(self) -> tuple[float, float]:
        """(Share of documents with a prompt, share of windows that contain only prompts)."""
        with_prompt = self._prompt_lengths > 0
        blank = 1 - len(self.counting()) / self._windows
        return float(with_prompt.mean()), blank

    def counting(self) -> np.ndarray:
        """Return the numbers of the windows in which some token counts in the loss."""
        borders_N = np.arange(self._windows + 1) * self.length
        counted_N = self._counted_before(np.minimum(borders_N, self.total))
        return np.flatnonzero(np.diff(counted_N))

    def _counted_before(self, at_N: np.ndarray) -> np.ndarray:
        """How many tokens of the stream count before each of these places."""
        counted = np.cumsum(self._lengths + 1 - self._prompt_lengths)
        before_N = np.concatenate([[0], counted])
        # The last place is behind the last document, which has no prompt there.
        document_N = self._document(at_N)
        prompt_N = np.append(self._prompt_lengths, 0)[document_N]
        inside_N = at_N - self._starts[document_N]
        return before_N[document_N] + np.maximum(inside_N - prompt_N, 0)

    def _document(self, at: np.ndarray) -> np.ndarray:
        """The document at each place of the stream."""
        return np.searchsorted(self._starts, at, "right") - 1

    def original_numbers(self, numbers_B: np.ndarray) -> np.ndarray:
        """Return the number that each of these windows has among all: the same."""
        return numbers_B

    def __getitem__(self, i: int) -> Arrays:
        if not 0 <= i < self._windows:
            raise IndexError(i)
        window = {}
        for name, array_BL in self.rows(np.array([i])).items():
            window[name.removesuffix("_BL") + "_L"] = array_BL[0]
        return window

    def rows(self, numbers_B: np.ndarray) -> Arrays:
        """Stack the windows of these numbers; numbers from `len(self)` on give padding."""
        # Where each position is in the stream; padding reads its last token, which is replaced.
        at_BL = numbers_B[:, None] * self.length + np.arange(self.length)
        end = min(self.total, self._windows * self.length)
        real_BL = at_BL < end
        at_BL = np.minimum(at_BL, self.total - 1)
        document_BL = self._document(at_BL)
        inside_BL = at_BL - self._starts[document_BL]
        tokens_BL = self._tokens_at(document_BL, inside_BL)
        tokens_BL = np.where(real_BL, tokens_BL, self._pad).astype(np.int32)
        # Segments count the documents of a window; its first document may begin before it.
        segments_BL = document_BL - document_BL[:, :1] + 1
        positions_BL = np.minimum(inside_BL, np.arange(self.length))
        counts_BL = real_BL & (inside_BL >= self._prompt_lengths[document_BL])
        arrays = dict(
            tokens_BL=tokens_BL,
            segments_BL=np.where(real_BL, segments_BL, 0).astype(np.int32),
            positions_BL=np.where(real_BL, positions_BL, 0).astype(np.int32),
            weights_BL=counts_BL.astype(np.float32),
            noisable_BL=counts_BL,
        )
        if self._marked_V is not None:
            arrays["marked_BL"] = self._marked_V[tokens_BL]
        return arrays

    def _tokens_at(self, document_BL: np.ndarray, inside_BL: np.ndarray) -> np.ndarray:
        """The tokens of documents, with eos behind the last one of each."""
        flat_BL = self._offsets[document_BL] + inside_BL
        last = max(len(self._tokens.flat) - 1, 0)
        tokens_BL = self._tokens.at(np.minimum(flat_BL, last))
        is_eos_BL = inside_BL == self._lengths[document_BL]
        return np.where(is_eos_BL, self._eos, tokens_BL)


def _order(documents: int, seed: int | None) -> np.ndarray:
    """The corpus's own order, or a pseudo-random one."""
    if seed is None:
        return np.arange(documents)
    # RandomState, unlike Generator, promises the same numbers in every NumPy version.
    return np.random.RandomState(seed % 2**32).permutation(documents)


def _up_to(prompt: int, tokens: Tokens) -> np.ndarray:
    """How many tokens of each document are up to its first `prompt`, inclusive; 0: has none."""
    begins = tokens.offsets[:-1]
    ends = tokens.offsets[1:]
    marks = np.flatnonzero(tokens.flat == prompt)
    marks = np.append(marks, len(tokens.flat))
    first = marks[np.searchsorted(marks, begins)]
    return np.where(first < ends, first + 1 - begins, 0)


class Chosen:
    """Some windows of another sequence, in the order of `numbers`."""

    def __init__(self, windows: Windows, numbers: np.ndarray):
        self.length = windows.length
        self._windows = windows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> Arrays:
        return self._windows[int(self._numbers[i])]

    @property
    def prompts(self) -> tuple[float, float]:
        """`Windows.prompts` of all windows and documents, chosen or not."""
        return self._windows.prompts

    def original_numbers(self, numbers_B: np.ndarray) -> np.ndarray:
        """Return the number that each of these windows has among all: its noise depends on it.

        Beyond the last one there is only padding.
        """
        inside_B = numbers_B < len(self)
        chosen_B = self._numbers[np.where(inside_B, numbers_B, 0)]
        return np.where(inside_B, chosen_B, len(self._windows))

    def rows(self, numbers_B: np.ndarray) -> Arrays:
        return self._windows.rows(self.original_numbers(numbers_B))


def apart(ids_B: list[np.ndarray], batch: int, length: int, pad: int) -> Arrays:
    """Lay out texts without packing: each in a row of its own, padded to one shape.

    Rows without a text have weight 0.
    """
    real_BL = np.zeros((batch, length), bool)
    tokens_BL = np.full((batch, length), pad, np.int32)
    for b, ids in enumerate(ids_B):
        tokens_BL[b, : len(ids)] = ids
        real_BL[b, : len(ids)] = True
    positions_BL = np.where(real_BL, np.arange(length), 0)
    return dict(
        tokens_BL=tokens_BL,
        segments_BL=real_BL.astype(np.int32),
        positions_BL=positions_BL.astype(np.int32),
        weights_BL=real_BL.astype(np.float32),
        noisable_BL=real_BL,
        index_B=np.arange(batch, dtype=np.int32),
    )
