"""The token cache: same tokens with and without it, a key for tokenizer and documents.

Damaged and half-written files are noticed.
"""

import itertools
import pathlib

import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.data import packing, token_cache
from dlm.text.bpe import BPE
from dlm.text.bytes import Bytes

DOCUMENTS = ["abc", "d", "é" * 10]
OFFSETS = [0, 3, 4, 24]  # in bytes


@pytest.fixture
def counted(monkeypatch):
    """The byte tokenizer, counting how often it encodes."""
    tokenizer, calls = Bytes().fit(()), []
    encode_all = tokenizer.encode_all

    def counting(texts):
        calls.append(texts)
        return encode_all(texts)

    monkeypatch.setattr(tokenizer, "encode_all", counting)
    return tokenizer, calls


def test_tokens_are_computed_once(counted, tmp_path, monkeypatch):
    tokenizer, calls = counted
    monkeypatch.setattr(token_cache, "_CHUNK", 4)  # several chunks
    first = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path / "new")
    assert len(calls) == 2
    assert calls[0] == ["abc", "d"]
    second = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path / "new")
    assert len(calls) == 2
    assert isinstance(second.flat, np.memmap)
    for tokens in (first, second):
        texts = []
        for begin, end in itertools.pairwise(tokens.offsets):
            ids = tokens.flat[begin:end]
            texts.append(tokenizer.decode(ids))
        assert texts == DOCUMENTS
        assert tokens.flat.dtype == np.uint16
    files = (tmp_path / "new").iterdir()
    assert [file.suffix for file in files] == [".npy", ".npy"]


def test_the_key_covers_documents_borders_and_tokenizer(tmp_path):
    byte = Bytes().fit(())
    cases = [
        (byte, ["ab", "c"]),
        (byte, ["a", "bc"]),
        (byte, ["c", "ab"]),
        (BPE(size=270).fit(["abab"]), ["ab", "c"]),
    ]
    keys = {token_cache.fingerprint(*case) for case in cases}
    assert len(keys) == len(cases)


def test_broken_files_and_folders_that_cannot_be_written(counted, tmp_path):
    tokenizer, calls = counted
    token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    again = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    (tmp_path / "file").write_text("")
    # A file is no folder, so nothing can be written there.
    in_memory = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path / "file/below")
    assert len(calls) == 3
    np.testing.assert_array_equal(again.flat, in_memory.flat)
    np.testing.assert_array_equal(again.offsets, in_memory.offsets)


class Trap:
    """An object that runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_files_that_were_meddled_with_run_nothing_and_reach_no_model(counted, tmp_path):
    tokenizer, calls = counted
    token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    (flat,) = tmp_path.glob("*.tokens.npy")
    (offsets,) = tmp_path.glob("*.offsets.npy")
    for file in (flat, offsets):
        trap = Trap(tmp_path / "sprung")
        np.save(file, np.array([trap], object), allow_pickle=True)
        tokens = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
        assert tokens.offsets.tolist() == OFFSETS
    np.save(offsets, np.array([0, 9, 4, 24]))  # a document that ends before it begins
    tokens = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    assert tokens.offsets.tolist() == OFFSETS
    assert len(calls) == 4
    assert not (tmp_path / "sprung").exists()
    np.save(flat, np.full(24, 300, np.uint16))
    tokens = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    windows = packing.Windows(tokens, 8, tokenizer.eos, tokenizer.pad)
    line = f"damaged: it contains id 300, and the vocabulary has {tokenizer.size} ids; delete it"
    with pytest.raises(UserError, match=f"{flat.name} is {line}"):
        windows.rows(np.arange(2))


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_CACHE", str(tmp_path / "there"))
    token_cache.tokenized(Bytes().fit(()), DOCUMENTS)
    files = (tmp_path / "there").iterdir()
    assert len(list(files)) == 2


def test_without_a_home_the_arrays_stay_in_memory(monkeypatch):
    """As in a container that runs as a user without an entry."""
    monkeypatch.delenv("DLM_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert token_cache.folder() is None
    monkeypatch.setenv("DLM_CACHE", "~/here")
    assert token_cache.folder() is None
    monkeypatch.delenv("DLM_CACHE")
    tokens = token_cache.tokenized(Bytes().fit(()), DOCUMENTS)
    assert tokens.offsets.tolist() == OFFSETS
    monkeypatch.setenv("HOME", "/of/mine")
    assert str(token_cache.folder()) == "/of/mine/.cache/dlm/tokens"
    monkeypatch.setenv("DLM_CACHE", "~/here")
    assert str(token_cache.folder()) == "/of/mine/here"
