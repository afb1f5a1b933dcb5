"""Evaluators that sample: their arithmetic, their requests to the model, their uncertainty."""

import dataclasses
import importlib
import math
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dlm import evals, evaluate
from dlm.app.context import RunContext
from dlm.core.contracts import Bound
from dlm.core.errors import UserError
from dlm.core.families import exposed
from dlm.core.intervals import jackknife, shared
from dlm.data import problems
from dlm.evals.gen_ppl import GenPPL, judged, perplexity
from dlm.evals.infill import Infill
from dlm.evals.samples import Samples, variety
from dlm.evals.tasks import Tasks
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers.rules.confident import Confident
from dlm.samplers.rules.first_hitting import FirstHitting
from dlm.samplers.rules.ordered import Ordered
from dlm.tasks.base import Problem
from dlm.tasks.brackets import Brackets
from dlm.tasks.sudoku import Sudoku
from dlm.text.base import closing
from dlm.text.bpe import BPE
from dlm.text.bytes import Bytes, ByteTokenizer
from tests.evals.asked import Asked, scores


def test_the_jackknife_of_a_mean_is_the_textbook_error_and_a_ratio_follows_the_delta_method():
    x_N = np.random.default_rng(0).normal(size=50)
    value, se = jackknife(np.mean, x_N)
    assert (value, se) == (
        pytest.approx(x_N.mean()),
        pytest.approx(x_N.std(ddof=1) / 50**0.5),
    )
    rows = np.stack([2 + x_N, np.abs(3 + 0.1 * x_N)], 1)
    value, se = jackknife(lambda r: r[:, 0].sum() / r[:, 1].sum(), rows)
    rest = rows[:, 0] - value * rows[:, 1]
    assert se == pytest.approx(
        (50 / 49 * np.square(rest).sum()) ** 0.5 / rows[:, 1].sum(), rel=0.02
    )
    value, se = jackknife(np.mean, [3.0])
    assert value == 3.0
    assert math.isnan(se), (
        "of a single item no error is known, which is not that there is none"
    )


def test_variety_of_known_samples():
    context = Asked()
    eos = context.tokenizer.eos
    ids_drawn = [[1, 1, 1, 1], [1, 2, 1, 2], [1, 2, 3, 4], [1, 2, eos, 9]]

    def fill(n, hole):
        return np.array(ids_drawn[n])

    context.fill = fill
    results = scores(Samples(num=4, length=4), context)
    log2 = math.log(2)
    assert results["entropy"][0] == pytest.approx((0 + log2 + 2 * log2 + log2) / 4)
    assert results["entropy"][1] > 0
    assert results["distinct_1"][0] == pytest.approx(4 / 14)
    assert results["distinct_2"][0] == pytest.approx(5 / 10)
    assert results["distinct_3"][0] == pytest.approx(5 / 6)
    assert context.asked[0][0] == [(4,)] * 4
    turns = dataclasses.replace(context.tokenizer.vocab, stops=(9,))
    assert next(variety([np.array([1, 2, 9, eos, 3])] * 2, turns))[:2] == (
        "entropy",
        pytest.approx(log2),
    )


def judge_of(tokenizer, price, length, batch=2):
    """A judge for whom token v costs `price(v)` nats."""

    def bound(samples):
        return lambda params, batch, key: Bound(
            batch.weights_BL * price(batch.tokens_BL), jnp.zeros(len(batch.tokens_BL))
        )

    run = types.SimpleNamespace(data=types.SimpleNamespace(batch=batch, length=length))

    def put(rows):
        return types.SimpleNamespace(**{k: jnp.asarray(v) for k, v in rows.items()})

    experiment = types.SimpleNamespace(bound=bound, put=put, run=run)
    return types.SimpleNamespace(
        experiment=experiment,
        tokenizer=tokenizer,
        params=None,
        key=None,
        objective=types.SimpleNamespace(claims="exact"),
    )


