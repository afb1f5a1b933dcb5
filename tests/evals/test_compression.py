"""Compression: bits per byte of the text and of its documents' ends, against the formulas."""

import gzip
import lzma
import types
from math import log2

import pytest

from dlm.core.errors import UserError
from dlm.evals.compression import Compression
from dlm.text.bytes import Bytes


def scores(*documents):
    results = list(
        Compression().run(types.SimpleNamespace(held_out_documents=documents), 0)
    )
    assert all(se == 0 for _, _, se in results)
    return {name: value for name, value, _ in results}


def test_known_texts():
    abcd = scores("abcd" * 4, "dcba" * 4)
    assert abcd["order0_bits_per_byte"] == pytest.approx(
        (32 * log2(34 / 8) + 2 * log2(34 / 2)) / 32
    )
    assert abcd["held_out_bytes"] == 32
    assert scores("aaab")["order0_bits_per_byte"] == pytest.approx(
        (3 * log2(5 / 3) + 2 * log2(5)) / 4
    )
    assert scores("é")["held_out_bytes"] == 2


def test_compressors_see_the_documents_in_order_and_pay_for_their_ends():
    text = "".join(chr(33 + i * i % 90) for i in range(3000))
    halves, whole = scores(text[:1500], text[1500:]), scores(text)
    ended = text[:1500].encode() + b"\xff" + text[1500:].encode() + b"\xff"
    assert (
        halves["gzip_bits_per_byte"] == 8 * len(gzip.compress(ended, 9, mtime=0)) / 3000
    )
    assert (
        halves["xz_bits_per_byte"]
        == 8 * len(lzma.compress(ended, preset=9)) / 3000
        > whole["xz_bits_per_byte"]
    )
    assert (
        0
        < whole["xz_bits_per_byte"]
        < whole["order0_bits_per_byte"]
        < halves["order0_bits_per_byte"]
    )


def test_half_of_a_pair_of_surrogates_is_read_as_tokenizers_read_it():
    text = "a\ud800b"
    assert scores(text) == scores("a?b")
    assert Bytes().fit(()).encode(text).tolist() == [*b"a?b"]


def test_no_held_out_text_is_an_error():
    with pytest.raises(UserError, match="no held-out text"):
        scores()
