"""Evaluators that draw: their arithmetic on known answers, what they ask of the model, and their uncertainty."""

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
    assert (value, se) == (pytest.approx(x_N.mean()), pytest.approx(x_N.std(ddof=1) / 50**0.5))
    rows = np.stack([2 + x_N, np.abs(3 + 0.1 * x_N)], 1)
    value, se = jackknife(lambda r: r[:, 0].sum() / r[:, 1].sum(), rows)
    rest = rows[:, 0] - value * rows[:, 1]
    assert se == pytest.approx(
        (50 / 49 * np.square(rest).sum()) ** 0.5 / rows[:, 1].sum(), rel=0.02
    )
    value, se = jackknife(np.mean, [3.0])
    assert value == 3.0 and math.isnan(se), (
        "of a single item no error is known, which is not that there is none"
    )


def test_variety_of_known_samples():
    context = Asked()
    eos = context.tokenizer.eos
    given = [[1, 1, 1, 1], [1, 2, 1, 2], [1, 2, 3, 4], [1, 2, eos, 9]]
    context.fill = lambda n, hole: np.array(given[n])
    found = scores(Samples(num=4, length=4), context)
    log2 = math.log(2)
    assert (
        found["entropy"][0] == pytest.approx((0 + log2 + 2 * log2 + log2) / 4)
        and found["entropy"][1] > 0
    )
    assert found["distinct_1"][0] == pytest.approx(4 / 14) and found["distinct_2"][
        0
    ] == pytest.approx(5 / 10)
    assert found["distinct_3"][0] == pytest.approx(5 / 6) and context.asked[0][0] == [(4,)] * 4
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


def test_generative_perplexity_is_the_judges_and_real_text_stands_beside_it(tmp_path):
    """A judge for whom every token costs 2 nats, an eos 3; samples of 4 tokens, one of which ends before; real text cut at 4 as well."""
    tokenizer = Asked().tokenizer
    judge = judge_of(
        tokenizer, lambda tokens_BL: jnp.where(tokens_BL == tokenizer.eos, 3.0, 2.0), 5
    )
    judge.folder, judge.step = tmp_path, 7
    (tmp_path / "config.json").write_text("{}")
    samples = ["abcd", np.array([*tokenizer.encode("xy"), tokenizer.eos, 65]), "abcd"]
    context = Asked(
        documents=["abcdefgh"] * 9,
        fill=lambda n, hole: tokenizer.encode(s) if isinstance(s := samples[n], str) else s,
    )
    context.open_run = lambda workdir: judge if workdir == "there" else pytest.fail(workdir)
    found = scores(GenPPL(judge="there", num=3, length=4), context)
    nats, size, tokens = 8 + 7 + 8, 4 + 2 + 4, 4 + 3 + 4
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256 of {}
    assert context.details["judge"] == dict(dir=str(tmp_path.resolve()), step=7, config=digest)
    assert (
        found["gen_bits_per_byte"][0] == pytest.approx(nats / math.log(2) / size)
        and found["gen_bits_per_byte"][1] > 0
    )
    assert found["gen_ppl"][0] == pytest.approx(math.exp(nats / tokens)) and found["entropy"][0] > 0
    assert found["real_bits_per_byte"] == (pytest.approx(8 / math.log(2) / 4), pytest.approx(0)), (
        "cut where samples are"
    )
    context.held_out_documents, context.fill = ["abcdefg"] * 3, lambda n, hole: "abcdefg"
    assert scores(GenPPL(judge="there", num=3), context)["gen_ppl"] == (
        pytest.approx(math.exp(2)),
        pytest.approx(0),
    ), "the judge reads 5"
    with pytest.raises(UserError, match="a judge is missing: --evals.gen_ppl.judge=RUN"):
        scores(GenPPL(), context)
    judge.objective.claims = "bound"
    with pytest.raises(UserError, match="judge=there is no autoregressive run"):
        scores(GenPPL(judge="there"), context)


