"""The bytes of every id are exact for every published kind of BPE.

No text is lost, and none spells a special token.
"""

import json

import pytest
import tokenizers

from dlm.text import bpe_bytes, pretrained
from dlm.text.bpe import BPE
from tests.text.probes import KINDS, NASTY, characters, over_bytes, write
from tests.text.test_text import carries_bytes, unicode


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """(The tree of a tokenizer, its folder)."""
    tree = KINDS[request.param]()
    return tree, write(tmp_path_factory.mktemp("published"), tree)


def test_no_text_is_changed_and_no_special_spelled(published):
    tokenizer = BPE(path=published[1]).fit(())
    texts = [*NASTY, *unicode(3, 150), " ".join(NASTY)]
    silent = {i for i, n in enumerate(tokenizer.bytes_V) if n == 0}
    for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
        size = len(text.encode())
        assert tokenizer.decode(ids) == text
        assert tokenizer.bytes_V[ids].sum() == size
        assert not silent & set(ids.tolist())
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_any_bytes_are_carried(published):
    carries_bytes(BPE(path=published[1]).fit(()))


def test_the_unknown_piece_stands_for_nothing(tmp_path):
    """Its name is text and its id has no bytes, even if the file does not list it as added."""
    tree = characters("first")
    tree["added_tokens"] = [
        token for token in tree["added_tokens"] if token["content"] != "<unk>"
    ]
    tokenizer, unknown = (
        BPE(path=write(tmp_path, tree)).fit(()),
        tree["model"]["vocab"]["<unk>"],
    )
    assert tokenizer.decode([unknown]) == "" == tokenizer.piece(unknown)
    assert tokenizer.bytes_V[unknown] == 0
    assert tokenizer.bytes_of([unknown]) == b""
    assert unknown not in tokenizer.encode("a <unk>")


def test_marked_ids_are_the_library_s(published):
    tree, folder = published
    tokenizer = BPE(path=folder).fit(())
    library = tokenizers.Tokenizer.from_str(json.dumps(tree))
    for text in NASTY:
        expected = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode_marked(text).tolist() == expected, text
    assert tokenizer.encode_marked("</s>").tolist()[-1] == tokenizer.eos
    assert tokenizer.encode("</s>")[-1] != tokenizer.eos


def test_the_bytes_of_each_kind_of_piece():
    def spell(tree):
        return bpe_bytes.piece_bytes(
            tree
            | dict(
                model=dict(
                    vocab=dict.fromkeys(["▁the", "Ġthe", "<0xE2>", "<0xe2>", "é"])
                )
            )
        )

    tree = characters("first")
    first = {
        "▁the": b" the",
        "Ġthe": "Ġthe".encode(),
        "<0xE2>": b"\xe2",
        "<0xe2>": b"<0xe2>",
        "é": "é".encode(),
    }
    assert spell(tree) == spell(characters("normalizer")) == first
    plain = "where nothing writes it for a space it is a sign as any other"
    assert spell(tree | dict(pre_tokenizer=None)) == first | {
        "▁the": "▁the".encode()
    }, plain
    assert spell(over_bytes()) == {
        "▁the": "▁the".encode(),
        "Ġthe": b" the",
        "<0xE2>": b"<0xE2>",
        "<0xe2>": b"<0xe2>",
        "é": b"\xe9",
    }


def test_what_is_reached_by_merges_stands_for_what_they_merge(tmp_path):
    """A file whose merges spell a special, or the name of a byte."""
    tree = characters("normalizer")
    for a, b in [
        ("</", "s>"),
        ("<", "/"),
        ("s", ">"),
        ("<0x4", "1>"),
        ("<0x", "4"),
        ("<0", "x"),
        ("<", "0"),
        ("1", ">"),
    ]:
        vocab = tree["model"]["vocab"]
        for piece in (a, b, a + b):
            vocab.setdefault(piece, 1000 + len(vocab))
        tree["model"]["merges"].insert(0, [a, b])
    write(tmp_path, tree)
    tokenizer = BPE(path=str(tmp_path)).fit(())
    for text in ("</s>", "<0x41>", "x</s> <0x41>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode_marked("<0x41>")[1:]) == "A", (
        "as published it is the byte"
    )
    assert not pretrained.read(tmp_path).names
