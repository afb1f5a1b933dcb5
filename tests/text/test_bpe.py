"""Byte-level BPE: learning is deterministic, the fast path equals the library's, published files keep their ids and lose nothing."""

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
    runs = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    }
    assert runs == {BPE(size=320).fit(iter(CORPUS)).fingerprint}
    assert runs != {BPE(size=320).fit(CORPUS[:1]).fingerprint}
    assert BPE(size=320, sample=50).fit(CORPUS).fingerprint not in runs


def test_line_breaks_with_indentation_and_signs_with_words_are_one_token():
    tokenizer = BPE(size=400).fit(CORPUS)
    assert [tokenizer.piece(i) for i in tokenizer.encode("):\n        self.append")] == [
        "):\n        ",
        "self",
        ".append",
    ]


def test_ascii_is_split_as_the_library_splits_it():
    tokenizer, r = BPE(size=320).fit(CORPUS), random.Random(1)
    signs = [chr(i) for i in range(128)] + list(" \n\t_a9.") * 10
    texts = ["".join(r.choice(signs) for _ in range(60)) for _ in range(2000)]
    library = [e.ids for e in tokenizer._encoder.encode_batch(texts)]
    assert [ids.tolist() for ids in tokenizer.encode_all(texts)] == library


def test_the_saved_file_serves_other_libraries(tmp_path):
    tokenizer = BPE(size=320).fit(CORPUS)
    tokenizer.save(tmp_path)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / bpe.FILE))
    assert other.encode(CORPUS[1]).ids == tokenizer.encode(CORPUS[1]).tolist()
    assert other.encode("<|mask|>").ids == [tokenizer.mask]


def published(folder, **changes) -> str:
    tree = json.loads(BPE(size=300).fit(CORPUS).content())
    tree["model"]["vocab"] = {
        piece: i
        for i, piece in enumerate(k for k in tree["model"]["vocab"] if not k.startswith("<|"))
    }
    end = len(tree["model"]["vocab"])
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    names = {"<|endoftext|>": False, "<tool>": False, "<|other|>": True}
    tree["added_tokens"] = [
        dict(id=end + i, content=name, special=special, **flags)
        for i, (name, special) in enumerate(names.items())
    ]
    tree |= dict(normalizer=dict(type="NFC"), **changes)
    path = folder / "published.json"
    path.write_text(json.dumps(tree))
    return str(path)


def test_a_published_tokenizer_keeps_its_ids_and_the_bytes_of_the_text(tmp_path):
    config = BPE(path=published(tmp_path))
    tokenizer, end = config.fit(()), config.vocab.eos
    assert (
        config.vocab
        == tokenizer.vocab
        == Vocab(size=end + 6, eos=end, bos=end + 3, pad=end + 4, mask=end + 5)
    )
    for text in (
        "e\u0301 is not é",
        "<tool> <|endoftext|>",
        "né <tool> <|other|>",
    ):  # neither normalised nor read as a special
        assert (
            tokenizer.decode(tokenizer.encode(text)) == text
            and (tokenizer.encode(text) < end).all()
        )
    assert (
        tokenizer.bytes_V[end:].tolist() == [0, len("<tool>"), 0, 0, 0, 0]
        and tokenizer.decode([end, end + 1]) == "<tool>"
    )
    tokenizer.save(tmp_path)
    again = config.restore(tmp_path)
    assert again.vocab == tokenizer.vocab
    np.testing.assert_array_equal(again.bytes_V, tokenizer.bytes_V)


def test_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no tokenizer .*absent.json"):
        BPE(path=str(tmp_path / "absent.json")).fit(())
    with pytest.raises(UserError, match="ByteLevel"):
        BPE(path=published(tmp_path, pre_tokenizer=dict(type="Whitespace"))).fit(())
    with pytest.raises(UserError, match="at least 260"):
        build_member(dict(name="bpe", size=259), "text")
    BPE(size=300).fit(CORPUS).save(tmp_path)
    with pytest.raises(UserError, match="not a tokenizer of 301 ids"):
        BPE(size=301).restore(tmp_path)
    with pytest.raises(UserError, match="no text"):
        BPE().fit([])
