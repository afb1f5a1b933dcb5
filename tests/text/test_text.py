"""Every tokenizer: exact round trips, exact bytes, special tokens that no text can spell."""

import random

import numpy as np
import pytest

from dlm.core.vocab import Vocab
from dlm.data.embedded import Embedded
from dlm.text import base
from dlm.text.bpe import BPE, Published
from dlm.text.bytes import Bytes
from dlm.text.quoted import Quoted
from tests.text.probes import KINDS, write

CORPUS = [
    "def f(x_1):\n    return x_1 + 42  # né\r\n" * 3,
    "the cat sat on the mat; the cat sat.\n" * 5,
]
CONFIGS = [Bytes(), BPE(size=300), BPE(size=5000)]  # the last leaves ids unused
ODD = [
    "",
    "a\r\nb\r",
    "\0\x1b\x85\x1c\u2028",
    "🎉é\u0301 \u200d",
    "  \n\n\t x  ",
    "<|eos|><|mask|> <|pad|>",
    "x_1._y  =12345",
]


@pytest.fixture(params=CONFIGS, ids=str)
def tokenizer(request):
    return request.param.fit(CORPUS)


def unicode(seed: int, n: int) -> list[str]:
    r = random.Random(seed)
    signs = [
        *range(128),
        *[r.randrange(0x80, 0xD800) for _ in range(200)],
        *[r.randrange(0xE000, 0x110000) for _ in range(100)],
    ]
    return [
        "".join(chr(r.choice(signs)) for _ in range(r.randrange(80))) for _ in range(n)
    ]


def test_round_trip_and_exact_bytes(tokenizer):
    texts = [*ODD, *unicode(0, 200), *Embedded(parts=("prose",)).documents("train")[:5]]
    for string, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
        assert tokenizer.decode(ids) == string
        assert tokenizer.bytes_V[ids].sum() == len(string.encode())
        assert ids.dtype == np.int32 and (ids < tokenizer.eos).all()


def broken(seed: int) -> list[bytes]:
    """Bytes, many of them no UTF-8.

    Random ones, cut characters, surrogates, overlong forms, text with a stray byte.
    """
    r = random.Random(seed)
    cut = [
        sign.encode()[a:b]
        for sign in ("é", "中", "🎉")
        for a in range(3)
        for b in range(a, 5)
    ]
    known = [
        b"",
        bytes(range(256)),
        b"\xed\xa0\x80",
        b"\xc0\xafa",
        b"\xf8\x88\x80\x80\x80",
        "a é".encode() + b"\xe2\x96 the <|eos|>\xff",
    ]
    return [*known, *cut, *[r.randbytes(r.randrange(60)) for _ in range(100)]]


def carries_bytes(tokenizer):
    """Any bytes are encoded exactly, and their number is the sum of the ids'."""
    for content in broken(5):
        ids = tokenizer.encode_bytes(content)
        assert tokenizer.bytes_of(ids) == content
        assert tokenizer.bytes_V[ids].sum() == len(content)
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == content.decode("utf-8", "replace")
    for string in ODD:
        np.testing.assert_array_equal(
            tokenizer.encode_bytes(string.encode()), tokenizer.encode(string)
        )
    assert tokenizer.bytes_of(
        [tokenizer.mask, *tokenizer.encode("é")[:1], tokenizer.eos]
    ) == tokenizer.bytes_of(tokenizer.encode("é")[:1])


def test_any_bytes_are_carried(tokenizer):
    carries_bytes(tokenizer)


def test_vocabulary_is_known_before_fitting(tokenizer, request):
    vocab = request.node.callspec.params["tokenizer"].vocab
    assert (
        tokenizer.vocab
        == vocab
        == Vocab(
            size=tokenizer.size,
            eos=vocab.size - 4,
            bos=vocab.size - 3,
            pad=vocab.size - 2,
            mask=vocab.size - 1,
        )
    )
    assert (
        len(tokenizer.bytes_V) == vocab.size
        and not tokenizer.bytes_V[vocab.eos :].any()
    )


