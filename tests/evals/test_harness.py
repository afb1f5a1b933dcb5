"""The evaluation harness without lm_eval: from requests to rows, and what rows cost.

tests/parity tests the rest.
"""

import itertools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.evals.lm_eval import tokenized
from dlm.evals.lm_eval.scoring import Model
from dlm.evals.lm_eval.tokenized import Piece, Speller
from dlm.nn.visibility.full import Full
from dlm.samplers.requests import Request
from dlm.samplers.rules.ordered import Ordered
from dlm.text.bpe import BPE, Published
from dlm.text.bytes import Bytes
from tests import tiny
from tests.evals.test_exact import context, says_e
from tests.text.probes import KINDS as PUBLISHED
from tests.text.probes import write

KINDS = dict(ar=tiny.AR, masked={}, block=dict(objective=dict(name="block", size=8)))


def speller(shift=1, room=8, adds_bos=None):
    tokenizer = Bytes().fit(())
    if adds_bos is not None:
        tokenizer.adds_bos = adds_bos
    return Speller(tokenizer, shift, room)


def ids(text):
    return [*text.encode()]


def pair_ids(speller, context, continuation):
    spelled, _ = speller.pair(context, continuation)
    return spelled.tolist()


# -------------------------------------------------------------------------------------- rows


def test_a_continuation_takes_the_spaces_before_it_and_is_cut_by_length():
    spelled_ids, first = speller(shift=0).pair("ab  ", "cd")
    assert spelled_ids.tolist() == ids("ab  cd")
    assert first == 2
    merging = speller(shift=0)

    # A token that reaches over the border.
    def encode_marked(text):
        return ids(text.replace("bc", "X"))

    merging.tokenizer.encode_marked = encode_marked
    spelled_ids, first = merging.pair("ab", "cd")
    assert spelled_ids[first:].tolist() == ids("cd")


SENTENCES = [
    "the answer is the answer",
    "an answer and  another one",
    "we answered: yes, no",
    "nobody knew\nthe answer",
    "who asks, who answers?",
    "answering answers nothing",
    "1234 and 12345",
    "é, naïve answers",
    "  two blanks  ",
    "the end; the endless end",
]


@pytest.mark.parametrize("kind", ["learned", "first", "always", "normalizer"])
def test_scored_tokens_spell_the_continuation_and_nothing_else(kind, tmp_path):
    """For every cut of every sentence; the tokens of many reach over it."""
    unfitted = (
        BPE(size=330)
        if kind == "learned"
        else BPE(
            path=write(tmp_path, PUBLISHED[kind]()), published=Published(says="all")
        )
    )
    fitted, merged = unfitted.fit(SENTENCES * 4), 0
    for shift, text in itertools.product((0, 1), SENTENCES):
        spelled = Speller(fitted, shift, 400)
        for cut in range(
            kind != "learned", len(text)
        ):  # what a published tokenizer puts in front of a text is its own
            prefix, continuation = text[:cut], text[cut:]
            whole, first = spelled.pair(prefix, continuation)
            (piece,), _ = spelled.pieces(whole, first, text)
            if stripped := prefix.rstrip():
                assert (
                    fitted.bytes_of(piece.ids[piece.first :])
                    == text[len(stripped) :].encode()
                ), (
                    prefix,
                    continuation,
                )
                assert whole[:first].tolist() == spelled.encoded(stripped).tolist()
                merged += not np.array_equal(whole, spelled.encoded(text))
    assert merged > (20 if kind == "learned" else 0), "tokens reach over some cuts"


def test_a_choice_that_merges_is_scored_as_the_others_are():
    fitted = BPE(size=330).fit(["the answer is the answer"] * 9)
    assert len(fitted.encode("the answer")) <= len(fitted.encode("the ans")), (
        "what was left to score was nothing"
    )
    for shift in (0, 1):
        spelled = Speller(fitted, shift, 40)
        for choice in ("wer", "wers", "x"):
            (piece,), _ = spelled.pieces(*spelled.pair("the ans", choice), choice)
            assert fitted.decode(piece.ids[piece.first :]) == choice
            assert fitted.decode(piece.ids[: piece.first]) == "the ans"
        assert spelled.pieces(*spelled.pair("the ans", ""), "") == ([], 0), (
            "an empty one alone costs nothing"
        )


def test_a_continuation_without_tokens_is_no_sum():
    silent = speller(shift=0)

    # As a normaliser that drops it.
    def encode_marked(text):
        return ids(text.replace("\u200d", ""))

    silent.tokenizer.encode_marked = encode_marked
    with pytest.raises(
        UserError, match=r"'\\u200d' has no tokens to score \(after 'ab'\)"
    ):
        silent.pair("ab", "\u200d")
    bare = speller(1, adds_bos=False)
    # Nothing is left of these, so something has to precede what is scored.
    for prefix in ("", " ", "\n\n"):
        spelled_ids, first = bare.pair(prefix, "b")
        assert spelled_ids.tolist() == [257, *ids(prefix + "b")]
        assert first == 1


