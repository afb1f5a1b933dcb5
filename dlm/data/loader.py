"""Batches addressable by step: batch b contains samples b·B … b·B + B − 1 of shuffled epochs.

    source ─ tokens ─ windows ─ shuffle each epoch, repeat ─ slots of this process
           ─ read ahead in threads ─> {tokens_BL, …}

The endless sequence is a function of (corpus, tokenizer, seed). So a run resumes from its step
number alone, and hosts read disjoint slots of the same batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dlm.core.config import free, member
from dlm.core.errors import UserError
from dlm.data import packing, token_cache
from dlm.data.base import Split, digest
from dlm.data.packing import Arrays
from dlm.text.base import Tokenizer

Windows = packing.Windows | packing.Chosen


@dataclass(frozen=True)
class Loader:
    """A config's `data` section."""

    source: Any = member("data", "embedded")
    batch: int = 32  # sequences per update, over all hosts
    length: int = 128  # tokens per sequence
    threads: int = free(2)  # that read ahead; 0: read each batch when it is needed
    # How many windows of the training text are read, repeatedly: for studies of repeated data; 0:
    # all.
    windows: int = 0
    # Tokens that consist of these characters are marked, for objectives and scores that distinguish
    # tokens.
    marked_characters: str = ""
    # The character that ends a document's prompt, which is read but neither noised nor in the loss;
    # "": no prompts.
    prompt: str = ""
    # Whether windows that contain nothing but prompts are in the sequence.
    blank: Literal["left_out", "served"] = "left_out"

    def __post_init__(self):
        if self.windows < 0:
            raise ValueError(f"windows={self.windows} must not be negative")
        if self.batch < 1 or self.length < 1 or self.threads < 0:
            raise ValueError(
                "batch and length must be at least 1 and threads at least 0: "
                f"{self.batch}, {self.length}, {self.threads}"
            )

    # -------------------------------------------------------------------- what the data are

    @property
    def dropped(self) -> dict[str, int]:
        """How much the source left out, by kind."""
        return self.source.dropped

    def fingerprint(self, tokenizer: Tokenizer) -> str:
        """Identify the training data: corpus, order and tokenizer."""
        documents = self.source.documents("train")
        identity = self.source.fingerprint("train")
        return token_cache.fingerprint(tokenizer, documents, identity)

    def held_out_fingerprint(self) -> str:
        """Identify the held-out text; '' where the source has none."""
        try:
            documents = self.source.documents("held_out")
        except UserError:
            return ""
        return self.source.fingerprint("held_out") or digest(documents)["sha256"]

    def about(self, windows: Windows) -> str:
        """Describe the prompts of a text in one line."""
        documents, blank = windows.prompts
        outcome = self.blank.replace("_", " ")
        return (
            f"config.data.prompt={self.prompt!r}: {documents:.1%} of the documents have one; "
            f"{blank:.1%} of the windows hold nothing but prompts and are {outcome}"
        )

    # -------------------------------------------------------------------- windows

    def train_windows(self, tokenizer: Tokenizer, seed: int) -> Windows:
        """Cut the training documents into windows, in an order fixed by `seed`.

        With `self.windows`, only as many from the beginning.
        """
        windows = self._windows(tokenizer, "train", seed)
        if not len(windows):
            raise UserError(
                f"config.data.length={self.length} is longer than the corpus "
                f"({windows.total} tokens): shorten it, or give more text"
            )
        served = self._served(windows, "training")
        if not self.windows:
            return _chosen(windows, served)
        if self.windows > len(served):
            raise UserError(
                f"config.data.windows={self.windows} is more than the corpus has "
                f"({len(served)}): ask for fewer"
            )
        return packing.Chosen(windows, served[: self.windows])

    def held_out_windows(
        self, tokenizer: Tokenizer, limit: int | None = None
    ) -> Windows:
        """Cut the held-out documents into windows, in their own order.

        With `limit`, as many of the windows, evenly spread.
        """
        windows = self._windows(tokenizer, "held_out", None)
        if not len(windows):
            raise UserError("the held-out split has no text")
        served = self._served(windows, "held-out")
        if limit is None or limit >= len(served):
            return _chosen(windows, served)
        spread = np.arange(limit) * len(served) // limit
        return packing.Chosen(windows, served[spread])

    def _windows(
        self, tokenizer: Tokenizer, split: Split, seed: int | None
    ) -> packing.Windows:
        documents = self.source.documents(split)
        identity = self.source.fingerprint(split)
        tokens = token_cache.tokenized(tokenizer, documents, identity=identity)
        prompt = self._prompt_id(tokenizer)
        marked_V = self._marked(tokenizer)
        eos, pad = tokenizer.eos, tokenizer.pad
        return packing.Windows(tokens, self.length, eos, pad, seed, marked_V, prompt)

    def _marked(self, tokenizer: Tokenizer) -> np.ndarray | None:
        """Which ids consist of the characters of `mark`."""
        if not self.marked_characters:
            return None
        characters = set(self.marked_characters)
        marked_V = np.zeros(tokenizer.size, bool)
        for id in range(tokenizer.size):
            consists_of_mark = set(tokenizer.piece(id)) <= characters
            marked_V[id] = tokenizer.bytes_V[id] > 0 and consists_of_mark
        return marked_V

    def _prompt_id(self, tokenizer: Tokenizer) -> int | None:
        """The id that ends a prompt."""
        if not self.prompt:
            return None
        ids = tokenizer.encode(self.prompt)
        if len(ids) != 1:
            raise UserError(
                f"config.data.prompt={self.prompt!r} must be one token of the tokenizer, "
                f"not {len(ids)}: name another"
            )
        return int(ids[0])

    def _served(self, windows: packing.Windows, split: str) -> np.ndarray:
        """The numbers of the windows that are read: all, or those in which some token counts."""
        if not self.prompt or self.blank == "served":
            return np.arange(len(windows))
        with_prompt, _ = windows.prompts
        if not with_prompt:
            raise UserError(
                f"no document of the {split} text has config.data.prompt={self.prompt!r}: "
                "name the character that ends its prompts, or leave it out"
            )
        served = windows.counting()
        if not len(served):
            raise UserError(
                f"in no window of config.data.length={self.length} tokens does a token follow "
                f"config.data.prompt={self.prompt!r}: "
                "give documents with more behind their prompts, or more of them"
            )
        return served

    # -------------------------------------------------------------------- batches

    def batches(
        self,
        windows: Windows,
        seed: int,
        step: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[Arrays]:
        """Yield the batches of steps `step`, `step + 1`, … without end.

        Args:
            windows: of the training text.
            seed: of the order in each epoch.
            step: first step.
            process: this process. It reads only its slots, in the order of `index_B`.
            processes: number of processes.
        """
        import grain  # imports JAX

        slots_B = _slots(self.batch, process, processes)
        numbers = (
            grain.MapDataset.range(len(windows)).seed(seed % 2**32).shuffle().repeat()
        )
        steps = _Steps(windows, numbers, self.batch, slots_B)
        dataset = grain.MapDataset.source(steps).slice(slice(step, None))
        ahead = 4 * self.threads
        options = grain.ReadOptions(
            num_threads=self.threads, prefetch_buffer_size=ahead
        )
        return iter(dataset.to_iter_dataset(options))

    def sequential(
        self,
        windows: Windows,
        batch: int | None = None,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[Arrays]:
        """Yield every window once, in order; rows that fill the last batch have weight 0.

        All processes yield as many batches.
        """
        batch = batch or self.batch
        slots_B = _slots(batch, process, processes)
        for begin in range(0, len(windows), batch):
            numbers_B = begin + slots_B
            index_B = _index(windows.original_numbers(numbers_B))
            yield windows.rows(numbers_B) | dict(index_B=index_B)


def _chosen(windows: packing.Windows, numbers: np.ndarray) -> Windows:
    has_all = len(numbers) == len(windows)
    return windows if has_all else packing.Chosen(windows, numbers)


class _Steps:
    """Random access to batches by step; `numbers[n]` is the window of global sample n."""

    def __init__(
        self, windows: Windows, numbers: Sequence[int], batch: int, slots_B: np.ndarray
    ):
        self._windows = windows
        self._numbers = numbers
        self._batch = batch
        self._slots_B = slots_B

    def __len__(self) -> int:
        return 2**62 // self._batch

    def __getitem__(self, step: int) -> Arrays:
        samples_B = int(step) * self._batch + self._slots_B
        numbers_B = np.array([self._numbers[n] for n in samples_B.tolist()])
        return self._windows.rows(numbers_B) | dict(index_B=_index(samples_B))


def _slots(batch: int, process: int, processes: int) -> np.ndarray:
    """The rows of a process in the global batch."""
    if batch % processes:
        raise UserError(
            f"a batch of {batch} cannot be split over {processes} processes: "
            "make config.data.batch a multiple"
        )
    share = batch // processes
    return np.arange(process * share, (process + 1) * share)


def _index(samples_B: np.ndarray) -> np.ndarray:
    """Reduces sample numbers to 31 bits: enough, since keys are folded with the step as well."""
    return (samples_B % 2**31).astype(np.int32)
