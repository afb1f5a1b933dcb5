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
    "no bos is in the stream (a causal model shifts it in)"
)

Array = np.ndarray
Arrays = dict[str, Array]


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
        marked_V: Array | None = None,
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
        begins = tokens.offsets[:-1]
        order = _order(len(begins), order_seed)
        self._offsets = begins[order]  # in the flat array
        lengths = np.diff(tokens.offsets)
        self._lengths = lengths[order]
        self._starts = _cumulative(self._lengths + 1)  # in the stream, with eos
        prompt_lengths = _up_to(prompt, tokens)
        self._prompt_lengths = prompt_lengths[order]
        self.total = int(self._starts[-1])  # tokens in the stream, eos included
        # Training drops the incomplete last window, evaluation pads it.
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
        counting = len(self.counting())
        blank = 1 - counting / self._windows
        return float(with_prompt.mean()), blank

    def counting(self) -> Array:
        """Return the numbers of the windows in which some token counts in the loss."""
        borders_N = self.length * np.arange(self._windows + 1)
        borders_N = np.minimum(borders_N, self.total)
        counted_N = self._counted_before(borders_N)
        # A window counts where the number grows between its borders.
        return np.flatnonzero(np.diff(counted_N))

    def _counted_before(self, at_N: Array) -> Array:
        """How many tokens of the stream count before each of these places."""
        before = _cumulative(self._lengths + 1 - self._prompt_lengths)
        # The last place is behind the last document: there is no prompt.
        prompts = np.append(self._prompt_lengths, 0)
        document_N = self._document(at_N)
        inside_N = at_N - self._starts[document_N]
        counted_N = np.maximum(inside_N - prompts[document_N], 0)
        return before[document_N] + counted_N

    def _document(self, at: Array) -> Array:
        """The document at each place of the stream."""
        following = np.searchsorted(self._starts, at, "right")
        return following - 1

    def original_numbers(self, numbers_B: Array) -> Array:
        """Return the number that each of these windows has among all: the same."""
        return numbers_B

    def __getitem__(self, i: int) -> Arrays:
        if not 0 <= i < self._windows:
            raise IndexError(i)
        rows = self.rows(np.array([i]))
        window = {}
        for name, array_BL in rows.items():
            stem = name.removesuffix("_BL")
            window[f"{stem}_L"] = array_BL[0]
        return window

    def rows(self, numbers_B: Array) -> Arrays:
        """Stack the windows of these numbers; numbers from `len(self)` on give padding."""
        # Where each position is in the stream.
        index_L = np.arange(self.length)
        begin_B = numbers_B * self.length
        at_BL = begin_B[:, None] + index_L
        end = min(self.total, len(self) * self.length)
        real_BL = at_BL < end
        # Padding reads the last token of the stream, which is then replaced.
        at_BL = np.minimum(at_BL, self.total - 1)
        document_BL = self._document(at_BL)
        inside_BL = at_BL - self._starts[document_BL]
        tokens_BL = self._tokens_at(document_BL, inside_BL)
        tokens_BL = _padded(tokens_BL, real_BL, self._pad)
        # Segments count the documents of a window; the first may begin before the window.
        first_B1 = document_BL[:, :1]
        segments_BL = document_BL - first_B1 + 1
        positions_BL = np.minimum(inside_BL, index_L)
        prompt_BL = self._prompt_lengths[document_BL]
        counts_BL = real_BL & (inside_BL >= prompt_BL)
        arrays = dict(
            tokens_BL=tokens_BL,
            segments_BL=_padded(segments_BL, real_BL, 0),
            positions_BL=_padded(positions_BL, real_BL, 0),
            weights_BL=counts_BL.astype(np.float32),
            noisable_BL=counts_BL,
        )
        if self._marked_V is not None:
            arrays["marked_BL"] = self._marked_V[tokens_BL]
        return arrays

    def _tokens_at(self, document_BL: Array, inside_BL: Array) -> Array:
        """The tokens of documents, with eos behind the last one of each."""
        flat_BL = self._offsets[document_BL] + inside_BL
        # The place of the last eos is behind the array.
        last = len(self._tokens.flat) - 1
        flat_BL = np.minimum(flat_BL, max(last, 0))
        tokens_BL = self._tokens.at(flat_BL)
        is_eos_BL = inside_BL == self._lengths[document_BL]
        return np.where(is_eos_BL, self._eos, tokens_BL)


def _cumulative(lengths: Array) -> Array:
    """Where each of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _padded(values_BL: Array, real_BL: Array, pad: int) -> Array:
    padded_BL = np.where(real_BL, values_BL, pad)
    return padded_BL.astype(np.int32)


def _order(documents: int, seed: int | None) -> Array:
    """The corpus's own order, or a pseudo-random one."""
    if seed is None:
        return np.arange(documents)
    # RandomState, unlike Generator, promises the same numbers in every NumPy version.
    random = np.random.RandomState(seed % 2**32)
    return random.permutation(documents)


def _up_to(prompt: int | None, tokens: Tokens) -> Array:
    """How many tokens of each document are up to its first `prompt`, inclusive; 0: has none."""
    begins = tokens.offsets[:-1]
    ends = tokens.offsets[1:]
    if prompt is None:
        return np.zeros(len(begins), np.int64)
    marks = np.flatnonzero(tokens.flat == prompt)
    # One more behind the last token, so that every document is followed by a mark.
    marks = np.append(marks, len(tokens.flat))
    first = marks[np.searchsorted(marks, begins)]
    lengths = first + 1 - begins
    return np.where(first < ends, lengths, 0)


class Chosen:
    """Some windows of another sequence, in the order of `numbers`."""

    def __init__(self, windows: Windows, numbers: Array):
        self.length = windows.length
        self._windows = windows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> Arrays:
        number = self._numbers[i]
        return self._windows[int(number)]

    @property
    def prompts(self) -> tuple[float, float]:
        """`Windows.prompts` of all windows and documents, chosen or not."""
        return self._windows.prompts

    def original_numbers(self, numbers_B: Array) -> Array:
        """Return the number that each of these windows has among all: its noise depends on it.

        Beyond the last one there is only padding.
        """
        # Rows that fill the last batch have numbers beyond the last window.
        inside_B = numbers_B < len(self)
        index_B = np.where(inside_B, numbers_B, 0)
        chosen_B = self._numbers[index_B]
        return np.where(inside_B, chosen_B, len(self._windows))

    def rows(self, numbers_B: Array) -> Arrays:
        original_B = self.original_numbers(numbers_B)
        return self._windows.rows(original_B)


def apart(ids_B: list[Array], batch: int, length: int, pad: int) -> Arrays:
    """Lay out texts without packing: each in a row of its own, padded to one shape.

    Rows without a text have weight 0.
    """
    real_BL = np.zeros((batch, length), bool)
    tokens_BL = np.full((batch, length), pad, np.int32)
    for b, ids in enumerate(ids_B):
        size = len(ids)
        tokens_BL[b, :size] = ids
        real_BL[b, :size] = True
    return dict(
        tokens_BL=tokens_BL,
        segments_BL=real_BL.astype(np.int32),
        positions_BL=_padded(np.arange(length), real_BL, 0),
        weights_BL=real_BL.astype(np.float32),
        noisable_BL=real_BL,
        index_B=np.arange(batch, dtype=np.int32),
    )