def test_a_name_in_what_goes_on_is_one_token():
    spelled = speller(0)

    def encode_marked(text):
        return ids("X") if text != "a" else ids("a")

    spelled.tokenizer.encode_marked = encode_marked
    assert pair_ids(spelled, "a", "b<|eos|>c") == [*ids("ab"), 256, *ids("c")]


def test_tokens_before_a_text():
    bos, eos = 257, 256
    # Our own runs have always read one first.
    assert pair_ids(speller(1), "a", "b") == [bos, *ids("ab")]
    assert pair_ids(speller(0), "a", "b") == ids("ab")
    assert speller(0).pair("", "b")[1] == 0
    assert pair_ids(speller(1, adds_bos=False), "a", "b") == ids("ab")
    assert pair_ids(speller(0, adds_bos=True), "a", "b") == [bos, *ids("ab")]
    assert pair_ids(speller(1, adds_bos=False), "", "b") == [bos, *ids("b")]
    without = speller(1, adds_bos=False)
    without.tokenizer.bos = -1
    assert pair_ids(without, "", "b") == [eos, *ids("b")]
    marked = speller(1, adds_bos=True)

    def encode_marked(text):
        return [bos, *ids(text)]

    marked.tokenizer.encode_marked = encode_marked
    assert pair_ids(marked, "a", "b") == [bos, *ids("ab")]  # once


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("length", [1, 8, 9, 30])
def test_each_token_is_scored_once_with_all_the_text_that_fits(shift, length):
    text = "".join(map(chr, range(65, 65 + length)))
    whole, first = speller(shift).whole(text)
    pieces, cut = speller(shift).pieces(whole, first, text)
    assert [i for p in pieces for i in p.ids[p.first :]] == ids(text)
    assert cut == 0
    assert all(len(p.ids) <= 8 for p in pieces)
    assert all(len(p.ids) == 8 for p in pieces[1:])
    assert len({p.number for p in pieces}) == len(pieces)
    for p in pieces if shift else ():
        assert p.before == (257 if p.ids[0] == ord("A") else p.ids[0] - 1)


def test_a_long_context_is_cut_from_the_left_and_the_cut_is_counted():
    for shift in (0, 1):
        spelled = speller(shift).pair("0123456789", "ab")
        (piece,), cut = speller(shift).pieces(*spelled, "x")
        assert piece.ids.tolist() == ids("456789ab")
        assert piece.first == 6
        assert cut == 4
        assert not shift or piece.before == ord("3")
    piece, cut = speller(1).prompt("0123456789", 3)
    assert (piece.ids.tolist(), piece.before, cut) == (ids("6789"), ord("5"), 6)
    assert speller(1).prompt("", 3)[0].before == 257
    assert speller(0).prompt("", 3)[0].ids.size == 0


def test_noise_is_keyed_by_the_text_and_nothing_else():
    def number(continuation):
        spelled = speller().pair("ab", continuation)
        (piece,), _ = speller().pieces(*spelled, continuation)
        return piece.number

    assert number("c") != number("d")
    assert number("c") == number("c")
    assert len({tokenized.number(f"{n}") for n in range(500)}) == 500
    assert 0 <= tokenized.number("x") < 2**31


def test_rows_have_few_lengths_and_only_scored_tokens_are_noised():
    sizes = [tokenized.bucket(n, 100) for n in range(1, 101)]
    assert set(sizes) == {16, 24, 32, 48, 64, 96, 100}
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert tokenized.bucket(7, 5) == 7
    pieces = [Piece(np.arange(n), n - 1, 9, n) for n in (3, 20, 5)]
    assert list(tokenized.batches(pieces, 2, 32)) == [(16, [0, 2]), (24, [1])]
    rows = tokenized.stacked(pieces[:1], 2, 16, 18, 1)
    for name in ("noisable_BL", "weights_BL"):
        assert np.flatnonzero(rows[name]).tolist() == [2]
    assert rows["before_B"].tolist() == [9, 18]
    assert rows["index_B"].tolist() == [3, 0]


def test_a_text_ends_at_its_first_stop_string():
    assert tokenized.stopped("one\ntwo. three", [". ", "\n", ""]) == "one"
    assert tokenized.stopped("one", ["x"]) == "one"


# ------------------------------------------------------------------------------------ scores


@pytest.fixture(scope="module")
def run_contexts(corpus):
    return {
        name: context(corpus, **{"objective": "masked"} | kind)
        for name, kind in KINDS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "masked", "block", "adapted"])