def test_generative_perplexity_is_the_judges_beside_that_of_real_text(tmp_path):
    """Every token costs the judge 2 nats, an eos 3.

    Samples have 4 tokens, and one of them ends before; real text is cut at 4 as well.
    """
    tokenizer = Asked().tokenizer
    judge = judge_of(
        tokenizer, lambda tokens_BL: jnp.where(tokens_BL == tokenizer.eos, 3.0, 2.0), 5
    )
    judge.folder, judge.step = tmp_path, 7
    (tmp_path / "config.json").write_text("{}")
    samples = ["abcd", np.array([*tokenizer.encode("xy"), tokenizer.eos, 65]), "abcd"]
    context = Asked(
        documents=["abcdefgh"] * 9,
        fill=lambda n, hole: (
            tokenizer.encode(s) if isinstance(s := samples[n], str) else s
        ),
    )

    def open_run(workdir):
        assert workdir == "there"
        return judge

    context.open_run = open_run
    results = scores(GenPPL(judge="there", num=3, length=4), context)
    nats, size, tokens = 8 + 7 + 8, 4 + 2 + 4, 4 + 3 + 4
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256 of {}
    assert context.details["judge"] == dict(
        dir=str(tmp_path.resolve()), step=7, config=digest
    )
    assert results["gen_bits_per_byte"][0] == pytest.approx(nats / math.log(2) / size)
    assert results["gen_bits_per_byte"][1] > 0
    assert results["gen_ppl"][0] == pytest.approx(math.exp(nats / tokens))
    assert results["entropy"][0] > 0
    assert results["real_bits_per_byte"] == (
        pytest.approx(8 / math.log(2) / 4),
        pytest.approx(0),
    ), "cut where samples are"
    context.held_out_documents, context.fill = (
        ["abcdefg"] * 3,
        lambda n, hole: "abcdefg",
    )
    assert scores(GenPPL(judge="there", num=3), context)["gen_ppl"] == (
        pytest.approx(math.exp(2)),
        pytest.approx(0),
    ), "the judge reads 5"
    with pytest.raises(
        UserError, match="a judge is missing: --evals.gen_ppl.judge=RUN"
    ):
        scores(GenPPL(), context)
    judge.objective.claims = "bound"
    with pytest.raises(UserError, match="judge=there is no autoregressive run"):
        scores(GenPPL(judge="there"), context)


def test_the_judge_reads_what_was_drawn_whatever_bytes_it_is_of():
    """Random bytes, a remaining mask and a bos, under the same tokenizer and another one.

    They are cut at the judge's length.
    """
    own, r = Asked().tokenizer, np.random.default_rng(0)
    other = BPE(size=300).fit(["the cat sat on the mat. " * 9])
    drawn = [r.integers(0, 256, n) for n in (20, 7, 12)]
    drawn[1] = np.append(
        drawn[1], [own.eos, 65]
    )  # what comes after the end is not read

    def price(tokens):
        return 1 + tokens / 100

    nats, size, tokens, cut, lost, of = judged(
        judge_of(own, price, 32), drawn, own
    ).sum(0)
    assert nats == pytest.approx(
        sum(price(ids).sum() for ids in drawn) - price(65), rel=1e-6
    )
    assert (
        size,
        tokens,
    ) == (39, 40)
    assert (cut, lost, of) == (0, 0, 39)
    rows_N6 = judged(judge_of(other, price, 32), drawn, own)
    assert rows_N6[:, 1].tolist() == [20, 7, 12]
    assert not rows_N6[:, 3:5].any()
    reported = [
        other.encode_bytes(bytes(ids[:n].tolist()))
        for ids, n in zip(drawn, (20, 7, 12), strict=True)
    ]
    reported[1] = np.append(reported[1], other.eos)
    assert rows_N6[:, 0] == pytest.approx([price(ids).sum() for ids in reported])
    back = judged(
        judge_of(own, price, 32), [other.encode_bytes(bytes(range(30)))], other
    )[0]
    assert back[:3].tolist() == [pytest.approx(price(np.arange(30)).sum()), 30, 30]
    odd = [np.array([65, own.mask, own.bos, 66, own.eos])]
    for judge in (own, other):
        assert judged(judge_of(judge, price, 2), odd, own)[0, 1:].tolist() == [
            2,
            2,
            0,
            2,
            4,
        ]
        assert judged(judge_of(judge, price, 5), drawn[:1], own)[0, [1, 3]].sum() == 20
    assert judged(judge_of(own, price, 5), drawn[:1], own)[0, 1:4].tolist() == [
        5,
        5,
        15,
    ]
    wide = ByteTokenizer(
        closing(270)
    )  # the same ids of bytes, and some that this judge has not
    assert judged(judge_of(own, price, 5), [np.array([65, 261, wide.eos])], wide)[
        0, 1:
    ].tolist() == [1, 2, 0, 1, 2]
    results = {
        name: value
        for name, value, _ in perplexity(
            "x", judge_of(own, price, 5), [drawn[0], odd[0]], own
        )
    }
    assert results["x_cut"] == 15 / 22
    assert results["x_lost"] == 2 / 24
    assert results["x_ppl"] > 1


def test_a_judge_with_the_same_ids_and_other_ends_reads_its_own():
    own = Asked().tokenizer
    turns = Bytes().fit(())
    turns.vocab = dataclasses.replace(turns.vocab, stops=(9,))

    def price(tokens):
        return 1 + tokens / 100

    for judge, end in ((own, own.eos), (turns, 9)):
        assert judged(judge_of(judge, price, 8), [np.array([65, 9, 66])], turns)[
            0, 0
        ] == pytest.approx(price(65) + price(end))


