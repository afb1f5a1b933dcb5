"""Byte-level BPE: learning is deterministic, and the fast path equals the library's.

Published files keep their ids and lose nothing.
"""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.text import bpe
from dlm.text.bpe import BPE

CORPUS = [
    "def append(self, x):\n        self.x_list.append(x)\n" * 4,
    "a word and another word, né\n" * 4,
]


def test_learning_depends_on_the_documents_alone():
    script = f"from dlm.text.bpe import BPE; print(BPE(size=320).fit({CORPUS!r}).fingerprint)"
    command = [sys.executable, "-c", script]
    expected = BPE(size=320).fit(iter(CORPUS))
    for _ in range(2):
        reply = subprocess.run(command, capture_output=True, text=True, check=True)
        assert reply.stdout.strip() == expected.fingerprint
    one = BPE(size=320).fit(CORPUS[:1])
    assert one.fingerprint != expected.fingerprint
    few = BPE(size=320, sample=50).fit(CORPUS)
    assert few.fingerprint != expected.fingerprint


def test_line_breaks_with_indentation_and_signs_with_words_are_one_token():
    tokenizer = BPE(size=400).fit(CORPUS)
    ids = tokenizer.encode("):\n        self.append")
    pieces = list(map(tokenizer.piece, ids))
    assert pieces == ["):\n        ", "self", ".append"]


def test_ascii_is_split_as_the_library_splits_it():
    tokenizer = BPE(size=320).fit(CORPUS)
    r = random.Random(1)
    signs = [chr(i) for i in range(128)]
    signs += list(" \n\t_a9.") * 10
    texts = []
    for _ in range(2000):
        drawn = [r.choice(signs) for _ in range(60)]
        texts.append("".join(drawn))
    encodings = tokenizer._encoder.encode_batch(texts)
    ids_of_texts = tokenizer.encode_all(texts)
    for encoding, ids in zip(encodings, ids_of_texts, strict=True):
        assert ids.tolist() == encoding.ids


def test_the_saved_file_serves_other_libraries(tmp_path):
    tokenizer = BPE(size=320).fit(CORPUS)
    tokenizer.save(tmp_path)
    path = tmp_path / bpe.FILE
    other = tokenizers.Tokenizer.from_file(str(path))
    ids = tokenizer.encode(CORPUS[1])
    assert other.encode(CORPUS[1]).ids == ids.tolist()
    mask = other.encode("<|mask|>")
    assert mask.ids == [tokenizer.mask]


def published(folder, **changes) -> str:
    tokenizer = BPE(size=300).fit(CORPUS)
    tree = json.loads(tokenizer.content())
    vocab = {}
    for piece in tree["model"]["vocab"]:
        if not piece.startswith("<|"):
            vocab[piece] = len(vocab)
    tree["model"]["vocab"] = vocab
    end = len(tree["model"]["vocab"])
    names_of_flags = ("single_word", "lstrip", "rstrip", "normalized")
    flags = dict.fromkeys(names_of_flags, False)
    names = {"<|endoftext|>": False, "<tool>": False, "<|other|>": True}
    tree["added_tokens"] = []
    for id, name in enumerate(names, end):
        token = dict(id=id, content=name, special=names[name])
        tree["added_tokens"].append(token | flags)
    tree |= dict(normalizer=dict(type="NFC"), **changes)
    path = folder / "published.json"
    path.write_text(json.dumps(tree))
    return str(path)


def test_a_published_tokenizer_keeps_its_ids_and_the_bytes_of_the_text(tmp_path):
    config = BPE(path=published(tmp_path))
    tokenizer = config.fit(())
    end = config.vocab.eos
    expected = Vocab(size=end + 6, eos=end, bos=end + 3, pad=end + 4, mask=end + 5)
    assert config.vocab == tokenizer.vocab == expected
    # Texts are neither normalised nor read as special tokens.
    for text in ("e\u0301 is not é", "<tool> <|endoftext|>", "né <tool> <|other|>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert (ids < end).all()
    lengths = tokenizer.bytes_V[end:]
    assert lengths.tolist() == [0, len("<tool>"), 0, 0, 0, 0]
    assert tokenizer.decode([end, end + 1]) == "<tool>"
    tokenizer.save(tmp_path)
    again = config.restore(tmp_path)
    assert again.vocab == tokenizer.vocab
    np.testing.assert_array_equal(again.bytes_V, tokenizer.bytes_V)


def test_mistakes_are_errors_of_one_line(tmp_path):
    with pytest.raises(UserError, match="no tokenizer .*absent.json"):
        BPE(path=str(tmp_path / "absent.json")).fit(())
    with pytest.raises(UserError, match="ByteLevel"):
        split = dict(type="Whitespace")
        BPE(path=published(tmp_path, pre_tokenizer=split)).fit(())
    with pytest.raises(UserError, match="at least 260"):
        build_member(dict(name="bpe", size=259), "text")
    BPE(size=300).fit(CORPUS).save(tmp_path)
    with pytest.raises(UserError, match="not a tokenizer of 301 ids"):
        BPE(size=301).restore(tmp_path)
    with pytest.raises(UserError, match="no text"):
        BPE().fit([])
