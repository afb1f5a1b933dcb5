"""Requests to replies: templates, padding, batches, ends, traces, refusals."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Cache
from dlm.core.errors import UserError
from dlm.nn import transformer
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers.generator import Generator, Model
from dlm.samplers.plan import Sampler
from dlm.samplers.requests import Request, as_canvas, as_row
from dlm.text.bytes import Bytes, ByteTokenizer
from tests import tiny

TOKENIZER = Bytes().fit(())
CONFIG = tiny.model_config(vocab=TOKENIZER.vocab)
PARAMS = tiny.random_params(CONFIG, scale=0.4)
PROCESS = build_member("mask", "noise", TOKENIZER.vocab)
MODEL = transformer.Transformer(CONFIG)
SHIFTED = Causal()


def network(params):
    return transformer.net_of(MODEL, params)


def generator(
    mask=None,
    net=network,
    params=PARAMS,
    trace=False,
    seed=0,
    rule="ancestral",
    **settings,
):
    sampler = Sampler(build_member(rule, "samplers.rules"), **settings)
    model = model_of(net, PROCESS, mask or Full(), TOKENIZER)
    return Generator(model, params, sampler, seed=seed, trace=trace)


def model_of(net, process, visibility, tokenizer):
    """A model whose process does not depend on parameters."""
    cache = partial(transformer.empty_cache, MODEL)
    return Model(net, cache, lambda params: process, visibility, tokenizer)


MASKED = generator(steps=4, trace=True)
AR = generator(SHIFTED, steps=1, block=1, trace=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [MASKED, AR], ids=["masked", "ar"])
def test_neither_its_batch_nor_padding_changes_a_row(make):
    request = Request.prompt("ab", 6)
    alone = make([request])[0]
    among = make([request, Request.prompt("", 11), Request.prompt("abc", 1)])
    tiny.identical(among[0].ids, alone.ids)
    assert among[0].logprob == pytest.approx(alone.logprob, abs=1e-4)
    assert among[0].text == alone.text
    assert [len(r.ids) for r in among] == [8, 11, 4]
    assert among[0].text.startswith("ab")


@pytest.mark.slow
@pytest.mark.parametrize("make", [MASKED, AR], ids=["masked", "ar"])
def test_the_trace_ends_in_the_reply(make):
    reply = make([Request.prompt("ab", 6)])[0]
    states_TL = reply.trace["states"]
    n = reply.nfe
    assert states_TL.shape == (n + 1, 8)
    assert reply.trace["confidence"].shape == (n, 8)
    assert len(reply.trace["times"]) == n + 1
    assert states_TL[0].tolist() == [*b"ab", *[TOKENIZER.mask] * 6]
    assert (states_TL[-1] == reply.ids).all()
    assert reply.trace["times"][0] == 1
    assert (np.diff(reply.trace["times"]) < 0).all()
    last = reply.trace["confidence"][-1]
    assert (last[:2] == 0).all()
    assert ((last[2:] > 0) & (last[2:] <= 1)).all()
    assert np.log(last[2:]).sum() == pytest.approx(reply.logprob, abs=1e-4)


def test_infilling_keeps_every_anchor():
    reply = MASKED([Request.infill("a___b___", 3)])[0]
    assert reply.ids[[0, 4]].tolist() == [*b"ab"]
    assert reply.frozen.tolist() == [
        True,
        *[False] * 3,
        True,
        *[False] * 3,
    ]
    assert reply.nfe == 4
    assert not np.isin(reply.ids, TOKENIZER.vocab.never).any()
    assert Request.infill("___", 2) == Request.prompt("", 2) == Request((2,))


def test_text_ends_at_the_first_generated_eos():
    def eos_at_three(canvas):
        import jax.numpy as jnp

        from dlm.core.contracts import Dense, Output

        id_L = jnp.where(jnp.arange(canvas.z_BL.shape[1]) == 3, TOKENIZER.eos, ord("x"))
        return Output(
            Dense(
                jnp.where(jnp.arange(TOKENIZER.size) == id_L[:, None], 0.0, -1e9)
                + jnp.zeros((*canvas.z_BL.shape, 1))
            )
        )

    prompted, filled = generator(net=lambda params: eos_at_three, params={}, steps=2)(
        [Request.prompt("ab", 4), Request((2, "a", 2, "b"))]
    )
    assert prompted.text == "abx"
    assert prompted.ids.tolist() == [*b"abx", TOKENIZER.eos, *b"xx"]
    assert filled.text == "xxaxb", (
        "an eos between anchors does not hide the anchors after it"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Full(), SHIFTED], ids=["masked", "ar"])
def test_an_end_of_text_that_is_also_the_padding_ends_nothing_where_it_is_given(kind):
    """Published models use one id for eos, bos and pad.

    Prompts of several turns contain it, and shorter rows are padded with it.
    """
    import jax.numpy as jnp

    from dlm.core.contracts import Dense, Output

    vocab = replace(TOKENIZER.vocab, bos=TOKENIZER.eos, pad=TOKENIZER.eos)
    process = build_member("mask", "noise", vocab)

    def eos_at_four(canvas):
        row_index_L = canvas.layout.complete(canvas.z_BL.shape[1]).index_BL[0]
        id_L = jnp.where(row_index_L == 4, vocab.eos, ord("x"))
        logits_BLV = jnp.where(
            jnp.arange(vocab.size) == id_L[:, None], 0.0, -1e9
        ) + jnp.zeros((*canvas.z_BL.shape, 1))
        return Output(Dense(logits_BLV), cache=without_slots(canvas.cache))

    steps = dict(steps=1, block=1) if kind == SHIFTED else dict(steps=2)
    model = model_of(lambda params: eos_at_four, process, kind, ByteTokenizer(vocab))
    generate = Generator(model, {}, Sampler(**steps))
    turn = np.array([ord("a"), vocab.eos])
    rows = [(turn, 4), (turn, 7), *([] if kind == SHIFTED else [(5, turn[1:])])]
    for reply, length in zip(
        generate([Request(parts) for parts in rows]), (6, 9, 6), strict=False
    ):
        assert (
            len(reply.ids) == length
            and reply.ids[4] == vocab.eos
            and (reply.ids[[2, 3]] == ord("x")).all()
        ), reply
        assert reply.text == ("axx" if reply.frozen[0] else "xxxx")


TURN = 4  # ends a turn, and so a text
TURNS = replace(TOKENIZER.vocab, stops=(TURN,))
PATH = {
    ord("a"): ord("b"),
    ord("b"): TURN,
    TURN: ord("u"),
    ord("u"): ord("c"),
    ord("c"): TOKENIZER.eos,
    TOKENIZER.mask: TURN,
}


def without_slots(cache):
    """The same keys and values."""
    return cache and Cache(cache.k_NBMJK, cache.v_NBMJK)


def lookup(canvas):
    """Predicts the next id on the path a → b → end of turn → u → c → end of text.

    A mask is predicted to be an end of turn.
    """
    import jax.numpy as jnp

    from dlm.core.contracts import Dense, Output

    read_BL = canvas.z_BL
    if canvas.visibility.shift != "none":
        before_B = (
            canvas.before_B if canvas.visibility.shift == "input" else read_BL[:, 0]
        )
        read_BL = jnp.concatenate(
            [jnp.broadcast_to(before_B, read_BL.shape[:1])[:, None], read_BL[:, :-1]], 1
        )
    next_V = jnp.array([PATH.get(i, ord("x")) for i in range(TURNS.size)])
    logits_BLV = jnp.where(
        jnp.arange(TURNS.size) == next_V[read_BL][..., None], 0.0, -1e9
    )
    return Output(Dense(logits_BLV), cache=without_slots(canvas.cache))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, rule, settings, prompts, passes",
    [
        (SHIFTED, "ancestral", dict(block=1, steps=1), ("a", "c"), 3),
        (Block(size=4), "ancestral", dict(steps=1), ("ab",), 1),
        (
            Block(size=4),
            "ancestral",
            dict(driver="speculative", block=3, steps=1),
            ("ab",),
            3,
        ),
        (Full(), "ordered", dict(steps=4), ("ab",), 1),
        (Full("output"), "ordered", dict(steps=8), ("a", "c"), 2),
    ],
    ids=["ar", "block", "speculative", "masked", "adapted"],
)
def test_each_id_that_ends_a_text_ends_it_in_no_more_passes_than_that_takes(
    kind, rule, settings, prompts, passes
):
    process = build_member("mask", "noise", TURNS)
    model = model_of(lambda params: lookup, process, kind, ByteTokenizer(TURNS))
    generate = Generator(model, {}, Sampler(rule=rule, temperature=0.0, **settings))
    replies = generate([Request.prompt(prompt, 8) for prompt in prompts])
    assert [r.text for r in replies] == ["ab", *prompts[1:]]
    assert replies[0].nfe == passes


def test_the_first_anchor_is_told_as_the_tokenizer_has_it_and_the_others_go_on(
    monkeypatch,
):
    monkeypatch.setattr(
        TOKENIZER, "encode_prompt", lambda text: TOKENIZER.encode(" " + text)
    )
    row = as_row(Request(("ab", 1, "c")), TOKENIZER, Full())
    assert row.ids.tolist() == [*b" ab", TOKENIZER.mask, *b"c"]
    assert row.frozen.tolist() == [
        True,
        True,
        True,
        False,
        True,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, adds", [(MASKED, True), (AR, False)], ids=["masked", "ar"]
)
def test_a_reply_and_its_trace_are_as_long_as_what_was_asked(make, adds, monkeypatch):
    """Whatever was put in front of it, or is read before the row."""
    monkeypatch.setattr(TOKENIZER, "adds_bos", adds)
    replies = make([Request.prompt("ab", 6), Request((np.array([*b"abc"]), 5))])
    for reply, text in zip(replies, ("ab", "abc"), strict=True):
        states_TL = reply.trace["states"]
        assert (
            states_TL.shape[1]
            == reply.trace["confidence"].shape[1]
            == len(reply.ids)
            == len(reply.frozen)
            == 8
        )
        assert (states_TL[:, : len(text)] == [*text.encode()]).all()
        assert reply.ids[: len(text)].tolist() == [*text.encode()]
        assert reply.frozen.tolist() == [i < len(text) for i in range(8)]
        assert (states_TL[-1] == reply.ids).all()
        assert (reply.trace["confidence"][-1] > 0).tolist() == (~reply.frozen).tolist()
        assert reply.text.startswith(text)
        assert np.log(
            reply.trace["confidence"][-1][len(text) :]
        ).sum() == pytest.approx(reply.logprob, abs=1e-4)


@pytest.mark.slow
def test_the_lowest_temperatures_write_the_mode():
    """Below a millionth of a nat the program is that of temperature 0, whatever the shape.

    Above it a sampled id has positive probability.
    """
    blank = as_canvas(
        [as_row(Request.prompt("", 6), TOKENIZER, Full())], TOKENIZER.vocab, Full()
    )
    key_B = keys.per_sample(keys.root(0), jnp.arange(1))

    def program(temperature, rule):
        run = generator(steps=2, rule=rule, temperature=temperature).run
        return tiny.program(
            lambda canvas, key_B: run(PARAMS, canvas, key_B, prefill=0).canvas.z_BL,
            blank,
            key_B,
        )[0]

    for rule in ("ancestral", "confident"):
        mode = program(0.0, rule)
        assert all(program(10.0**-n, rule) == mode for n in (8, 10, 40))
        assert program(1e-6, rule) != mode
    requests = [Request.prompt("", 6), Request.prompt("ab", 9)]
    mode, coldest = (generator(steps=2, temperature=t)(requests) for t in (0.0, 1e-6))
    for one, other in zip(coldest, mode, strict=True):
        tiny.identical(one.ids, other.ids)


@pytest.mark.slow
def test_a_long_prompt_is_read_in_one_pass():
    prompt = "the quick brown fox jumps over the lazy dog"
    reply = AR([Request.prompt(prompt, 3)])[0]
    assert reply.nfe <= 1 + len(prompt) - 32 + 3
    assert reply.text.startswith(prompt)


@pytest.mark.slow
def test_seeds_differ_and_repeat():
    one, same, other = (
        generator(steps=4, seed=s)([Request.prompt("", 8)] * 2) for s in (0, 0, 1)
    )
    tiny.identical([r.ids for r in one], [r.ids for r in same])
    assert (one[0].ids != other[0].ids).any()
    assert (one[0].ids != one[1].ids).any()


def test_what_is_refused(monkeypatch):
    for settings in (
        dict(steps=4, block=1),
        dict(steps=1, block=0),
        dict(steps=1, block=8),
    ):
        with pytest.raises(
            UserError, match="a causal model decides one position in one step"
        ):
            generator(SHIFTED, **settings)
    with pytest.raises(UserError, match="cannot fill in"):
        AR([Request.infill("a___b", 3)])
    with pytest.raises(UserError, match="no ___"):
        Request.infill("ab", 3)
    for nothing in ([], [Request(())], [Request(("",))]):
        with pytest.raises(UserError, match="nothing to generate"):
            MASKED(nothing)
    monkeypatch.setattr(TOKENIZER, "adds_bos", False)
    with pytest.raises(UserError, match="nothing to generate"):
        AR([Request(("a",))])
    for settings in (
        dict(steps=0),
        dict(block=-1),
        dict(temperature=-1.0),
        dict(top_p=0.0),
        dict(top_p=1.1),
    ):
        with pytest.raises(ValueError, match="must"):
            Sampler(build_member("ancestral", "samplers.rules"), **settings)