@pytest.mark.parametrize("visibility", [Full(), Causal()], ids=["full", "causal"])
def test_infilling_compares_the_hole_alone_and_a_causal_model_gets_the_left_side(
    visibility,
):
    documents = ["abcdefghijklmnop", "too short", "ABCDEFGHIJKLMNOP"]
    context = Asked(
        documents, visibility=visibility, fill=lambda n, hole: ["fghx", "FGHI"][n]
    )
    results = scores(Infill(num=2, length=14, hole=4, temperature=0.5), context)
    assert results == dict(token_accuracy=(0.875, 0.125), exact_match=(0.5, 0.5))
    (templates, changes), encode = context.asked[0], context.tokenizer.encode
    left, hole, *right = templates[0]
    assert changes == dict(temperature=0.5)
    assert hole == 4
    assert (left == encode("abcde")).all()
    assert len(right) == visibility.infills
    assert not right or (right[0] == encode("jklmn")).all()
    with pytest.raises(UserError, match="only 0 held-out document.s. have 17 tokens"):
        scores(Infill(length=17), context)


def test_answers_are_graded_up_to_their_end_and_no_problem_was_trained_on():
    task = Brackets(depth=3, opened=4)
    chosen = problems.held_out(task, 4)
    eos = Asked().tokenizer.eos
    answers = [
        chosen[0].answer.ljust(3),
        chosen[1].answer + ")",
        chosen[2].answer,
        "no",
    ]

    def fill(n, hole):
        assert hole == task.longest + 1
        return np.append(Asked().tokenizer.encode(answers[n]), [eos, 65])[:hole]

    context = Asked(fill=fill)
    results = scores(Tasks(task=task, num=4), context)
    assert (context.details["trials"], context.details["task"]["rows"]) == (4, 4)
    reported = [context.details["task"]["sha256"]]
    for other in (Brackets(depth=2, opened=4), task):
        again = Asked(fill=lambda n, hole: "x" * hole)
        scores(Tasks(task=other, num=4), again)
        reported.append(again.details["task"]["sha256"])
    assert reported[0] != reported[1]
    assert reported[0] == reported[2], "a task is known by what it asks"
    assert results["brackets_accuracy"][0] == 0.5
    assert 0 < results["brackets_accuracy"][1] < 0.5
    assert [t[0] for t in context.asked[0][0]] == [p.prompt for p in chosen]
    assert context.asked[0][1] == dict(temperature=0.0)
    source = problems.Problems(task=task, count=500)
    trained = {text.partition("=")[0] for text in source.documents("train")}
    assert not trained & {p.prompt[:-1] for p in problems.held_out(task, 20)}
    assert len(trained) > 100
    assert problems.document(task, chosen[0]) in source.documents("held_out")
    assert {len(text.partition("=")[2]) for text in source.documents("train")} == {3}, (
        "the room tells nothing of the answer"
    )


def test_an_answer_begins_where_its_prompt_ends_in_any_encoding(monkeypatch):
    """A published tokenizer may put a space in front of a prompt."""
    task = Brackets(depth=3, opened=4)
    chosen = problems.held_out(task, 2)
    context = Asked()
    tokenizer = context.tokenizer

    def fill(n, hole):
        return np.append(tokenizer.encode(chosen[n].answer), tokenizer.eos)

    context.fill = fill
    monkeypatch.setattr(
        context.tokenizer,
        "encode_prompt",
        lambda text: context.tokenizer.encode(" " + text),
    )
    assert scores(Tasks(task=task, num=2), context)["brackets_accuracy"][0] == 1


def test_what_a_tokenizer_joins_is_not_encoded_apart(monkeypatch):
    for task, ask in [
        (Brackets(depth=3, opened=4), "prompt"),
        (Sudoku(holes=0.25), "fill"),
    ]:
        texts = [
            p.answer if ask == "fill" else problems.document(task, p)
            for p in map(task.__getitem__, range(50))
        ]
        context = Asked()
        context.tokenizer = BPE(size=400).fit(texts * 4)
        with pytest.raises(
            UserError,
            match=f"evals.tasks.ask='{ask}': this run's tokenizer joins what is given",
        ):
            scores(Tasks(task=task, num=20, ask=ask), context)
    assert scores(Tasks(task=Sudoku(holes=0.25), num=2), context), (
        "digits do not go with the sign that ends the prompt"
    )
    codes = {"1": [1], "1234": [1, 234]}
    monkeypatch.setattr(context.tokenizer, "encode", lambda text: np.array(codes[text]))
    with pytest.raises(UserError, match="joins what is given"):
        Tasks(task=Sudoku(), ask="fill")._check_borders(
            context.tokenizer, Problem("1...=", "1234")
        )