def test_the_judge_reads_what_was_drawn_whatever_bytes_it_is_of():
    """Random bytes, a mask that was left and a bos; under the same tokenizer and another; cut where the judge ends."""
    own, r = Asked().tokenizer, np.random.default_rng(0)
    other = BPE(size=300).fit(["the cat sat on the mat. " * 9])
    drawn = [r.integers(0, 256, n) for n in (20, 7, 12)]
    drawn[1] = np.append(drawn[1], [own.eos, 65])  # what comes after the end is not read

    def price(tokens):
        return 1 + tokens / 100

    nats, size, tokens, cut, lost, of = judged(judge_of(own, price, 32), drawn, own).sum(0)
    assert nats == pytest.approx(sum(price(ids).sum() for ids in drawn) - price(65), rel=1e-6) and (
        size,
        tokens,
    ) == (39, 40)
    assert (cut, lost, of) == (0, 0, 39)
    rows_N6 = judged(judge_of(other, price, 32), drawn, own)
    assert rows_N6[:, 1].tolist() == [20, 7, 12] and not rows_N6[:, 3:5].any()
    told = [
        other.encode_bytes(bytes(ids[:n].tolist()))
        for ids, n in zip(drawn, (20, 7, 12), strict=True)
    ]
    told[1] = np.append(told[1], other.eos)
    assert rows_N6[:, 0] == pytest.approx([price(ids).sum() for ids in told])
    back = judged(judge_of(own, price, 32), [other.encode_bytes(bytes(range(30)))], other)[0]
    assert back[:3].tolist() == [pytest.approx(price(np.arange(30)).sum()), 30, 30]
    odd = [np.array([65, own.mask, own.bos, 66, own.eos])]
    for judge in (own, other):
        assert judged(judge_of(judge, price, 2), odd, own)[0, 1:].tolist() == [2, 2, 0, 2, 4]
        assert judged(judge_of(judge, price, 5), drawn[:1], own)[0, [1, 3]].sum() == 20
    assert judged(judge_of(own, price, 5), drawn[:1], own)[0, 1:4].tolist() == [5, 5, 15]
    wide = ByteTokenizer(closing(270))  # the same ids of bytes, and some that this judge has not
    assert judged(judge_of(own, price, 5), [np.array([65, 261, wide.eos])], wide)[
        0, 1:
    ].tolist() == [1, 2, 0, 1, 2]
    found = {
        name: value
        for name, value, _ in perplexity("x", judge_of(own, price, 5), [drawn[0], odd[0]], own)
    }
    assert found["x_cut"] == 15 / 22 and found["x_lost"] == 2 / 24 and found["x_ppl"] > 1


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
def test_infilling_compares_the_hole_alone_and_a_causal_model_gets_the_left_side(visibility):
    documents = ["abcdefghijklmnop", "too short", "ABCDEFGHIJKLMNOP"]
    context = Asked(documents, visibility=visibility, fill=lambda n, hole: ["fghx", "FGHI"][n])
    found = scores(Infill(num=2, length=14, hole=4, temperature=0.5), context)
    assert found == dict(token_accuracy=(0.875, 0.125), exact_match=(0.5, 0.5))
    (templates, changes), encode = context.asked[0], context.tokenizer.encode
    left, hole, *right = templates[0]
    assert (
        changes == dict(temperature=0.5)
        and hole == 4
        and (left == encode("abcde")).all()
        and len(right) == visibility.infills
    )
    assert not right or (right[0] == encode("jklmn")).all()
    with pytest.raises(UserError, match="only 0 held-out document.s. have 17 tokens"):
        scores(Infill(length=17), context)


def test_answers_are_graded_up_to_their_end_and_no_problem_was_trained_on():
    task = Brackets(depth=3, opened=4)
    asked = problems.held_out(task, 4)
    eos = Asked().tokenizer.eos
    answers = [asked[0].answer.ljust(3), asked[1].answer + ")", asked[2].answer, "no"]

    def fill(n, hole):
        assert hole == task.longest + 1
        return np.append(Asked().tokenizer.encode(answers[n]), [eos, 65])[:hole]

    context = Asked(fill=fill)
    found = scores(Tasks(task=task, num=4), context)
    assert (context.details["trials"], context.details["task"]["rows"]) == (4, 4)
    told = [context.details["task"]["sha256"]]
    for other in (Brackets(depth=2, opened=4), task):
        again = Asked(fill=lambda n, hole: "x" * hole)
        scores(Tasks(task=other, num=4), again)
        told.append(again.details["task"]["sha256"])
    assert told[0] != told[1] and told[0] == told[2], "a task is known by what it asks"
    assert found["brackets_accuracy"][0] == 0.5 and 0 < found["brackets_accuracy"][1] < 0.5
    assert [t[0] for t in context.asked[0][0]] == [p.prompt for p in asked] and context.asked[0][
        1
    ] == dict(temperature=0.0)
    source = problems.Problems(task=task, count=500)
    trained = {text.partition("=")[0] for text in source.documents("train")}
    assert not trained & {p.prompt[:-1] for p in problems.held_out(task, 20)} and len(trained) > 100
    assert problems.document(task, asked[0]) in source.documents("held_out")
    assert {len(text.partition("=")[2]) for text in source.documents("train")} == {3}, (
        "the room tells nothing of the answer"
    )


def test_an_answer_begins_where_its_prompt_ends_however_that_is_told(monkeypatch):
    """A published tokenizer may put a space in front of a prompt."""
    task = Brackets(depth=3, opened=4)
    asked = problems.held_out(task, 2)
    context = Asked()
    context.fill = lambda n, hole: np.append(
        context.tokenizer.encode(asked[n].answer), context.tokenizer.eos
    )
    monkeypatch.setattr(
        context.tokenizer, "encode_prompt", lambda text: context.tokenizer.encode(" " + text)
    )
    assert scores(Tasks(task=task, num=2), context)["brackets_accuracy"][0] == 1


