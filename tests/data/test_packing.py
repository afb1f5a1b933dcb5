"""Packing against the definition: concatenate, cut, number the pieces."""

import numpy as np
import pytest

from dlm.data.packing import Chosen, Windows
from dlm.data.token_cache import Tokens

EOS, PAD = 90, 91


def corpus(lengths) -> tuple[Tokens, list[list[int]]]:
    documents = [[d * 10 + i % 10 for i in range(n)] for d, n in enumerate(lengths)]
    flat = np.array([t for d in documents for t in d], np.uint16)
    return Tokens(flat, np.cumsum([0, *lengths])), documents


def reference(documents, length) -> list[dict]:
    """Token by token."""
    stream = [(t, d, i) for d, ids in enumerate(documents) for i, t in enumerate([*ids, EOS])]
    windows = []
    for begin in range(0, len(stream), length):
        window = dict(tokens_L=[], segments_L=[], positions_L=[], weights_L=[], noisable_L=[])
        pieces = []
        for token, document, _ in stream[begin : begin + length]:
            position = window["positions_L"][-1] + 1 if pieces and pieces[-1] == document else 0
            if not position:
                pieces.append(document)
            for name, value in zip(window, (token, len(pieces), position, 1.0, True), strict=True):
                window[name].append(value)
        for name, value in zip(window, (PAD, 0, 0, 0.0, False), strict=True):
            window[name] += [value] * (length - len(window[name]))
        windows.append(window)
    return windows


@pytest.mark.parametrize(
    "lengths, length",
    [([4, 2, 6, 2], 6), ([1, 0, 3, 17, 1], 4), ([5], 3), ([3, 3], 8), ([1, 1, 1], 100)],
)
def test_held_out_windows_are_the_stream_cut_and_padded(lengths, length):
    tokens, documents = corpus(lengths)
    windows = Windows(tokens, length, EOS, PAD)
    expected = reference(documents, length)
    assert len(windows) == len(expected)
    for i, window in enumerate(expected):
        assert {name: array.tolist() for name, array in windows[i].items()} == window
    assert {n: a.dtype for n, a in windows[0].items()} == dict(
        tokens_L=np.int32,
        segments_L=np.int32,
        positions_L=np.int32,
        weights_L=np.float32,
        noisable_L=bool,
    )


def test_training_windows_permute_documents_by_the_seed_and_drop_the_remainder():
    tokens, documents = corpus([3, 5, 2, 7, 4, 1])
    orders = []
    for seed in (0, 0, 1):
        windows = Windows(tokens, 4, EOS, PAD, order_seed=seed)
        stream = np.concatenate([windows[i]["tokens_L"] for i in range(len(windows))]).tolist()
        assert len(stream) == (22 + 6) // 4 * 4 and PAD not in stream
        cut = [
            list(map(int, part.split())) for part in " ".join(map(str, stream)).split(str(EOS))[:-1]
        ]
        assert all(part in documents for part in cut)
        orders.append(stream)
    assert orders[0] == orders[1] != orders[2]
    whole = Windows(tokens, 5, EOS, PAD, order_seed=0)  # 28 = 5·5 + 3
    assert len(whole) == 5 and not whole.rows(np.array([5]))["weights_BL"].any()


def test_a_prompt_is_read_and_neither_noised_nor_in_the_loss():
    """Up to the first token that ends prompts, that one included; a document without one is asked for whole."""
    documents = [[1, 2, 7, 3, 7], [5, 6], [7], [8, 9, 8, 7]]
    tokens = Tokens(np.array(sum(documents, []), np.uint16), np.cumsum([0, *map(len, documents)]))
    asked = [[0, 0, 0, 1, 1, 1], [1, 1, 1], [0, 1], [0, 0, 0, 0, 1]]  # an eos ends each
    rows, plain = (Windows(tokens, 5, EOS, PAD, prompt=end).rows(np.arange(4)) for end in (7, None))
    asked_BL = np.reshape(sum(asked, []) + [0] * 4, (4, 5))
    assert (rows["noisable_BL"] == asked_BL).all() and (rows["weights_BL"] == asked_BL).all()
    assert all(
        (rows[name] == plain[name]).all() for name in ("tokens_BL", "segments_BL", "positions_BL")
    )
    for seed in range(4):
        shuffled = Windows(tokens, 16, EOS, PAD, order_seed=seed, prompt=7)[0]
        cut = np.split(shuffled["noisable_L"], np.flatnonzero(shuffled["tokens_L"] == EOS)[:-1] + 1)
        assert sorted(map(len, cut)) == [2, 3, 5, 6] and all(
            part.astype(int).tolist() in asked for part in cut
        )


def test_windows_in_which_nothing_counts_are_known_by_number():
    """Prompts of any length, longer than windows too, against the weights that are read."""
    rng, empty = np.random.default_rng(0), 0
    for seed in (None, 0, 1):
        for length in (1, 2, 3, 5):
            documents = [
                [*rng.integers(0, 6, n).tolist(), *end]
                for n, end in zip(rng.integers(0, 12, 9), [[7], [7, 1, 7], []] * 3, strict=True)
            ]
            tokens = Tokens(
                np.array(sum(documents, []), np.uint16), np.cumsum([0, *map(len, documents)])
            )
            windows = Windows(tokens, length, EOS, PAD, order_seed=seed, prompt=7)
            counted_B = windows.rows(np.arange(len(windows)))["weights_BL"].any(1)
            assert windows.counting().tolist() == np.flatnonzero(
                counted_B
            ).tolist() and windows.prompts == (
                6 / 9,
                pytest.approx(1 - counted_B.mean()),
            )
            empty += (~counted_B).sum()
    assert empty > 50
    plain = Windows(tokens, 4, EOS, PAD)
    assert plain.counting().tolist() == list(range(len(plain))) and plain.prompts == (0, 0)


def test_access_by_number():
    tokens, _ = corpus([4, 2, 6, 2])
    windows = Windows(tokens, 5, EOS, PAD)
    with pytest.raises(IndexError):
        windows[len(windows)]
    rows = windows.rows(np.array([2, 0, len(windows)]))
    np.testing.assert_array_equal(rows["tokens_BL"][0], windows[2]["tokens_L"])
    np.testing.assert_array_equal(rows["tokens_BL"][1], windows[0]["tokens_L"])
    assert (
        (rows["tokens_BL"][2] == PAD).all()
        and not rows["segments_BL"][2].any()
        and not rows["noisable_BL"][2].any()
    )
    chosen = Chosen(windows, np.array([3, 1]))
    np.testing.assert_array_equal(
        chosen.rows(np.array([1, 2]))["tokens_BL"], [windows[1]["tokens_L"], [PAD] * 5]
    )
    np.testing.assert_array_equal(chosen[0]["tokens_L"], windows[3]["tokens_L"])
