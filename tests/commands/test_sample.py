"""What `sample` asks the model for, and what it says of it; no network but in the last test."""

import argparse
import json
import shutil
import types

import numpy as np
import pytest

from dlm import sample
from dlm.app import cli
from dlm.core.errors import UserError
from dlm.evals.tasks import Tasks
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers.requests import Request, as_row
from dlm.tasks.sudoku import Sudoku
from dlm.text.bytes import Bytes, ByteTokenizer

LENGTH = 32


def experiment(adds_bos=None, mask=None):
    run, tokenizer = (
        types.SimpleNamespace(data=types.SimpleNamespace(length=LENGTH)),
        Bytes().fit(()),
    )
    tokenizer.adds_bos = adds_bos
    return types.SimpleNamespace(
        tokenizer=tokenizer,
        run=run,
        objective=types.SimpleNamespace(visibility=mask or Full()),
    )


def request_parts(adds_bos=None, mask=None, **fields):
    args = (
        dict(
            prompt="", chat=None, infill=None, length=None, cut=False, workdir="nowhere"
        )
        | fields
    )
    return sample.request(argparse.Namespace(**args), experiment(adds_bos, mask)).parts


LONG = "".join(map(chr, range(65, 65 + 40)))  # 40 bytes


@pytest.mark.parametrize(
    "fields, prompt, tokens, messages",
    [
        (dict(), "", LENGTH, []),
        (dict(prompt="ab"), "ab", LENGTH - 2, []),
        (dict(prompt="ab", length=30), "ab", 30, []),
        (
            dict(prompt="ab", length=31),
            "ab",
            31,
            ["33 tokens, 1 more than in training", "--cut"],
        ),
        (dict(length=40), "", 40, ["40 tokens, 8 more than in training"]),
        (dict(prompt=LONG), LONG, 1, ["41 tokens, 9 more", "the first 32", "--cut"]),
        (
            dict(prompt=LONG, cut=True),
            LONG[-16:],
            16,
            ["24 of the prompt's 40 tokens from its left; 16 are written"],
        ),
        (dict(prompt=LONG, cut=True, length=4), LONG[-28:], 4, ["12 of the prompt"]),
        (
            dict(prompt=LONG, cut=True, length=20),
            LONG[-16:],
            16,
            ["24 of the prompt", "16 are written"],
        ),
        (dict(prompt="ab", cut=True), "ab", LENGTH - 2, []),
        (
            dict(prompt="ab<|eos|>", length=2),
            "ab<|eos|>",
            2,
            ["<|eos|>: text here, not special tokens", "--chat=FILE"],
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_or_cut(fields, prompt, tokens, messages, capsys):
    *front, room = request_parts(**fields)
    spelled = "".join(
        p if isinstance(p, str) else Bytes().fit(()).decode(p) for p in front
    )
    said = capsys.readouterr().err
    assert (
        (spelled, room) == (prompt, tokens)
        and all(words in said for words in messages)
        and bool(said) == bool(messages)
    )
    assert ("--cut" in said) == ("--cut" in messages), (
        "there must be a prompt that can be cut"
    )


def test_a_prompt_is_cut_in_the_ids_that_it_is_told_in(monkeypatch, capsys):
    """Those of a published tokenizer may have a space in front."""
    monkeypatch.setattr(
        ByteTokenizer, "encode_prompt", lambda self, text: self.encode(" " + text)
    )
    front, room = request_parts(prompt="x" * 40, cut=True, length=4)
    assert (
        len(front) == 28
        and room == 4
        and "13 of the prompt's 41 tokens" in capsys.readouterr().err
    )


@pytest.mark.parametrize("mask", [Full(), Causal()], ids=["full", "causal"])
@pytest.mark.parametrize("adds_bos", [None, False, True])
@pytest.mark.parametrize("length", [None, 3, 30, 40])
def test_what_is_cut_fits_with_what_stands_before_it(mask, adds_bos, length, capsys):
    for prompt in (LONG, LONG[: LENGTH - 1], LONG[:LENGTH], "A"):
        ids, room = request_parts(
            adds_bos, mask, prompt=prompt, cut=True, length=length
        )
        row = len(
            as_row(Request((ids, room)), experiment(adds_bos).tokenizer, mask).ids
        )
        assert (
            row <= LENGTH
            and (row == LENGTH or len(ids) == len(prompt))
            and LONG[: len(prompt)].endswith(bytes(ids.tolist()).decode())
        )
        assert (
            room >= min(length or LENGTH // 2, LENGTH // 2)
            or length is None
            and room == LENGTH - row + room
        )
    assert "more than in training" not in capsys.readouterr().err
    assert row == sample.positions(experiment(adds_bos, mask), (ids, room))


def test_holes_beyond_the_training_length_are_told(capsys):
    assert request_parts(infill="a ___ b\\n___", length=20) == ("a ", 20, " b\n", 20)
    assert (
        "45 tokens, 13 more than in training" in (said := capsys.readouterr().err)
        and "--cut" not in said
    )
    assert (
        request_parts(infill="<|mask|>___") == ("<|mask|>", 8)
        and "<|mask|>: text here" in capsys.readouterr().err
    )


def test_a_chat_s_messages_are_text(tmp_path, capsys):
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|eos|>{% endfor %}{{ end }}"
    )
    file = tmp_path / "chat.json"
    file.write_text(
        json.dumps(
            dict(messages=[dict(role="tool", content="ok<|eos|><|mask|>")], end=">")
        )
    )
    ids, room = request_parts(chat=str(file), workdir=str(tmp_path))
    assert ids.tolist() == [
        *b"ok<|eos|><|mask|>",
        256,
        ord(">"),
    ] and room == LENGTH - len(ids)
    assert (
        "spells 2 special tokens, which are text: <|eos|>, <|mask|>"
        in capsys.readouterr().err
    )
    file.write_text("[" + json.dumps(dict(role="user", content="hé")) + "]")
    assert (
        request_parts(chat=str(file), workdir=str(tmp_path))[0].tolist()
        == [*"hé".encode(), 256]
        and not capsys.readouterr().err
    )


def test_mistakes_of_a_chat(tmp_path):
    file = tmp_path / "chat.json"
    for text, messages in [
        ("[", "cannot be read"),
        ('{"messages": [], "names": 1}', "'names' is none of messages"),
        ("[3]", "a chat is a list"),
    ]:
        file.write_text(text)
        (tmp_path / "chat_template.jinja").write_text("x")
        with pytest.raises(UserError, match=messages) as error:
            request_parts(chat=str(file), workdir=str(tmp_path))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        request_parts(chat=str(tmp_path / "none.json"))
    (tmp_path / "chat_template.jinja").unlink()
    file.write_text('[{"role": "user", "content": "a"}]')
    with pytest.raises(UserError, match="has no chat template"):
        request_parts(chat=str(file), workdir=str(tmp_path))
    for flags in (["--prompt=a", "--chat=b"], ["--infill=a___", "--cut"]):
        with pytest.raises(UserError, match="exclude each other|--cut is for"):
            sample.main([f"--workdir={tmp_path}", *flags])


@pytest.mark.slow
def test_a_chat_goes_through_the_run_s_template(trained, tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "chat.json"
    shutil.copytree(trained("masked"), run)
    (run / "chat_template.jinja").write_text(
        "{{ tools[0] }}{% for m in messages %}"
        "{{ m.role[0] }}:{{ m.content }}<|eos|>{% endfor %}{{ end }}"
    )
    file.write_text(
        json.dumps(
            dict(messages=[dict(role="user", content="hé")], tools=["T"], end="a:")
        )
    )
    with pytest.raises(SystemExit):
        cli.main(
            sample.main,
            [f"--workdir={run}", f"--chat={file}", "--num=1", "--length=4", "--json"],
        )
    (one,) = json.loads(capsys.readouterr().out)["samples"]
    assert (
        one["kind"] == "chat"
        and one["pieces"][0] == ["Tu:héa:", True]
        and len(one["pieces"]) == 2
    )
    ids = Bytes().fit(()).encode_marked("Tu:hé<|eos|>a:")
    assert np.flatnonzero(ids == 256).tolist() == [6]


def test_problems_are_those_of_the_run_and_graded():
    """Of both forms: continued after the puzzle, and filled in around the given cells."""
    one, tokenizer = experiment(), Bytes().fit(())
    args = argparse.Namespace(problems=2, workdir="nowhere")
    one.run.evals = {}
    with pytest.raises(UserError, match="the config of nowhere has no evals.tasks"):
        sample.held_out_problems(args, one)
    for ask in ("prompt", "fill"):
        one.run.evals = dict(tasks=Tasks(Sudoku(), ask=ask))
        tasks, problems = sample.held_out_problems(args, one)
        first = problems[0]
        assert len(problems) == 2 and first.prompt != problems[1].prompt
        for answer, solved in [(first.answer, True), (first.answer[::-1], False)]:
            text = answer if ask == "fill" else first.prompt + answer
            reply = types.SimpleNamespace(text=text, ids=tokenizer.encode(text))
            assert tasks.solves(first, reply, tokenizer) == solved
    assert sample.held_out_problems(argparse.Namespace(problems=None), one) == (
        None,
        [],
    )
