"""The loader: a step number is all that a run needs to resume, and hosts share one global order."""

import itertools
from dataclasses import dataclass

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
        return [
            f"{split} {i} " + "x" * (i % 7) for i in range(self.size if split == "train" else 9)
        ]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_CACHE", str(tmp_path))


LOADER = Loader(source=Numbered(), batch=4, length=16, threads=2)


def first(n, loader=LOADER, windows=None, **options):
    windows = windows or loader.train_windows(TOKENIZER, 0)
    return list(itertools.islice(loader.batches(windows, **dict(dict(seed=0), **options)), n))


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_resuming_from_a_step_continues_the_unbroken_stream():
    unbroken = first(30)  # several epochs
    for step in (0, 1, 7, 23):
        for resumed, expected in zip(first(5, step=step), unbroken[step:], strict=False):
            same(resumed, expected)
    assert [b["index_B"].tolist() for b in unbroken[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert first(1, step=10**9)[0]["index_B"].tolist() == [
        (4 * 10**9 + i) % 2**31 for i in range(4)
    ]


def test_threads_do_not_change_the_data():
    for threads in (0, 1, 7):
        for a, b in zip(
            first(9),
            first(9, Loader(source=Numbered(), batch=4, length=16, threads=threads)),
            strict=True,
        ):
            same(a, b)


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order():
    windows = LOADER.train_windows(TOKENIZER, 0)
    loader = Loader(source=Numbered(), batch=len(windows), length=16)
    one, two = (
        [row.tobytes() for row in batch["tokens_BL"]] for batch in first(2, loader, windows)
    )
    assert (
        sorted(one)
        == sorted(two)
        == sorted(windows[i]["tokens_L"].tobytes() for i in range(len(windows)))
    )
    assert one != two
    assert one != [row.tobytes() for row in first(1, loader, windows, seed=1)[0]["tokens_BL"]]
    assert one != [windows[i]["tokens_L"].tobytes() for i in range(len(windows))]


def test_hosts_read_disjoint_parts_of_the_same_batches():
    whole, parts = first(6, step=3), [first(6, step=3, process=p, processes=2) for p in (0, 1)]
    for batch, *halves in zip(whole, *parts, strict=True):
        same(batch, {name: np.concatenate([half[name] for half in halves]) for name in batch})
    held = LOADER.held_out_windows(TOKENIZER)
    for batch, *halves in zip(
        *(LOADER.sequential(held, 4, p, n) for p, n in ((0, 1), (0, 2), (1, 2))), strict=True
    ):
        same(batch, {name: np.concatenate([half[name] for half in halves]) for name in batch})


def test_evaluation_reads_every_held_out_byte_once():
    held = LOADER.held_out_windows(TOKENIZER)
    batches = list(LOADER.sequential(held, 4))
    rows = np.concatenate([b["tokens_BL"] for b in batches])
    weights = np.concatenate([b["weights_BL"] for b in batches])
    documents = Numbered().documents("held_out")
    assert len(held) % 4 and len(rows) == -(-len(held) // 4) * 4  # the last batch is filled
    assert (TOKENIZER.bytes_V[rows] * weights).sum() == sum(len(d.encode()) for d in documents)
    assert weights.sum() == sum(len(d.encode()) + 1 for d in documents)  # eos counts
    assert TOKENIZER.decode(rows.ravel()) == "".join(documents)
    assert (rows[weights == 0] == TOKENIZER.pad).all()


def test_a_limit_takes_windows_evenly_spread():
    held, three = LOADER.held_out_windows(TOKENIZER), LOADER.held_out_windows(TOKENIZER, 3)
    assert len(three) == 3 and len(LOADER.held_out_windows(TOKENIZER, 10**6)) == len(held)
    np.testing.assert_array_equal(three[2]["tokens_L"], held[2 * len(held) // 3]["tokens_L"])
    (batch,) = LOADER.sequential(three, 4)
    assert batch["weights_BL"].any(1).tolist() == [True, True, True, False]


def test_mistakes():
    with pytest.raises(
        UserError, match=r"data.length=4096 is longer than the corpus \(\d+ tokens\)"
    ):
        Loader(source=Numbered(), length=4096).train_windows(TOKENIZER, 0)
    with pytest.raises(
        UserError, match="config.data.prompt='é' must be one token of the tokenizer, not 2"
    ):
        Loader(source=Numbered(), length=8, prompt="é").train_windows(TOKENIZER, 0)
    with pytest.raises(UserError, match="batch of 4 cannot be split over 3 processes"):
        first(1, processes=3)
    with pytest.raises(UserError, match="config.data: batch and length"):
        build_run(dict(steps=1, data=dict(batch=0)))


@dataclass(frozen=True)
class Asked(Source):
    """A question, then its answer."""

    question: int = 30

    def documents(self, split):
        return [f"{'q' * (self.question + i)}={i}" for i in range(9)] + ["plain text, whole"]


def test_windows_in_which_nothing_counts_are_not_served():
    """Training reads the others alone, also of one row; what held-out text costs is the same, each window by its own number."""
    served, left = (
        Loader(source=Asked(), batch=1, length=8, threads=0, prompt="=", blank=b)
        for b in ("served", "left_out")
    )
    whole, asked = (loader.train_windows(TOKENIZER, 0) for loader in (served, left))
    assert len(asked) < len(whole) / 2 and not all(
        b["weights_BL"].any() for b in first(len(whole), served)
    )
    batches = first(3 * len(asked), left)
    assert all(b["weights_BL"].any() for b in batches)
    assert {b["tokens_BL"].tobytes() for b in batches} == {
        w["tokens_L"].tobytes() for w in map(whole.__getitem__, whole.counting())
    }
    share = 100 * (1 - len(asked) / len(whole))
    assert left.about(asked) == (
        f"config.data.prompt='=': 90.0% of the documents have one; {share:.1f}% of the windows hold nothing but prompts and are left out"
    )
    told = [
        {
            int(n): row.tobytes()
            for b in loader.sequential(loader.held_out_windows(TOKENIZER), 4)
            for n, row, w in zip(b["index_B"], b["tokens_BL"], b["weights_BL"], strict=True)
            if w.any()
        }
        for loader in (served, left)
    ]
    assert told[0] == told[1] and len(told[0]) == len(left.held_out_windows(TOKENIZER))
    few = Loader(source=Asked(), batch=1, length=8, threads=0, prompt="=", windows=3)
    assert len(few.train_windows(TOKENIZER, 0)) == 3 and all(
        b["weights_BL"].any() for b in first(9, few)
    )


def test_a_window_of_a_few_has_the_noise_that_it_has_among_all():
    held = LOADER.held_out_windows(TOKENIZER)
    for limit in (3, 4, len(held)):
        (batch, *_), own = (
            LOADER.sequential(LOADER.held_out_windows(TOKENIZER, limit), len(held)),
            np.arange(limit) * len(held) // limit,
        )
        assert (
            batch["index_B"][:limit].tolist() == own.tolist()
            and batch["weights_BL"].any(1).sum() == limit
        )
        np.testing.assert_array_equal(batch["tokens_BL"][:limit], held.rows(own)["tokens_BL"])


def test_a_prompt_that_never_comes_is_an_error():
    never, endless = (
        Loader(source=Asked(), length=8, prompt="@"),
        Loader(source=Asked(10**4), length=8, prompt="=", windows=1),
    )
    for windows, split in (
        (never.train_windows, "training"),
        (lambda t, seed: never.held_out_windows(t), "held-out"),
    ):
        with pytest.raises(
            UserError, match=f"no document of the {split} text has config.data.prompt='@'"
        ):
            windows(TOKENIZER, 0)
    with pytest.raises(UserError, match="config.data.windows=1000 is more than the corpus has"):
        Loader(source=Asked(), length=8, prompt="=", windows=1000).train_windows(TOKENIZER, 0)
    assert len(endless.train_windows(TOKENIZER, 0)) == 1
    with pytest.raises(
        UserError,
        match="in no window of config.data.length=8 tokens does a token follow config.data.prompt='='",
    ):
        Loader(source=Endless(), length=8, prompt="=").train_windows(TOKENIZER, 0)


class Endless(Source):
    """What ends the prompt ends the text, in a window that training drops since it is not full."""

    def documents(self, split):
        return ["q" * 17 + "="]


def test_few_windows_are_read_again_and_again():
    """Every epoch holds each of them once; those are the first of the stream, and no other is ever read."""
    few, rows = Loader(source=Numbered(), batch=4, length=16, threads=0, windows=8), []
    for batch in first(6, few):
        rows += [row.tobytes() for row in batch["tokens_BL"]]
    whole = LOADER.train_windows(TOKENIZER, 0)
    assert (
        sorted(rows[:8])
        == sorted(rows[8:16])
        == sorted(rows[16:])
        == sorted(whole[i]["tokens_L"].tobytes() for i in range(8))
    )
    assert rows[:8] != rows[8:16], "in another order"
    with pytest.raises(UserError, match="data.windows=999 is more than the corpus has"):
        Loader(source=Numbered(), batch=4, length=16, windows=999).train_windows(TOKENIZER, 0)
    with pytest.raises(ValueError, match="windows=-1"):
        Loader(windows=-1)
