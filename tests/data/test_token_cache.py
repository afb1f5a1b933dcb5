"""The token cache: same tokens with and without it, keyed by tokenizer and documents, never half-written."""

import pathlib

import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.data import packing, token_cache
from dlm.text.bpe import BPE
from dlm.text.bytes import Bytes

DOCUMENTS = ["abc", "d", "é" * 10]


@pytest.fixture
def counted(monkeypatch):
    """The byte tokenizer, counting how often it encodes."""
    tokenizer, calls = Bytes().fit(()), []
    encode_all = tokenizer.encode_all
    monkeypatch.setattr(
        tokenizer, "encode_all", lambda texts: calls.append(texts) or encode_all(texts)
    )
    return tokenizer, calls


def test_tokens_are_computed_once(counted, tmp_path, monkeypatch):
    tokenizer, calls = counted
    monkeypatch.setattr(token_cache, "_CHUNK", 4)  # several chunks
    first = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path / "new")
    assert len(calls) == 2 and calls[0] == ["abc", "d"]
    second = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path / "new")
    assert len(calls) == 2 and isinstance(second.flat, np.memmap)
    for made in (first, second):
        pieces = [
            tokenizer.decode(made.flat[a:b])
            for a, b in zip(made.offsets, made.offsets[1:], strict=False)
        ]
        assert pieces == DOCUMENTS and made.flat.dtype == np.uint16
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".npy", ".npy"]


def test_the_key_covers_documents_borders_and_tokenizer(tmp_path):
    byte = Bytes().fit(())
    cases = [
        (byte, ["ab", "c"]),
        (byte, ["a", "bc"]),
        (byte, ["c", "ab"]),
        (BPE(size=270).fit(["abab"]), ["ab", "c"]),
    ]
    assert len({token_cache.fingerprint(*case) for case in cases}) == len(cases)


def test_broken_files_and_folders_that_cannot_be_written(counted, tmp_path):
    tokenizer, calls = counted
    token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    again = token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    (tmp_path / "file").write_text("")
    in_memory = token_cache.tokenized(
        tokenizer, DOCUMENTS, tmp_path / "file/below"
    )  # a file is no folder
    assert len(calls) == 3
    np.testing.assert_array_equal(again.flat, in_memory.flat)
    np.testing.assert_array_equal(again.offsets, in_memory.offsets)


class Trap:
    """What runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_files_that_were_meddled_with_run_nothing_and_reach_no_model(counted, tmp_path):
    tokenizer, calls = counted
    token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path)
    (flat,), (offsets,) = tmp_path.glob("*.tokens.npy"), tmp_path.glob("*.offsets.npy")
    for file in (flat, offsets):
        np.save(file, np.array([Trap(tmp_path / "sprung")], object), allow_pickle=True)
        assert token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path).offsets.tolist() == [
            0,
            3,
            4,
            24,
        ]
    np.save(offsets, np.array([0, 9, 4, 24]))  # a document that ends before it begins
    assert token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path).offsets.tolist() == [0, 3, 4, 24]
    assert len(calls) == 4 and not (tmp_path / "sprung").exists()
    np.save(flat, np.full(24, 300, np.uint16))
    windows = packing.Windows(
        token_cache.tokenized(tokenizer, DOCUMENTS, tmp_path), 8, tokenizer.eos, tokenizer.pad
    )
    with pytest.raises(
        UserError,
        match=f"{flat.name} is damaged: it holds id 300, and the vocabulary {tokenizer.size} ids; delete it",
    ):
        windows.rows(np.arange(2))


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_CACHE", str(tmp_path / "there"))
    token_cache.tokenized(Bytes().fit(()), DOCUMENTS)
    assert len(list((tmp_path / "there").iterdir())) == 2


def test_without_a_home_the_arrays_stay_in_memory(monkeypatch):
    """As in a container that runs as a user without an entry."""
    monkeypatch.delenv("DLM_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert token_cache.folder() is None
    monkeypatch.setenv("DLM_CACHE", "~/here")
    assert token_cache.folder() is None
    monkeypatch.delenv("DLM_CACHE")
    assert token_cache.tokenized(Bytes().fit(()), DOCUMENTS).offsets.tolist() == [0, 3, 4, 24]
    monkeypatch.setenv("HOME", "/of/mine")
    assert str(token_cache.folder()) == "/of/mine/.cache/dlm/tokens"
    monkeypatch.setenv("DLM_CACHE", "~/here")
    assert str(token_cache.folder()) == "/of/mine/here"
