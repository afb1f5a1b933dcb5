"""The bytes of every id are exact, whatever kind of BPE was published: no text is lost, and none spells a special."""

import json

import pytest
import tokenizers

from dlm.text import bpe_bytes, pretrained
from dlm.text.bpe import BPE
from tests.text.probes import KINDS, NASTY, characters, over_bytes, write
from tests.text.test_text import carries_bytes, unicode


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    return KINDS[request.param](), write(
        tmp_path_factory.mktemp("published"), KINDS[request.param]()
    )


def test_no_text_is_changed_and_no_special_spelled(made):
    tokenizer = BPE(path=made[1]).fit(())
    texts = [*NASTY, *unicode(3, 150), " ".join(NASTY)]
    silent = {i for i, n in enumerate(tokenizer.bytes_V) if n == 0}
    for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
        assert tokenizer.decode(ids) == text and tokenizer.bytes_V[ids].sum() == len(text.encode())
        assert not silent & set(ids.tolist())
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_any_bytes_are_carried(made):
    carries_bytes(BPE(path=made[1]).fit(()))


def test_the_unknown_piece_stands_for_nothing(tmp_path):
    """Also where the file does not list it as an added token: its name is text, the id itself says nothing."""
    tree = characters("first")
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] != "<unk>"]
    tokenizer, unknown = BPE(path=write(tmp_path, tree)).fit(()), tree["model"]["vocab"]["<unk>"]
    assert (
        tokenizer.decode([unknown]) == "" == tokenizer.piece(unknown)
        and tokenizer.bytes_V[unknown] == 0
    )
    assert tokenizer.bytes_of([unknown]) == b"" and unknown not in tokenizer.encode("a <unk>")


def test_marked_ids_are_the_library_s(made):
    tokenizer, library = (
        BPE(path=made[1]).fit(()),
        tokenizers.Tokenizer.from_str(json.dumps(made[0])),
    )
    for text in NASTY:
        assert (
            tokenizer.encode_marked(text).tolist()
            == library.encode(text, add_special_tokens=False).ids
        ), text
    assert (
        tokenizer.encode_marked("</s>").tolist()[-1]
        == tokenizer.eos
        != tokenizer.encode("</s>")[-1]
    )


def test_the_bytes_of_each_kind_of_piece():
    def spell(tree):
        return bpe_bytes.piece_bytes(
            tree | dict(model=dict(vocab=dict.fromkeys(["▁the", "Ġthe", "<0xE2>", "<0xe2>", "é"])))
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
    assert spell(tree | dict(pre_tokenizer=None)) == first | {"▁the": "▁the".encode()}, plain
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
