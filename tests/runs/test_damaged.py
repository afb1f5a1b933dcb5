"""Damaged files of a run directory: every reader reports them in one line and changes nothing."""

import json

import pytest

from dlm import report
from dlm.app import cli
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import GOOD, runs
from dlm.runs import directory
from tests import tiny
from tests.reports.conftest import write


@pytest.mark.slow
def test_a_damaged_run_is_read_or_refused_in_one_line(tmp_path):
    assert not [
        (done, outcome)
        for done, outcome in runs.cases(0, 8, tmp_path)
        if outcome not in GOOD
    ]


@pytest.mark.slow
def test_a_fault_is_told_from_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.groups, "grouped", lambda records: 1 / 0)
    assert any(
        "report: traceback: ZeroDivisionError" in outcome
        for _, outcome in runs.cases(0, 3, tmp_path / "a")
    )
    monkeypatch.undo()
    monkeypatch.setattr(
        runs.directory,
        "belongs",
        lambda workdir, run: (workdir / "lost").write_text("x"),
    )
    assert any(
        "reading changed lost" in outcome
        for _, outcome in runs.cases(0, 3, tmp_path / "b")
    )


WRONG = {
    "config.json": (
        "[" * 3000,
        "3",
        '{"data": 3}',
        '{"evals": {"bound": NaN}}',
        '{"objective": {"name": 3}}',
        "\xff",
    ),
    "environment.json": (
        "3",
        '{"parameters": {}}',
        '{"parameters": ' + "9" * 400 + "}",
        '{"devices": "x"}',
    ),
    "metrics.jsonl": ("null\n", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, text",
    [(name, text) for name, texts in WRONG.items() for text in texts],
    ids=lambda x: x[:30],
)
def test_a_run_that_cannot_be_read_is_named_and_does_not_take_the_others_with_it(
    name, text, tmp_path, capsys
):
    write(tmp_path / "good", "masked", 3.0, 0.01, "bound")
    bad = write(tmp_path / "bad", "ar", 2.0, 0.0, "exact")
    (bad / name).write_text(text, encoding="latin-1")
    with pytest.raises(SystemExit) as exit:
        cli.main(report.main, [str(bad)])
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert (
        exit.value.code == 2
        and out == ""
        and last.startswith("error: ")
        and str(bad) in last
        and "Traceback" not in err
    )
    for paths in ([str(tmp_path / "good"), str(bad)], [str(tmp_path)]):
        if paths == [str(tmp_path)] and name == "metrics.jsonl":
            continue  # a run without a row has not begun: in a folder nothing is said of it
        with pytest.raises(SystemExit) as exit:
            cli.main(report.main, [*paths, "--json"])
        out, err = capsys.readouterr()
        models = {
            row["model"] for row in json.loads(out, parse_constant=pytest.fail)["rows"]
        }
        assert exit.value.code == 0 and "ar" not in models and f"left out: {bad}" in err


def test_a_prompt_that_is_a_line_break_is_told_in_one_line(tmp_path, corpus):
    run, other = (
        build_run(tiny.recipe(corpus, data__prompt=prompt)) for prompt in (" ", "\n")
    )
    directory.write_config(tmp_path, run)
    with pytest.raises(UserError, match=r"data.prompt:   → '\\n'\): choose") as error:
        directory.belongs(tmp_path, other)
    assert str(error.value).isprintable()
