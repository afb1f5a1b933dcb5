"""Packing against the definition: concatenate, cut, number the pieces."""

import itertools

import numpy as np
import pytest

from dlm.data.packing import Chosen, Windows
from dlm.data.token_cache import Tokens

EOS, PAD = 90, 91


NAMES = ("tokens_L", "segments_L", "positions_L", "weights_L", "noisable_L")
PADDING = (PAD, 0, 0, 0.0, False)
ENDS = [[7], [7, 1, 7], []]  # of documents; 7 ends a prompt
ROWS = ("tokens_BL", "segments_BL", "positions_BL")


def digits(text: str) -> list[list[int]]:
    """Documents of one-digit ids, separated by spaces."""
    return [list(map(int, word)) for word in text.split()]


def tokens_of(documents) -> Tokens:
    flat = sum(documents, [])
    offsets = [0]
    for ids in documents:
        offsets.append(offsets[-1] + len(ids))
    return Tokens(np.array(flat, np.uint16), np.array(offsets))


def corpus(lengths: str) -> tuple[Tokens, list[list[int]]]:
    """Documents of these lengths; the ids of each are in a decade of their own."""
    documents = []
    for d, length in enumerate(lengths.split()):
        positions = range(int(length))
        documents.append([d * 10 + i % 10 for i in positions])
    return tokens_of(documents), documents


def cut(tokens, length, **options) -> Windows:
    return Windows(tokens, length, EOS, PAD, **options)


def reference(documents, length) -> list[dict]:
    """Token by token."""
    stream = []
    for d, ids in enumerate(documents):
        stream += [(token, d) for token in ids]
        stream.append((EOS, d))
    windows = []
    for begin in range(0, len(stream), length):
        columns = []
        segment = position = 0
        last = None
        for token, document in stream[begin : begin + length]:
            position += 1
            if document != last:
                segment += 1
                position = 0
                last = document
            columns.append((token, segment, position, 1.0, True))
        while len(columns) < length:
            columns.append(PADDING)
        rows = zip(*columns, strict=True)
        window = zip(NAMES, map(list, rows), strict=True)
        windows.append(dict(window))
    return windows


def everything(windows) -> dict:
    return windows.rows(np.arange(len(windows)))


@pytest.mark.parametrize(
    "lengths, length",
    [
        ("4 2 6 2", 6),
        ("1 0 3 17 1", 4),
        ("5", 3),
        ("3 3", 8),
        ("1 1 1", 100),
    ],
)
def test_held_out_windows_are_the_stream_cut_and_padded(lengths, length):
    tokens, documents = corpus(lengths)
    windows = cut(tokens, length)
    expected = reference(documents, length)
    assert len(windows) == len(expected)
    for i, window in enumerate(expected):
        arrays = windows[i]
        assert {name: arrays[name].tolist() for name in arrays} == window
    arrays = windows[0]
    assert {name: arrays[name].dtype for name in arrays} == dict(
        tokens_L=np.int32,
        segments_L=np.int32,
        positions_L=np.int32,
        weights_L=np.float32,
        noisable_L=bool,
    )


def test_training_windows_permute_documents_by_the_seed_and_drop_the_remainder():
    tokens, documents = corpus("3 5 2 7 4 1")
    orders = []
    for seed in (0, 0, 1):
        windows = cut(tokens, 4, order_seed=seed)
        stream_N = everything(windows)["tokens_BL"].ravel()
        stream = stream_N.tolist()
        assert PAD not in stream
        assert len(stream) == 22 + 6
        ends = np.flatnonzero(stream_N == EOS)
        # The last part is empty or a document without its end.
        *parts, _ = np.split(stream_N, ends + 1)
        for part in parts:
            assert part[:-1].tolist() in documents
        orders.append(stream)
    assert orders[0] == orders[1] != orders[2]
    whole = cut(tokens, 5, order_seed=0)  # 28 = 5·5 + 3
    assert len(whole) == 5
    beyond = whole.rows(np.array([5]))
    assert not beyond["weights_BL"].any()


def test_a_prompt_is_read_and_neither_noised_nor_in_the_loss():
    """A prompt includes the token that ends it; without one, all of a document counts."""
    tokens = tokens_of(digits("12737 56 7 8987"))
    # An eos ends each document.
    counting = digits("000111 111 01 00001")
    rows = everything(cut(tokens, 5, prompt=7))
    plain = everything(cut(tokens, 5))
    padded = sum(counting, []) + [0] * 4
    counting_BL = np.reshape(padded, (4, 5))
    assert (rows["noisable_BL"] == counting_BL).all()
    assert (rows["weights_BL"] == counting_BL).all()
    for name in ROWS:
        assert (rows[name] == plain[name]).all()
    for seed in range(4):
        shuffled = cut(tokens, 16, order_seed=seed, prompt=7)[0]
        ends = np.flatnonzero(shuffled["tokens_L"] == EOS)
        parts = np.split(shuffled["noisable_L"], ends[:-1] + 1)
        assert sorted(map(len, parts)) == [2, 3, 5, 6]
        for part in parts:
            numbers = part.astype(int)
            assert numbers.tolist() in counting


def test_windows_in_which_nothing_counts_are_known_by_number():
    """Prompts of any length, longer than windows too, against the weights that are read."""
    rng = np.random.default_rng(0)
    empty = 0
    lengths = (1, 2, 3, 5)
    for seed, length in itertools.product((None, 0, 1), lengths):
        documents = []
        for i, size in enumerate(rng.integers(0, 12, 9)):
            end = ENDS[i % 3]
            start = rng.integers(0, 6, size)
            documents.append(start.tolist() + end)
        tokens = tokens_of(documents)
        windows = cut(tokens, length, order_seed=seed, prompt=7)
        counted_B = everything(windows)["weights_BL"].any(1)
        numbers = np.flatnonzero(counted_B)
        assert windows.counting().tolist() == numbers.tolist()
        with_prompt, blank = windows.prompts
        assert with_prompt == 6 / 9
        assert blank == pytest.approx(1 - counted_B.mean())
        empty += (~counted_B).sum()
    assert empty > 50
    plain = cut(tokens, 4)
    assert len(plain.counting()) == len(plain)
    assert plain.prompts == (0, 0)


def test_access_by_number():
    tokens, _ = corpus("4 2 6 2")
    windows = cut(tokens, 5)
    with pytest.raises(IndexError):
        windows[len(windows)]
    rows = windows.rows(np.array([2, 0, len(windows)]))
    tokens_BL = rows["tokens_BL"]
    in_order = everything(windows)["tokens_BL"]
    equal = np.testing.assert_array_equal
    equal(tokens_BL[0], in_order[2])
    equal(tokens_BL[1], in_order[0])
    equal(windows[2]["tokens_L"], in_order[2])
    assert (tokens_BL[2] == PAD).all()
    assert not rows["segments_BL"][2].any()
    assert not rows["noisable_BL"][2].any()
    chosen = Chosen(windows, np.array([3, 1]))
    tokens_BL = chosen.rows(np.array([1, 2]))["tokens_BL"]
    equal(tokens_BL[0], in_order[1])
    equal(tokens_BL[1], PAD)
    equal(chosen[0]["tokens_L"], in_order[3])
