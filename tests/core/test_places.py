"""All flags and fields that name a file or a folder have one type, and so have all seeds."""

import dataclasses
import importlib
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import dlm
from dlm import bench, convert, report
from dlm.app import cli
from dlm.core.builder import build_field
from dlm.core.config import to_json
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed
from dlm.core.run import Run, build_run
from dlm.runs import directory
from tests import tiny
from tests.test_fields import reachable

ROOT = Path(dlm.__file__).parents[1]
COMMANDS = sorted(p.stem for p in (ROOT / "dlm").glob("*.py") if p.stem != "__init__")
MODULES = [f"dlm.{name}" for name in COMMANDS if name not in ("bench", "report")]
MODULES += [*bench.modules().values()] + ["launch.preflight"]
TEXTS = {  # flags that are words, not names of files
    *(
        "architecture",
        "blocks",
        "evals",
        "harness",
        "infill",
        "metric",
        "of",
        "only",
        "platform",
        "prompt",
        "refresh",
        "rules",
        "steps",
    ),
    *(
        "dtype",
        "objective",
        "peer",
        "print",
        "topology",
        "worlds",
        "harness_limit",
        "harness_fewshot",
        "harness_samples",
        "ignore",
    ),
}
WORDS = {  # fields that are words
    *(
        "Loader.marked_characters",
        "Loader.prompt",
        "Local.field",
        "Tfds.dataset",
        "Tfds.field",
        "Tfds.train",
        "Tfds.held_out",
    ),
    *("ModelConfig.heads", "MeshConfig.platform", "Harness.tasks"),
}


def flags():
    return [
        (name, flag) for name in MODULES for flag in importlib.import_module(name).FLAGS
    ]


def fields():
    """(class, field, its types) of every config field; of a tuple the types of its parts."""
    for cls in reachable(Run):
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            inner = [
                hints[f.name],
                *(
                    a
                    for h in (hints[f.name], *typing.get_args(hints[f.name]))
                    for a in typing.get_args(h)
                ),
            ]
            yield cls, f, {hint for hint in inner if isinstance(hint, type)}


def test_every_flag_and_field_that_is_no_word_is_a_place():
    assert {flag.name for _, flag in flags() if flag.type is str} <= TEXTS
    assert {
        f"{cls.__name__}.{f.name}" for cls, f, types in fields() if str in types
    } <= WORDS


def test_every_seed_is_a_seed():
    assert all(flag.type is Seed for _, flag in flags() if flag.name == "seed")
    assert all(Seed in types for _, f, types in fields() if f.name == "seed")


WRONG = {
    "": "is missing: name a file or folder",
    "a\nb": "without line breaks",
    "\udcff": "must be UTF-8",
    "~nobody_of_that_name/x": "there is no such home: write ./~nobody_of_that_name/x",
}


@pytest.mark.parametrize(
    "module, flag",
    [row for row in flags() if row[1].type is Place],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_flag_that_is_a_place(module, flag, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    one_flag = [dataclasses.replace(flag, required=False)]
    assert (
        getattr(cli.parse("", one_flag, [f"--{flag.name}=~/x"])[0], flag.name)
        == "/somewhere/x"
    )
    for text, said in WRONG.items():
        if text != flag.default:
            with pytest.raises(
                UserError,
                match="is no UTF-8" if text == "\udcff" else f"^--{flag.name} .*{said}",
            ):
                cli.parse("", one_flag, [f"--{flag.name}={text}"])


@pytest.mark.parametrize(
    "cls, f",
    [row[:2] for row in fields() if Place in row[2]],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_field_that_is_a_place(cls, f, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    value = build_field("~/x", f, typing.get_type_hints(cls)[f.name], "f", None)
    assert (
        value == ("/somewhere/x",)
        if isinstance(value, tuple)
        else value == "/somewhere/x"
    )
    for text, said in WRONG.items():
        if text != f.default:
            with pytest.raises(UserError, match=rf"^config.f(\[0\])? .*{said}"):
                build_field(text, f, typing.get_type_hints(cls)[f.name], "f", None)


@pytest.mark.parametrize(
    "argv", [["~/x"], ["y", "--out=~/x"], ["y", "--into=~/x"]], ids=str
)
def test_what_report_and_convert_are_given(argv, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments_of = {}
    monkeypatch.setattr(report, "report", lambda args: arguments_of.update(vars(args)))
    report.main(argv)
    assert str(tmp_path / "x") in (
        arguments_of["runs"][0],
        arguments_of["out"],
        arguments_of["into"],
    )
    with pytest.raises(UserError, match=f"no folder {tmp_path}/x"):
        convert.main(["from_hf", "~/x", f"--workdir={tmp_path / 'w'}"])


def test_training_at_home_makes_no_folder_called_tilde(tmp_path, monkeypatch, corpus):
    from dlm import train

    calls = []
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        train, "train", lambda run, workdir, accept: calls.append(workdir)
    )
    (tmp_path / "r.py").write_text(f"get_config = lambda: {tiny.recipe(corpus)!r}\n")
    train.main([f"--config={tmp_path / 'r.py'}", "--workdir=~/runs/x"])
    assert calls == [tmp_path / "home" / "runs" / "x"] and not (tmp_path / "~").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 99999999999999])
def test_a_seed_of_more_than_32_bits_is_refused(seed, corpus, tmp_path):
    for _, flag in flags():
        if flag.name == "seed":
            with pytest.raises(
                UserError, match=f"--seed must be in 0 … 4294967295, not {seed}"
            ):
                cli.parse("", [flag], [f"--seed={seed}"])
    with pytest.raises(
        UserError, match=f"config.seed must be in 0 … 4294967295, not {seed}"
    ):
        build_run(tiny.recipe(corpus, seed=seed))
    assert build_run(tiny.recipe(corpus, seed=2**32 - 1)).seed == 2**32 - 1


def test_an_old_run_of_such_a_seed_is_read_as_the_seed_that_it_was(
    corpus, tmp_path, capsys
):
    (tmp_path / "config.json").write_text(to_json(tiny.recipe(corpus, seed=-1)))
    assert directory.run_of(tmp_path).seed == 2**32 - 1
    assert "seed=-1 gave the draws of 4294967295" in capsys.readouterr().err


@pytest.mark.slow
def test_every_command_runs_without_docstrings():
    code = """import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name).main(['--help'])
    except SystemExit:
        pass"""
    names = [f"dlm.{name}" for name in COMMANDS] + [
        name for name in MODULES if "benches" in name or "drills" in name
    ]
    reply = subprocess.run(
        [sys.executable, "-OO", "-c", code, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert reply.returncode == 0 and reply.stdout.count("--help") >= len(names) - 1, (
        reply.stderr
    )