def test_a_saved_tokenizer_is_the_same(tokenizer, request, tmp_path):
    tokenizer.save(tmp_path)
    restored = request.node.callspec.params["tokenizer"].restore(tmp_path)
    assert (
        restored.vocab == tokenizer.vocab
        and restored.fingerprint == tokenizer.fingerprint
    )
    np.testing.assert_array_equal(
        restored.encode("\n".join(ODD)), tokenizer.encode("\n".join(ODD))
    )


def test_specials_in_decoding(tokenizer):
    ids = [
        tokenizer.bos,
        *tokenizer.encode("né"),
        tokenizer.mask,
        *tokenizer.encode("!"),
        tokenizer.eos,
        tokenizer.pad,
    ]
    assert tokenizer.decode(ids) == f"né{base.MASK_SIGN}!"
    assert [tokenizer.piece(i) for i in (tokenizer.eos, tokenizer.mask)] == [
        "<|eos|>",
        base.MASK_SIGN,
    ]
    assert tokenizer.decode(
        Bytes().fit(()).encode("é")[:1] if tokenizer.size == 260 else []
    ) in (
        "�",
        "",
    )


def test_lone_surrogates_become_question_marks(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_what_precedes_a_text():
    """One bos as the published tokenizer has it.

    Of models trained here it precedes rows of networks with shifted input.
    """
    tokenizer = Bytes().fit(())
    bos, eos, a, b = tokenizer.bos, tokenizer.eos, ord("a"), ord("b")
    for adds, shift, prompt, ids, before in [
        (None, 0, "ab", [a, b], bos),
        (None, 1, "ab", [a, b], bos),
        (None, 1, "", [], bos),
        (False, 0, "ab", [a, b], bos),
        (False, 1, "ab", [b], a),
        (False, 1, "", [], bos),
        (True, 0, "ab", [bos, a, b], bos),
        (True, 0, "", [bos], bos),
        (True, 0, [bos, a], [bos, a], bos),
        (True, 1, "ab", [a, b], bos),
        (True, 1, [bos, a], [a], bos),
    ]:
        tokenizer.adds_bos = adds
        text = prompt if isinstance(prompt, str) else np.array(prompt)
        row, token_before = tokenizer.opening(text, shift)
        assert (row.tolist(), token_before) == (ids, before), (adds, shift, prompt)
    tokenizer.bos = -1
    assert tokenizer.opening("", 1)[1] == eos


def test_a_prompt_is_encoded_as_published_and_its_continuation_without_prefix(tmp_path):
    tokenizer = BPE(
        path=write(tmp_path, KINDS["first"]()), published=Published(says="all")
    ).fit(())
    as_published = tokenizer.encode_marked("a").tolist()
    assert tokenizer.encode_prompt("a").tolist() == as_published
    assert tokenizer.encode("a").tolist() != as_published
    assert tokenizer.encode_further("a</s>a").tolist() == [
        *tokenizer.encode("a"),
        tokenizer.eos,
        *tokenizer.encode("a"),
    ]
    assert (
        tokenizer.encode_prompt("a</s>").tolist()
        == tokenizer.encode_marked(Quoted("a</s>")).tolist()
    ), "the name of a special is text"
    assert (
        tokenizer.encode_further(Quoted("a</s>a")).tolist()
        == tokenizer.encode("a</s>a").tolist()
    ), "so is a stranger's"
    tokenizer.adds_bos = None
    assert tokenizer.encode_prompt("a").tolist() == tokenizer.encode("a").tolist(), (
        "as in training"
    )
    nameless = BPE(
        path=write(tmp_path / "nameless", KINDS["first"]() | dict(added_tokens=[]))
    ).fit(())
    assert (
        nameless.encode_further("a</s>").tolist() == nameless.encode("a</s>").tolist()
    )
