"""The loader: a step number is all that a run needs to resume, and hosts share one global order."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.data.base import Source
from dlm.data.loader import Loader
from dlm.text.bytes import Bytes

TOKENIZER = Bytes().fit(())


@dataclass(frozen=True)
class Numbered(Source):
    size: int = 40

    def documents(self, split):
        size = self.size if split == "train" else 9
        documents = []
        for i in range(size):
            padding = "x" * (i % 7)
            documents.append(f"{split} {i} {padding}")
        return documents


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_CACHE", str(tmp_path))


LOADER = Loader(source=Numbered(), batch=4, length=16, threads=2)


def first(n, loader=LOADER, windows=None, seed=0, **options):
    windows = windows or loader.train_windows(TOKENIZER, 0)
    batches = loader.batches(windows, seed=seed, **options)
    return list(itertools.islice(batches, n))


def contents(rows) -> list[bytes]:
    return [row.tobytes() for row in rows]


def joined(parts):
    """The batch of which the hosts have these parts."""
    batch = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        batch[name] = np.concatenate(arrays)
    return batch


def listed(windows) -> list:
    return [windows[i] for i in range(len(windows))]


def counts(batches) -> list[bool]:
    """Whether some token of each batch counts in the loss."""
    weights = [batch["weights_BL"] for batch in batches]
    return [bool(weights_BL.any()) for weights_BL in weights]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_resuming_from_a_step_continues_the_unbroken_stream():
    unbroken = first(30)  # several epochs
    for step in (0, 1, 7, 23):
        resumed = first(5, step=step)
        for i, batch in enumerate(resumed):
            same(batch, unbroken[step + i])
    for i, batch in enumerate(unbroken):
        numbers = range(4 * i, 4 * i + 4)
        assert batch["index_B"].tolist() == list(numbers)
    (late,) = first(1, step=10**9)
    numbers = 4 * 10**9 + np.arange(4)
    numbers %= 2**31
    assert late["index_B"].tolist() == numbers.tolist()


def test_threads_do_not_change_the_data():
    expected = first(9)
    for threads in (0, 1, 7):
        loader = replace(LOADER, threads=threads)
        batches = first(9, loader)
        for i, batch in enumerate(batches):
            same(batch, expected[i])


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order():
    windows = LOADER.train_windows(TOKENIZER, 0)
    loader = replace(LOADER, batch=len(windows))
    batches = first(2, loader, windows)
    one, two = (contents(batch["tokens_BL"]) for batch in batches)
    in_order = contents(window["tokens_L"] for window in listed(windows))
    assert sorted(one) == sorted(two) == sorted(in_order)
    (batch,) = first(1, loader, windows, seed=1)
    other_seed = contents(batch["tokens_BL"])
    assert one not in (two, in_order, other_seed)


def test_hosts_read_disjoint_parts_of_the_same_batches():
    whole = first(6, step=3)
    one = first(6, step=3, process=0, processes=2)
    two = first(6, step=3, process=1, processes=2)
    for batch, *halves in zip(whole, one, two, strict=True):
        same(batch, joined(halves))
    held = LOADER.held_out_windows(TOKENIZER)
    whole = LOADER.sequential(held, 4)
    one = LOADER.sequential(held, 4, 0, 2)
    two = LOADER.sequential(held, 4, 1, 2)
    for batch, *halves in zip(whole, one, two, strict=True):
        same(batch, joined(halves))


def test_evaluation_reads_every_held_out_byte_once():
    held = LOADER.held_out_windows(TOKENIZER)
    parts = list(LOADER.sequential(held, 4))
    batches = joined(parts)
    rows = batches["tokens_BL"]
    weights = batches["weights_BL"]
    documents = Numbered().documents("held_out")
    text = "".join(documents)
    size = len(text.encode())
    # The last batch is filled.
    assert len(held) % 4
    assert len(rows) == len(held) + 4 - len(held) % 4
    bytes_BL = TOKENIZER.bytes_V[rows] * weights
    assert bytes_BL.sum() == size
    assert weights.sum() == size + len(documents)  # eos counts
    assert TOKENIZER.decode(rows.ravel()) == text
    padding = rows[weights == 0]
    assert (padding == TOKENIZER.pad).all()


def test_a_limit_takes_windows_evenly_spread():
    held = LOADER.held_out_windows(TOKENIZER)
    three = LOADER.held_out_windows(TOKENIZER, 3)
    assert len(three) == 3
    many = LOADER.held_out_windows(TOKENIZER, 10**6)
    assert len(many) == len(held)
    third = held[2 * len(held) // 3]
    np.testing.assert_array_equal(three[2]["tokens_L"], third["tokens_L"])
    (batch,) = LOADER.sequential(three, 4)
    is_text = batch["weights_BL"].any(1)
    assert is_text.tolist() == [True, True, True, False]


def test_mistakes():
    line = r"data.length=4096 is longer than the corpus \(\d+ tokens\)"
    wrong = replace(LOADER, length=4096)
    with pytest.raises(UserError, match=line):
        wrong.train_windows(TOKENIZER, 0)
    line = "config.data.prompt='é' must be one token of the tokenizer, not 2"
    wrong = replace(LOADER, prompt="é")
    with pytest.raises(UserError, match=line):
        wrong.train_windows(TOKENIZER, 0)
    with pytest.raises(UserError, match="batch of 4 cannot be split over 3 processes"):
        first(1, processes=3)
    with pytest.raises(UserError, match="config.data: batch and length"):
        build_run(dict(steps=1, data=dict(batch=0)))


@dataclass(frozen=True)
class Asked(Source):
    """A question, then its answer."""

    question: int = 30

    def documents(self, split):
        return [f"{'q' * (self.question + i)}={i}" for i in range(9)] + [
            "plain text, whole"
        ]


ASKING = Loader(source=Asked(), length=8, prompt="=")


def held_out_rows(loader) -> dict[int, bytes]:
    """The held-out windows in which some token counts, by their numbers."""
    rows = {}
    windows = loader.held_out_windows(TOKENIZER)
    for batch in loader.sequential(windows, 4):
        has_text = batch["weights_BL"].any(1)
        numbers = batch["index_B"][has_text]
        texts = batch["tokens_BL"][has_text]
        rows |= zip(numbers.tolist(), contents(texts), strict=True)
    return rows


def test_windows_in_which_nothing_counts_are_not_served():
    """Training reads only the others, also in batches of one row.

    The held-out text stays the same, each window under its own number.
    """
    left = replace(ASKING, batch=1, threads=0)
    served = replace(left, blank="served")
    whole = served.train_windows(TOKENIZER, 0)
    counting = left.train_windows(TOKENIZER, 0)
    assert len(counting) < len(whole) / 2
    served_batches = first(len(whole), served)
    assert not all(counts(served_batches))
    batches = first(3 * len(counting), left)
    assert all(counts(batches))
    read = set(contents(batch["tokens_BL"] for batch in batches))
    expected = whole.rows(whole.counting())
    assert read == set(contents(expected["tokens_BL"]))
    blank = len(whole) - len(counting)
    share = 100 * blank / len(whole)
    assert left.about(counting) == (
        "config.data.prompt='=': 90.0% of the documents have one; "
        f"{share:.1f}% of the windows hold nothing but prompts and are left out"
    )
    held_out = held_out_rows(left)
    assert held_out == held_out_rows(served)
    assert len(held_out) == len(left.held_out_windows(TOKENIZER))
    few = replace(left, windows=3)
    assert len(few.train_windows(TOKENIZER, 0)) == 3
    assert all(counts(first(9, few)))


def test_a_window_of_a_few_has_the_noise_that_it_has_among_all():
    held = LOADER.held_out_windows(TOKENIZER)
    for limit in (3, 4, len(held)):
        few = LOADER.held_out_windows(TOKENIZER, limit)
        batch, *_ = LOADER.sequential(few, len(held))
        own = np.arange(limit) * len(held) // limit
        numbers = batch["index_B"][:limit]
        assert numbers.tolist() == own.tolist()
        assert batch["weights_BL"].any(1).sum() == limit
        expected = held.rows(own)
        read = batch["tokens_BL"][:limit]
        np.testing.assert_array_equal(read, expected["tokens_BL"])


def test_a_prompt_that_never_comes_is_an_error():
    never = replace(ASKING, prompt="@")
    endless = replace(ASKING, source=Asked(10**4), windows=1)
    line = "no document of the {} text has config.data.prompt='@'"
    training = line.format("training")
    with pytest.raises(UserError, match=training):
        never.train_windows(TOKENIZER, 0)
    held_out = line.format("held-out")
    with pytest.raises(UserError, match=held_out):
        never.held_out_windows(TOKENIZER)
    with pytest.raises(
        UserError, match="config.data.windows=1000 is more than the corpus has"
    ):
        many = replace(ASKING, windows=1000)
        many.train_windows(TOKENIZER, 0)
    assert len(endless.train_windows(TOKENIZER, 0)) == 1
    line = "in no window of config.data.length=8 tokens does a token follow config.data.prompt='='"
    with pytest.raises(UserError, match=line):
        replace(ASKING, source=Endless()).train_windows(TOKENIZER, 0)


class Endless(Source):
    """The prompt ends with the text, in a window that training drops because it is not full."""

    def documents(self, split):
        return ["q" * 17 + "="]


def test_few_windows_are_read_again_and_again():
    """Every epoch reads each of the stream's first windows once, and no others."""
    few = replace(LOADER, threads=0, windows=8)
    rows = []
    for batch in first(6, few):
        rows += contents(batch["tokens_BL"])
    whole = LOADER.train_windows(TOKENIZER, 0)
    expected = whole.rows(np.arange(8))
    eight = sorted(contents(expected["tokens_BL"]))
    for begin in (0, 8, 16):
        epoch = rows[begin : begin + 8]
        assert sorted(epoch) == eight
    assert rows[:8] != rows[8:16], "in another order"
    with pytest.raises(UserError, match="data.windows=999 is more than the corpus has"):
        many = replace(LOADER, windows=999)
        many.train_windows(TOKENIZER, 0)
    with pytest.raises(ValueError, match="windows=-1"):
        Loader(windows=-1)
