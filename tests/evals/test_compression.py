"""Compression: bits per byte of the bytes alone, against what the formulas say."""

import gzip
import types

import pytest

from dlm.evals.compression import Compression
from dlm.run.spec import UserError


def scores(*documents):
    found = list(Compression().run(types.SimpleNamespace(held_out_documents=documents), 0))
    assert all(se == 0 for _, _, se in found)
    return {name: value for name, value, _ in found}


def test_known_texts():
    abcd = scores("abcd" * 4, "dcba" * 4)
    assert abcd["order0_bits_per_byte"] == 2.0 and abcd["held_out_bytes"] == 32
    assert scores("aaab")["order0_bits_per_byte"] == pytest.approx(0.25 * 2 + 0.75 * 0.4150375)
    assert scores("é")["held_out_bytes"] == 2


def test_compressors_see_the_documents_joined_in_order():
    text = "".join(chr(33 + i * i % 90) for i in range(3000))
    halves, whole = scores(text[:1500], text[1500:]), scores(text)
    assert halves == whole and whole["gzip_bits_per_byte"] == 8 * len(gzip.compress(text.encode(), 9, mtime=0)) / 3000
    assert 0 < whole["xz_bits_per_byte"] < whole["order0_bits_per_byte"]


def test_nothing_held_out_is_told():
    with pytest.raises(UserError, match="no held-out text"):
        scores()
