"""Results on a read-only run directory, on a terminal limited to ASCII, and after a failure."""

import builtins
import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from dlm import evaluate, report, sample, sweep, train
from dlm.app import cli, open_run
from dlm.core import files
from dlm.core.errors import UserError
from dlm.runs import logs
from tests import tiny
from tests.reports.conftest import write


def outcome(capsys, command, *arguments):
    """(exit code, stdout, stderr) of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main(command.main, [*map(str, arguments)])
    return exit.value.code, *capsys.readouterr()


@pytest.fixture
def read_only(monkeypatch):
    """Returns read_only(folder), which makes everything below it read-only.

    File modes are not enough, since the tests may run as root.
    """
    real, access, mkdir = io.open, os.access, os.mkdir

    def forbid(folder):
        def below(path):
            return isinstance(path, (str, os.PathLike)) and Path(
                path
            ).absolute().is_relative_to(folder)

        def refuse(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        def opened(path, mode="r", *rest, **options):
            return (
                refuse(path)
                if below(path) and set(mode) & set("wax+")
                else real(path, mode, *rest, **options)
            )

        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode: (
                access(path, mode) and not (below(path) and mode & os.W_OK)
            ),
        )
        monkeypatch.setattr(
            os,
            "mkdir",
            lambda path, *rest: refuse(path) if below(path) else mkdir(path, *rest),
        )

    return forbid


def content(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def one_line(code, out, err):
    return (
        code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    )


def test_a_place_is_tried_and_left_as_it_was(tmp_path, read_only):
    (tmp_path / "there").write_text("x")
    for free in ("there", "new", "deep/er/new"):
        files.try_writing(tmp_path / free, "")
    assert content(tmp_path) == {"there": b"x"} and not (tmp_path / "deep").exists()
    for wrong in ("there/below", ".", "a" * 300):
        with pytest.raises(UserError, match="cannot be written .*: another"):
            files.try_writing(tmp_path / wrong, "another")
    read_only(tmp_path)
    for wrong in ("there", "new", "deep/er/new"):
        with pytest.raises(UserError, match="cannot be written .*: another"):
            files.try_writing(tmp_path / wrong, "another")


def test_rows_that_could_not_be_kept_are_tried_again_and_told_at_the_end(
    tmp_path, monkeypatch
):
    path, append, full = tmp_path / "rows.jsonl", logs.append, [True]

    def failing(to, rows):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left", str(to))
        append(to, rows)

    monkeypatch.setattr(logs, "append", failing)
    with (
        pytest.raises(
            UserError,
            match=r"No space left\), so that 2 row\(s\) printed above are lost: other",
        ),
        logs.Added(path, "other") as add,
    ):
        add([dict(a=1)])
        add([dict(a=2)])
    with logs.Added(path, "other") as add:
        add([dict(a=1)])
        full[0] = False
        add([dict(a=2)])
    assert [row["a"] for row in logs.rows(path)] == [1, 2] and all(
        "time" in row for row in logs.rows(path)
    )
    with pytest.raises(ZeroDivisionError), logs.Added(path, "other") as add:
        full[0] = True
        add([dict(a=3)])
        raise ZeroDivisionError


@pytest.mark.slow
def test_report_and_train_on_a_run_that_may_only_be_read(
    tmp_path, corpus, read_only, capsys
):
    run = write(tmp_path / "run", "masked", 3.0, 0.01, "bound")
    recipe = tmp_path / "r.py"
    recipe.write_text(f"get_config = lambda: {tiny.recipe(corpus)!r}\n")
    before = content(run)
    read_only(run)
    assert one_line(*(said := outcome(capsys, report, run))) and said[2].endswith(
        ": name another folder by --out=DIR\n"
    )
    assert (
        outcome(capsys, report, run, f"--out={tmp_path / 'out'}", "--json")[0] == 0
        and (tmp_path / "out" / "report.html").exists()
    )
    assert one_line(
        *outcome(capsys, train, f"--config={recipe}", f"--workdir={run / 'below'}")
    )
    assert content(run) == before


@pytest.mark.slow
def test_evaluate_and_sample_on_a_run_that_may_only_be_read(
    trained, tmp_path, read_only, monkeypatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(trained("masked"), run)
    before = content(run)
    read_only(run)
    words_by_command = {
        evaluate: ("--evals=compression",),
        sample: ("--num=1", "--length=4", "--steps=1"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(
            open_run,
            "reopen",
            lambda *_: pytest.fail(
                "computed before it was tried whether anything can be written"
            ),
        )
        for command, words in words_by_command.items():
            assert one_line(
                *(said := outcome(capsys, command, f"--workdir={run}", *words))
            )
            assert said[2].endswith(": name another file by --out=FILE\n")
        trace = ("--out=" + str(tmp_path / "x"), f"--trace={run / 'page.html'}")
        assert (
            one_line(
                *(
                    said := outcome(
                        capsys,
                        sample,
                        f"--workdir={run}",
                        *words_by_command[sample],
                        *trace,
                    )
                )
            )
            and "--trace=FILE" in said[2]
        )
    for command, words in words_by_command.items():
        code, out, err = outcome(
            capsys,
            command,
            f"--workdir={run}",
            *words,
            "--json",
            f"--out={tmp_path / 'rows.jsonl'}",
        )
        assert code == 0 and json.loads(out)["workdir"] == str(run), err
    assert [
        ("value" in row, "text" in row) for row in logs.rows(tmp_path / "rows.jsonl")
    ][-1] == (
        False,
        True,
    )
    assert content(run) == before


@pytest.mark.slow
def test_what_was_computed_is_shown_though_it_cannot_be_kept(
    trained, tmp_path, monkeypatch, capsys
):
    def failing(path, rows):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))

    monkeypatch.setattr(logs, "append", failing)
    run = trained("masked")
    code, out, err = outcome(
        capsys, evaluate, f"--workdir={run}", "--evals=compression", "--json"
    )
    assert (
        code == 2
        and json.loads(out)["scores"]
        and "Disk quota exceeded" in err.splitlines()[-1]
        and "--out=FILE" in err
    )
    code, out, err = outcome(
        capsys, evaluate, f"--workdir={run}", "--evals=compression"
    )
    assert (
        code == 2
        and "compression.gzip_bits_per_byte" in err
        and err.splitlines()[-1].startswith("error: ")
    )
    code, out, err = outcome(
        capsys,
        sample,
        f"--workdir={run}",
        "--num=1",
        "--length=4",
        "--steps=1",
        "--json",
        f"--trace={tmp_path / 'p.html'}",
    )
    assert code == 2 and json.loads(out)["samples"] and (tmp_path / "p.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [RuntimeError("ours"), UserError("the user's"), KeyboardInterrupt()],
    ids=repr,
)
def test_what_an_evaluator_found_is_kept_when_the_next_one_fails(
    error, trained, tmp_path, monkeypatch, capsys
):
    from dlm.evals.bound import HeldOut

    def failing(*_):
        raise error

    monkeypatch.setattr(HeldOut, "run", failing)
    out = tmp_path / "rows.jsonl"
    with pytest.raises((SystemExit, RuntimeError)):
        cli.main(
            evaluate.main,
            [
                f"--workdir={trained('masked')}",
                "--evals=compression,bound",
                f"--out={out}",
            ],
        )
    assert {row["eval"] for row in logs.rows(out)} == {
        "compression"
    } and "gzip_bits_per_byte" in capsys.readouterr().err


ASCII = {
    "report": (report, ["RUN"]),
    "report --json": (report, ["RUN", "--json"]),
    "sweep": (sweep, ["--config=RECIPE", "--dry_run", "--json"]),
    "sweep --print": (sweep, ["--config=RECIPE", "--print=commands", "--workdir=W"]),
    "train": (train, ["--config=RECIPE", "--print_config"]),
}


@pytest.mark.parametrize("name", ASCII)
def test_an_answer_reaches_an_ascii_stdout(name, tmp_path, corpus, monkeypatch):
    run = write(tmp_path / "r\u00fcn", "masked", 3.0, 0.01, "bound")
    logs.append(
        run / "samples.jsonl",
        [dict(kind="sample", text="\u4e2d\u6587 \u00e9", sampler={}, seed=1, nfe=2)],
    )
    recipe = tmp_path / "r\u00e9.py"
    sweeps = "def sweep():\n    from dlm.sweeps.grid import point\n"
    sweeps += "    return point('\u00e9', {'seed': 1})\n"
    config = tiny.recipe(corpus, data__source__paths=("\u00e9.txt",))
    recipe.write_text(
        f"get_config = lambda arg=None: {config!r}\n{sweeps}", encoding="utf-8"
    )
    command, words = ASCII[name]
    arguments = [
        w.replace("RUN", str(run))
        .replace("RECIPE", str(recipe))
        .replace("=W", f"={tmp_path}/w")
        for w in words
    ]
    out = answer(command, arguments, monkeypatch)
    assert "\\" in out and (not out.startswith("{") or json.loads(out))


@pytest.mark.slow
@pytest.mark.parametrize("command", [evaluate, sample], ids=["evaluate", "sample"])
def test_a_run_answers_to_an_ascii_stdout(command, trained, tmp_path, monkeypatch):
    run = tmp_path / "r\u00fcn"
    shutil.copytree(trained("masked"), run)
    words = (
        ["--evals=compression"]
        if command is evaluate
        else ["--num=1", "--length=4", "--steps=1", "--prompt=\u00e9"]
    )
    result = json.loads(
        answer(command, [f"--workdir={run}", "--json", *words], monkeypatch)
    )
    assert result["workdir"] == str(run) and all(
        "\u00e9" in s["text"] for s in result.get("samples", [])
    )


def answer(command, words, monkeypatch):
    """What a command says on a stdout that knows ASCII alone."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        patch.setattr("sys.stdout", stream)
        with pytest.raises(SystemExit) as exit:
            cli.main(command.main, words)
    assert exit.value.code == 0 and not stream.closed
    return raw.getvalue().decode("ascii")
