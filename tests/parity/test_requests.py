"""What is made of a request to the harness: its options, and whose text it is."""

import dataclasses

import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.evals.lm_eval.adapter import HarnessLM
from dlm.evals.lm_eval.scoring import Model, Score
from tests import tiny
from tests.parity.test_harness import asked, ours


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return ours(
        tiny.write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt"), **tiny.AR
    )


@pytest.mark.parametrize(
    "options, changed",
    [
        (
            dict(
                num_beams=1,
                repetition_penalty=1.0,
                no_repeat_ngram_size=0,
                early_stopping=False,
                length_penalty=0.5,
                min_p=0,
            ),
            {},
        ),
        (
            dict(
                num_return_sequences=1,
                use_cache=True,
                top_p=None,
                top_k=None,
                temperature=None,
                do_sample=None,
                until=None,
            ),
            {},
        ),
        (
            dict(do_sample=True, top_k=0, top_p=1.0, temperature=None),
            dict(temperature=1.0),
        ),
        (dict(do_sample=True, top_k=-1), dict(temperature=1.0)),
        (
            dict(temperature=0.5, top_k=3, top_p=0.9, typical_p=1),
            dict(temperature=0.5, top_k=3, top_p=0.9),
        ),
        (dict(do_sample=False, temperature=0.5, top_k=3), {}),
    ],
    ids=str,
)
def test_options_that_change_nothing_are_accepted(subject, options, changed):
    model = Model(subject)
    assert HarnessLM(model)._requested(options) == (
        dataclasses.replace(model.sampler, **dict(temperature=0.0) | changed),
        256,
        [],
    )


@pytest.mark.parametrize(
    "options, cause",
    [
        (
            dict(num_beams=4),
            "num_beams=4 of a task is not supported: take it out, or set 1",
        ),
        (dict(min_p=0.1), "min_p=0.1 of a task is not supported"),
        (dict(temprature=1), "unknown .did you mean 'temperature'"),
        (
            dict(do_sample=True, top_p=0),
            "generation_kwargs of a task: .*top_p=0.0 must be in",
        ),
        (dict(temperature="hot"), "generation_kwargs of a task: could not convert"),
        (dict(max_gen_toks=-1), "max_gen_toks=-1 must be positive"),
    ],
    ids=str,
)
def test_other_options_are_refused_by_name(subject, options, cause):
    with pytest.raises(UserError, match=cause):
        HarnessLM(Model(subject))._requested(options)


def test_names_of_special_tokens_and_broken_answers_are_told(subject, monkeypatch):
    lm, read = HarnessLM(Model(subject)), []
    words = ("né".encode()[:2], "né".encode(), "né".encode())
    monkeypatch.setattr(
        lm.model,
        "scores",
        lambda pieces, greedy: (
            read.extend(pieces) or [Score(1.0, 0.0, True)] * len(pieces)
        ),
    )
    monkeypatch.setattr(
        lm.model,
        "write",
        lambda prompts, *_: (
            read.extend(prompts) or [np.array([*word, 256]) for word in words]
        ),
    )
    likely, rolled = (
        asked("loglikelihood", ("a<|eos|> <|m", "ask|>")),
        asked("loglikelihood_rolling", ("<|bos|>",)),
    )
    lm.loglikelihood(likely), lm.loglikelihood_rolling(rolled)
    written = asked("generate_until", ("<|eos|>", {}), ("<|eos|>", {}), ("ok?", {}))
    assert lm.generate_until(written) == ["n\ufffd", "né", "né"]
    info = [lm.score_info[str(r.args)] for r in (*likely, *rolled, *written)]
    assert [t.names for t in info] == [2, 1, 1, 1, 0] and [t.broken for t in info] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert [bytes(piece.ids.tolist()) for piece in read] == [
        b"a<|eos|> <|mask|>",
        b"<|bos|>",
        b"<|eos|>",
        b"<|eos|>",
        b"ok?",
    ]
