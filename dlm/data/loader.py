"""Batches addressable by step: batch b holds samples b·B … b·B + B − 1 of an endless sequence of shuffled epochs.

    source ─ tokens ─ windows ─ shuffle each epoch, repeat ─ slots of this process ─ read ahead in threads ─> {tokens_BL, …}

The sequence is a function of (corpus, tokenizer, seed), so a run resumes from its step number alone and hosts read disjoint slots
of the same batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dlm.core.config import free, member
from dlm.core.errors import UserError
from dlm.data import digest, packing, token_cache
from dlm.text.base import Tokenizer

Arrays = dict[str, np.ndarray]
Windows = packing.Windows | packing.Chosen


@dataclass(frozen=True)
class Loader:
    """A config's `data` section."""

    source: Any = member("data", "embedded")
    batch: int = 32  # sequences per update, over all hosts
    length: int = 128  # tokens per sequence
    threads: int = free(2)  # that read ahead; 0 reads when asked
    windows: int = 0  # of the training text that are read, again and again: for studies of repeated data; 0: all
    mark: str = ""  # characters of which a token must consist to be marked, for objectives and scores that tell tokens apart
    prompt: str = ""  # the character that ends a document's prompt, which is read and neither noised nor in the loss; "": no prompts
    blank: Literal["left_out", "served"] = (
        "left_out"  # what becomes of windows that hold nothing but prompts, where there are prompts
    )

    def __post_init__(self):
        if self.windows < 0:
            raise ValueError(f"windows={self.windows} must not be negative")
        if self.batch < 1 or self.length < 1 or self.threads < 0:
            raise ValueError(
                f"batch and length must be at least 1 and threads at least 0: {self.batch}, {self.length}, {self.threads}"
            )

    @property
    def dropped(self) -> dict[str, int]:
        """What the source was given and has left out: how many of what."""
        return getattr(self.source, "dropped", {})

    def fingerprint(self, tokenizer: Tokenizer) -> str:
        """What the training data are: another corpus, order or tokenizer has another one."""
        return token_cache.fingerprint(tokenizer, self.source.documents("train"))

    def held_out_fingerprint(self) -> str:
        """What the held-out text is; '' where the source has none."""
        try:
            documents = self.source.documents("held_out")
        except UserError:
            return ""
        return getattr(documents, "fingerprint", None) or digest(documents)["sha256"]

    def train_windows(self, tokenizer: Tokenizer, seed: int) -> Windows:
        """Windows over the training documents in an order fixed by `seed`; the first `self.windows` of them, where that is not 0."""
        windows = self._windows(tokenizer, "train", seed)
        if not len(windows):
            raise UserError(
                f"config.data.length={self.length} is longer than the corpus ({windows.total} tokens): shorten it, or give more text"
            )
        served = self._served(windows, "training")
        if self.windows > len(served):
            raise UserError(
                f"config.data.windows={self.windows} is more than the corpus has ({len(served)}): ask for fewer"
            )
        return (
            packing.Chosen(windows, served[: self.windows])
            if self.windows
            else _chosen(windows, served)
        )

    def held_out_windows(self, tokenizer: Tokenizer, limit: int | None = None) -> Windows:
        """Windows over the held-out documents in their own order; with `limit`, that many of them, evenly spread."""
        windows = self._windows(tokenizer, "held_out", None)
        if not len(windows):
            raise UserError("the held-out split has no text")
        served = self._served(windows, "held-out")
        if limit is None or limit >= len(served):
            return _chosen(windows, served)
        return packing.Chosen(windows, served[np.arange(limit) * len(served) // limit])

    def about(self, windows: Windows) -> str:
        """One line on the prompts of a text."""
        documents, blank = windows.prompts
        return (
            f"config.data.prompt={self.prompt!r}: {documents:.1%} of the documents have one; "
            f"{blank:.1%} of the windows hold nothing but prompts and are {self.blank.replace('_', ' ')}"
        )

    def _served(self, windows: packing.Windows, split: str) -> np.ndarray:
        """The numbers of the windows that are read: all, or those in which some token counts."""
        if not self.prompt or self.blank == "served":
            return np.arange(len(windows))
        if not windows.prompts[0]:
            raise UserError(
                f"no document of the {split} text has config.data.prompt={self.prompt!r}: name the character that ends its prompts, "
                "or leave it out"
            )
        served = windows.asked()
        if not len(served):
            raise UserError(
                f"in no window of config.data.length={self.length} tokens does a token follow config.data.prompt={self.prompt!r}: "
                "give documents with more behind their prompts, or more of them"
            )
        return served

    def _windows(self, tokenizer: Tokenizer, split: str, seed: int | None) -> packing.Windows:
        token_store = token_cache.tokenized(tokenizer, self.source.documents(split))
        pieces = [tokenizer.piece(i) for i in range(tokenizer.size)] if self.mark else []
        marked_V = (
            np.array(
                [
                    n > 0 and set(p) <= set(self.mark)
                    for p, n in zip(pieces, tokenizer.bytes_V, strict=True)
                ]
            )
            if pieces
            else None
        )
        return packing.Windows(
            token_store,
            self.length,
            tokenizer.eos,
            tokenizer.pad,
            seed,
            marked_V,
            self._ends_prompts(tokenizer),
        )

    def _ends_prompts(self, tokenizer: Tokenizer) -> int | None:
        if not self.prompt:
            return None
        ids = tokenizer.encode(self.prompt)
        if len(ids) != 1:
            raise UserError(
                f"config.data.prompt={self.prompt!r} must be one token of the tokenizer, not {len(ids)}: name another"
            )
        return int(ids[0])

    def batches(
        self, windows: Windows, seed: int, step: int = 0, process: int = 0, processes: int = 1
    ) -> Iterator[Arrays]:
        """The batches of steps `step`, `step + 1`, … without end; this process's slots, in the order of `index_B`."""
        import grain  # imports JAX

        numbers = grain.MapDataset.range(len(windows)).seed(seed % 2**32).shuffle().repeat()
        steps = _Steps(windows, numbers, self.batch, _slots(self.batch, process, processes))
        dataset = grain.MapDataset.source(steps).slice(slice(step, None))
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=4 * self.threads)
        return iter(dataset.to_iter_dataset(options))

    def sequential(
        self, windows: Windows, batch: int | None = None, process: int = 0, processes: int = 1
    ) -> Iterator[Arrays]:
        """Every window once, in order; rows that fill the last batch have weight 0. All processes yield as many batches."""
        batch = batch or self.batch
        slots_B = _slots(batch, process, processes)
        for begin in range(0, len(windows), batch):
            yield windows.rows(begin + slots_B) | dict(index_B=_index(windows.own(begin + slots_B)))


def _chosen(windows: packing.Windows, numbers: np.ndarray) -> Windows:
    return windows if len(numbers) == len(windows) else packing.Chosen(windows, numbers)


class _Steps:
    """Random access to batches by step; `numbers[n]` is the window of global sample n."""

    def __init__(self, windows: Windows, numbers: Sequence[int], batch: int, slots_B: np.ndarray):
        self._windows, self._numbers, self._batch, self._slots_B = windows, numbers, batch, slots_B

    def __len__(self) -> int:
        return 2**62 // self._batch

    def __getitem__(self, step: int) -> Arrays:
        samples_B = int(step) * self._batch + self._slots_B
        numbers_B = np.array([self._numbers[n] for n in samples_B.tolist()])
        return self._windows.rows(numbers_B) | dict(index_B=_index(samples_B))


def _slots(batch: int, process: int, processes: int) -> np.ndarray:
    """The places of a process in the global batch."""
    if batch % processes:
        raise UserError(
            f"a batch of {batch} cannot be split over {processes} processes: make config.data.batch a multiple"
        )
    share = batch // processes
    return np.arange(process * share, (process + 1) * share)


def _index(samples_B: np.ndarray) -> np.ndarray:
    """31 bits suffice: keys are folded with the step as well."""
    return (samples_B % 2**31).astype(np.int32)