def test_what_a_tokenizer_joins_is_not_asked_apart():
    for task, ask in [(Brackets(depth=3, opened=4), "prompt"), (Sudoku(holes=0.25), "fill")]:
        texts = [
            p.answer if ask == "fill" else problems.document(task, p)
            for p in map(task.__getitem__, range(50))
        ]
        context = Asked()
        context.tokenizer = BPE(size=400).fit(texts * 4)
        with pytest.raises(
            UserError, match=f"evals.tasks.ask='{ask}': this run's tokenizer joins what is given"
        ):
            scores(Tasks(task=task, num=20, ask=ask), context)
    assert scores(Tasks(task=Sudoku(holes=0.25), num=2), context), (
        "digits do not go with the sign that ends the prompt"
    )
    context.tokenizer.encode = lambda text: np.array({"1": [1], "1234": [1, 234]}[text])
    with pytest.raises(UserError, match="joins what is given"):
        Tasks(task=Sudoku(), ask="fill")._check_borders(context.tokenizer, Problem("1...=", "1234"))


def test_a_puzzle_is_filled_in_around_its_givens_in_every_order_and_number_of_steps_that_is_asked():
    task = Sudoku(holes=0.25)
    puzzles = problems.held_out(task, 3)
    solved = [[p.answer[n] for n, c in enumerate(p.prompt) if c == "."] for p in puzzles]
    wrong = {1}  # of the three
    made = Asked()

    def fill(n, hole):
        return "".join(solved[n].pop(0) for _ in range(hole)) if n not in wrong else "1" * hole

    made.fill = fill
    found = scores(Tasks(task=task, num=3, ask="fill"), made)
    assert found == {"sudoku_accuracy": (pytest.approx(2 / 3), pytest.approx(1 / 3))}
    for template, puzzle in zip(made.asked[0][0], puzzles, strict=True):
        *parts, eos = template
        assert tuple(parts) == task.template(puzzle) and eos.tolist() == [made.tokenizer.eos]

    made = Asked(fill=lambda n, hole: "1" * hole)
    found = scores(
        Tasks(
            task=task, num=3, ask="fill", orders=("random", "left_to_right", "margin"), steps=(2, 8)
        ),
        made,
    )
    assert list(found) == [
        f"sudoku_accuracy_{order}_{steps}"
        for order in ("random", "left_to_right", "margin")
        for steps in (2, 8)
    ]
    assert [(c["rule"], c["steps"]) for _, c in made.asked] == [
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
    asked = evaluate.Call("held_out", dict, dict(tasks=Passes()), "", read={}, sampler={}, noise={})
    assert [
        (r["name"], r["nfe"]) for r in evaluate.scored(context, 7, "tasks", Passes(), asked)
    ] == [("at_2", 2), ("at_16", 16)]


def test_every_evaluator_says_what_its_errors_are_over():
    """What the seeds share is not seen in their spread (`core.intervals.shared`), so that whoever adds an evaluator must say it."""
    stems = [
        path.stem
        for path in Path(evals.__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "base")
    ]
    made = {
        stem: exposed(importlib.import_module(f"dlm.evals.{stem}").__name__)[0] for stem in stems
    }
    told = {stem: evaluator.over for stem, evaluator in made.items()}
    assert {stem for stem, over in told.items() if shared(over, [0, 1])} == set(stems) - {
        "bound",
        "exact",
        "samples",
        "gen_ppl",
    }
    assert {stem for stem, evaluator in made.items() if not getattr(evaluator, "reads", True)} == {
        "samples",
        "tasks",
        "harness",
    }


def test_grids_of_held_out_puzzles_are_trained_on_in_no_form():
    task = Sudoku()
    asked = {p.answer for p in problems.held_out(task, 40)}
    whole = problems.Problems(task=task, count=900)
    answers = problems.Problems(task=task, count=900, form="answer")
    assert not asked & {
        text.partition("=")[2] for text in whole.documents("train")
    } and not asked & set(answers.documents("train"))
    assert asked <= set(answers.documents("held_out")) and {
        len(text) for text in answers.documents("train")
    } == {16}


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
    for make, unfit in [(Tasks, fill), (problems.Problems, dict(task=Brackets(), form="answer"))]:
        with pytest.raises(ValueError, match="needs a task whose prompt is a part of the answer"):
            make(**unfit)
    with pytest.raises(UserError, match="none of 1 problems is in the split"):
        [
            problems.Problems(task=Brackets(), count=1).documents(split)
            for split in ("train", "held_out")
        ]
    with pytest.raises(UserError, match="has only . held-out problems"):
        problems.held_out(Brackets(depth=1, opened=1), 9)