def test_what_precedes_a_text_is_the_same_wherever_it_is_written_on(
    run_contexts, kind, corpus
):
    """`sample` and the harness agree, for prompts of no, one and many tokens.

    Some published tokenizers put a bos before a text, others do not.
    """
    one = context(corpus, "adapted") if kind == "adapted" else run_contexts[kind]
    model, tokenizer = Model(one, rows=3), one.tokenizer
    one_by_one = (
        {}
        if kind == "ar"
        else dict(rule=Ordered(), steps=8)
        if kind == "block"
        else dict(block=1, steps=1)
    )
    greedy, texts, written = (
        replace(model.sampler, temperature=0.0, **one_by_one),
        ("", "a", "red barn"),
        {},
    )
    try:
        for tokenizer.adds_bos in (None, False, True):
            answers = model.write(
                [model.speller.prompt(text, 6)[0] for text in texts], [6] * 3, greedy
            )
            replies = one.experiment.generator(one.params, greedy)(
                [Request.prompt(text, 6) for text in texts]
            )
            assert all(
                np.array_equal(r.ids[len(text) :], ids)
                for r, text, ids in zip(replies, texts, answers, strict=True)
            )
            assert all(
                r.text.startswith(text) and r.frozen.sum() == len(text)
                for r, text in zip(replies, texts, strict=True)
            )
            written[tokenizer.adds_bos] = [ids.tolist() for ids in answers]
    finally:
        tokenizer.adds_bos = None
    assert written[None] == written[kind == "ar"] != written[kind != "ar"]
    assert kind != "ar" or written[True][0] == written[False][0], (
        "something must stand before the first token"
    )


def pieces_of(one, *pairs, model=None):
    spelled = Model(one).speller
    return [
        p
        for context, y in pairs
        for p in spelled.pieces(*spelled.pair(context, y), f"{context}|{y}")[0]
    ]


PAIRS = [("the cat", " sat"), ("", "red barns"), ("a mat", " ran"), ("x", "yes")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_a_score_depends_on_neither_its_batch_nor_its_place(run_contexts, kind):
    one, pieces = run_contexts[kind], pieces_of(run_contexts[kind], *PAIRS)
    model = Model(one, rows=3, samples=4)
    together = model.scores(pieces, greedy=False)
    assert (
        together
        == model.scores(pieces[::-1], greedy=False)[::-1]
        == [model.scores([p], greedy=False)[0] for p in pieces]
    )
    assert all((s.variance > 0) == (kind == "masked") for s in together)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "masked", "block"])
def test_the_probabilities_of_all_last_tokens_sum_to_what_comes_before_them(
    run_contexts, kind
):
    """They sum to 1, where a single token is scored.

    Its bound is exact where exactly one token is masked, as it is by default.
    """
    one = run_contexts[kind]
    model = Model(one, rows=257, likelihood="exact")

    def every(continuation):
        head = pieces_of(one, ("the cat", continuation))[0]
        return [head._replace(ids=np.append(head.ids[:-1], v)) for v in range(257)]

    exact = model.scores(every("?"), greedy=False)
    assert sum(np.exp(-s.nats) for s in exact) == pytest.approx(1.0, abs=1e-4)
    if kind != "masked":
        return
    assert (
        Model(one, samples=2, pattern="own")
        .scores(every("?")[:1], greedy=False)[0]
        .variance
        > 0
    )
    bound = Model(one, rows=257, samples=2).scores(every("?"), greedy=False)
    np.testing.assert_allclose(
        [s.nats for s in bound], [s.nats for s in exact], rtol=1e-4
    )
    pairs = model.scores(every("ab"), greedy=False)
    hidden_1L = jnp.asarray([*ids("the cat"), one.tokenizer.mask, one.tokenizer.mask])[
        None
    ]
    canvas = Canvas(
        hidden_1L, jnp.ones(hidden_1L.shape), hidden_1L != one.tokenizer.mask, Full()
    )
    a_1L = jnp.full(hidden_1L.shape, ord("a"))
    first = one.experiment.net(one.params)(canvas).prediction.log_prob(a_1L)[0, -2]
    assert sum(np.exp(-s.nats) for s in pairs) == pytest.approx(
        float(jnp.exp(first)), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_greedy_is_what_the_model_would_write(run_contexts, kind):
    one = says_e(run_contexts[kind])
    scores = Model(one, rows=2, samples=2).scores(
        pieces_of(one, ("the", "ee"), ("the", "ef"), ("", "eee"))
    )
    assert [s.greedy for s in scores] == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_written_text_depends_on_neither_its_batch_nor_its_place(run_contexts, kind):
    model = Model(run_contexts[kind], rows=3)
    prompts = [
        model.speller.prompt(text, 6)[0]
        for text in ("the cat", "a", "red barn", "up to")
    ]
    together = model.write(prompts, [6, 4, 6, 5], model.sampler)
    assert [len(w) for w in together] == [6, 4, 6, 5]
    for prompt, tokens, written in zip(prompts, [6, 4, 6, 5], together, strict=True):
        assert (
            model.write([prompt], [tokens], model.sampler)[0].tolist()
            == written.tolist()
        )
    other = [p._replace(number=p.number + 1) for p in prompts]
    assert any(
        a.tolist() != b.tolist()
        for a, b in zip(
            together, model.write(other, [6, 4, 6, 5], model.sampler), strict=True
        )
    )