def test_a_puzzle_is_filled_in_around_its_givens_in_every_order_and_number_of_steps():
    task = Sudoku(holes=0.25)
    puzzles = problems.held_out(task, 3)
    solved = [
        [p.answer[n] for n, c in enumerate(p.prompt) if c == "."] for p in puzzles
    ]
    wrong = {1}  # of the three
    built = Asked()

    def fill(n, hole):
        return (
            "".join(solved[n].pop(0) for _ in range(hole))
            if n not in wrong
            else "1" * hole
        )

    built.fill = fill
    results = scores(Tasks(task=task, num=3, ask="fill"), built)
    assert results == {"sudoku_accuracy": (pytest.approx(2 / 3), pytest.approx(1 / 3))}
    for template, puzzle in zip(built.asked[0][0], puzzles, strict=True):
        *parts, eos = template
        assert tuple(parts) == task.template(puzzle)
        assert eos.tolist() == [built.tokenizer.eos]

    built = Asked(fill=lambda n, hole: "1" * hole)
    results = scores(
        Tasks(
            task=task,
            num=3,
            ask="fill",
            orders=("random", "left_to_right", "margin"),
            steps=(2, 8),
        ),
        built,
    )
    assert list(results) == [
        f"sudoku_accuracy_{order}_{steps}"
        for order in ("random", "left_to_right", "margin")
        for steps in (2, 8)
    ]
    assert [(c["rule"], c["steps"]) for _, c in built.asked] == [
        (rule, steps)
        for rule in (FirstHitting(), Ordered("left_to_right"), Confident("margin"))
        for steps in (2, 8)
    ]


def test_every_score_is_written_down_with_the_passes_that_it_took_itself():
    @dataclasses.dataclass(frozen=True)
    class Passes(Tasks):
        def run(self, context, step):
            for nfe in (2, 16):
                context.details["nfe"] = nfe
                yield f"at_{nfe}", 0.5, 0.0

    context = RunContext(None, None, None, details={"nfe": 99})
    chosen = evaluate.Call(
        "held_out", dict, dict(tasks=Passes()), "", read={}, sampler={}, noise={}
    )
    assert [
        (r["name"], r["nfe"])
        for r in evaluate.scored(context, 7, "tasks", Passes(), chosen)
    ] == [("at_2", 2), ("at_16", 16)]


def test_every_evaluator_declares_what_its_errors_are_over():
    """A spread over seeds does not show what they share (`core.intervals.shared`).

    So every new evaluator has to declare it.
    """
    stems = [
        path.stem
        for path in Path(evals.__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "base")
    ]
    built = {
        stem: exposed(importlib.import_module(f"dlm.evals.{stem}").__name__)[0]
        for stem in stems
    }
    reported = {stem: evaluator.over for stem, evaluator in built.items()}
    assert {stem for stem, over in reported.items() if shared(over, [0, 1])} == set(
        stems
    ) - {
        "bound",
        "exact",
        "samples",
        "gen_ppl",
    }
    assert {
        stem
        for stem, evaluator in built.items()
        if not getattr(evaluator, "reads", True)
    } == {
        "samples",
        "tasks",
        "harness",
    }


def test_grids_of_held_out_puzzles_are_trained_on_in_no_form():
    task = Sudoku()
    chosen = {p.answer for p in problems.held_out(task, 40)}
    whole = problems.Problems(task=task, count=900)
    answers = problems.Problems(task=task, count=900, form="answer")
    assert not chosen & {text.partition("=")[2] for text in whole.documents("train")}
    assert not chosen & set(answers.documents("train"))
    assert chosen <= set(answers.documents("held_out"))
    assert {len(text) for text in answers.documents("train")} == {16}


def test_mistakes():
    fill = dict(task=Brackets(), ask="fill")
    cases = [
        (Samples, dict(num=1)),
        (GenPPL, dict(length=-1)),
        (Infill, dict(hole=48)),
        (Tasks, dict(num=0)),
        (Tasks, dict(steps=(0,))),
    ]
    for make, wrong in cases:
        with pytest.raises(ValueError, match="must"):
            make(**wrong)
    for make, unfit in [
        (Tasks, fill),
        (problems.Problems, dict(task=Brackets(), form="answer")),
    ]:
        with pytest.raises(
            ValueError, match="needs a task whose prompt is a part of the answer"
        ):
            make(**unfit)
    with pytest.raises(UserError, match="none of 1 problems is in the split"):
        [
            problems.Problems(task=Brackets(), count=1).documents(split)
            for split in ("train", "held_out")
        ]
    with pytest.raises(UserError, match="has only . held-out problems"):
        problems.held_out(Brackets(depth=1, opened=1), 9)
