"""Errors that a recipe raises: every command reports them in one line with their place."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from dlm import report, sweep, train
from dlm.app import cli, experiment
from dlm.core import recipe
from dlm.core.config import load_recipe, to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import GOOD
from dlm.drills.fuzzed import recipes as fuzzed
from dlm.drills.fuzzed.configs import recipes as shipped
from dlm.machine import interrupts
from dlm.sweeps import grid
from tests import tiny
from tests.reports.conftest import write

ROOT = Path(__file__).parents[2]
HEAD = (
    '"""A recipe.\n\n=== results of RECIPE, none yet ===\n=== end of results ===\n"""\n'
)
BODY = """def get_config(arg=None):
    return CONFIG
def sweep():
    from dlm.sweeps.grid import over
    return over('seed', 1)
"""
BROKEN = {  # what precedes BODY, and what is said of it
    "pair = [1 2]\n": "line 6: SyntaxError: invalid syntax. Perhaps you forgot a comma?",
    'raise ValueError("boom\\nand more")\n': "line 6: ValueError: boom",
    "import not_there\n": "line 6: ModuleNotFoundError: No module named 'not_there'",
    "import sys\nsys.exit(0)\n": "line 7: SystemExit: 0",
    "def f():\n    1 / 0\nf()\n": "line 7: ZeroDivisionError: division by zero",
}
WHOLE = {
    "from helper import CONFIG\n": BODY,  # a neighbour
    "": BODY.replace("arg=None", ""),
}


def reply(capsys, command, *arguments):
    """(exit code, stdout, stderr) of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main(command.main, [*map(str, arguments)])
    return exit.value.code, *capsys.readouterr()


@pytest.fixture
def commands(tmp_path, corpus):
    """commands(text) → the command lines that read this recipe."""
    run = write(tmp_path / "run", "masked", 3.0, 0.01, "bound")

    def written(text):
        config, path = tiny.recipe(corpus), tmp_path / "r.py"
        (tmp_path / "helper.py").write_text(f"CONFIG = {config!r}\n")
        path.write_text(
            HEAD.replace("RECIPE", str(path))
            + text.replace(
                "return CONFIG",
                f"return {config!r}" if "helper" not in text else "return CONFIG",
            )
        )
        return [
            (train, f"--config={path}", "--dry_run", "--json"),
            (sweep, f"--config={path}", "--dry_run", "--json"),
            (report, run, f"--into={path}"),
        ]

    return written


@pytest.mark.parametrize("head", BROKEN, ids=lambda head: head.split("\n")[0])
def test_what_a_recipe_raises_is_a_mistake_in_it(head, commands, tmp_path, capsys):
    rules = yaml.safe_load((ROOT / "launch" / "k8s-jobset.yaml").read_text())["spec"][
        "replicatedJobs"
    ][0]["template"]["spec"]
    final = rules["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    for command, *arguments in commands(head + BODY):
        code, out, err = reply(capsys, command, *arguments)
        first, *below = err.splitlines()
        assert code in final and code not in (1, interrupts.EXIT) and out == "", (
            "a JobSet must not start it again"
        )
        assert first == f"error: {tmp_path / 'r.py'}, {BROKEN[head]}" and len(
            below
        ) == (2 if "def f" in head else 0), err


@pytest.mark.parametrize("head", WHOLE, ids=["neighbour", "no parameter"])
def test_a_recipe_may_import_its_neighbour_and_take_no_argument(
    head, commands, tmp_path, capsys
):
    for command, *arguments in commands(head + WHOLE[head])[:2]:
        assert reply(capsys, command, *arguments)[0] == 0
    with pytest.raises(UserError, match="is no run of .*r.py: .*steps"):
        from dlm.reports import docstring_results, groups, record

        docstring_results.write(
            str(tmp_path / "r.py"), groups.grouped(record.read([str(tmp_path / "run")]))
        )


def test_the_user_s_own_lines_are_told_below_the_error(tmp_path, capsys):
    (tmp_path / "inner.py").write_text("def deep(x):\n    return x[0]\n")
    (tmp_path / "r.py").write_text(
        "import inner\n\n\ndef get_config():\n    return inner.deep([])\n"
    )
    code, _, err = reply(capsys, train, f"--config={tmp_path / 'r.py'}", "--dry_run")
    places = f"  {tmp_path}/r.py, line 5\n  {tmp_path}/inner.py, line 2\n"
    assert (code, err) == (
        2,
        f"error: {tmp_path}/inner.py, line 2: IndexError: list index out of range\n{places}",
    )


def test_of_a_function_that_calls_itself_for_ever_the_ends_are_told(tmp_path, capsys):
    (tmp_path / "r.py").write_text(
        "def get_config():\n    return again()\n\n\ndef again():\n    return again()\n"
    )
    code, _, err = reply(capsys, train, f"--config={tmp_path / 'r.py'}", "--dry_run")
    error, first, *others = err.splitlines()
    assert (
        code == 2
        and error.startswith(f"error: {tmp_path}/r.py, line 6: RecursionError:")
        and first == f"  {tmp_path}/r.py, line 2"
    )
    assert (
        len(others) == 10
        and others[4].endswith(" more")
        and {*others[:4], *others[5:]} == {f"  {tmp_path}/r.py, line 6"}
    )


def test_two_recipes_have_each_its_own_neighbour_and_leave_nothing_behind(
    tmp_path, monkeypatch
):
    import sys

    for n in (1, 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "neighbour_of_recipes.py").write_text(f"STEPS = {n}\n")
        (folder / "r.py").write_text(
            "from neighbour_of_recipes import STEPS\nprint('said')\nget_config = "
            "lambda: dict(steps=STEPS)\n"
        )
    before = list(sys.path)
    assert [load_recipe(str(tmp_path / n / "r.py"))["steps"] for n in "12"] == [1, 2]
    assert sys.path == before and "neighbour_of_recipes" not in sys.modules


def test_what_a_recipe_prints_is_not_an_answer_of_the_command(tmp_path, capsys):
    (tmp_path / "r.py").write_text(
        "print('hello')\nget_config = lambda: dict(steps=1)\n"
    )
    assert reply(capsys, train, f"--config={tmp_path / 'r.py'}", "--print_config")[
        1:
    ] == (
        '{\n  "steps": 1\n}\n',
        "hello\n",
    )


def test_every_shipped_recipe_has_a_sampler_that_can_draw_from_its_model():
    for config in shipped().values():
        experiment.check_sampler(build_run(config))
    with pytest.raises(
        UserError,
        match="config.sampler: a causal model decides one position in one step",
    ):
        train.describe(build_run(tiny.recipe("corpus.txt", objective="ar")))


def test_arguments_and_names(tmp_path):
    for name in ("a:b.py", "a"):
        (tmp_path / name).write_text(
            "def get_config(arg=None):\n    return dict(steps=1, start=arg)\n"
        )
    path = str(tmp_path / "a:b.py")
    assert recipe.split(path) == (str(tmp_path / "a"), "b.py"), (
        "the shortest name that is a file"
    )
    (tmp_path / "a").unlink()
    assert (
        recipe.split(path) == (path, None)
        and recipe.split(f"{path}:x:y") == (path, "x:y")
        and recipe.split("no.py:x") == ("no.py", "x")
    )
    assert (
        load_recipe(f"{path}:k=v")["start"] == "k=v"
        and load_recipe(path)["start"] is None
    )
    (tmp_path / "bare.py").write_text(
        "def get_config():\n    return dict(steps=1)\ndef sweep():\n    return None\n"
    )
    with pytest.raises(
        UserError,
        match=r"bare.py: get_config\(\) takes no argument, so 'size=tiny' behind the colon",
    ):
        load_recipe(f"{tmp_path / 'bare.py'}:size=tiny")
    with pytest.raises(
        UserError, match=r"sweep\(\) of .* must return at least one point"
    ):
        grid.load(str(tmp_path / "bare.py"))
    for value in ("None", "[]", "3"):
        (tmp_path / "bare.py").write_text(f"def get_config():\n    return {value}\n")
        with pytest.raises(
            UserError, match=r"bare.py: get_config\(\) returns a ConfigDict, not \w+$"
        ):
            load_recipe(str(tmp_path / "bare.py"))


def test_numbers_of_numpy_and_paths_are_numbers_and_texts():
    plain_config = dict(
        a=np.int64(3),
        b=np.float32(0.5),
        c=Path("x") / "y",
        d=(np.bool_(True),),
        e=np.array(2.0),
    )
    assert (
        repr(to_plain(plain_config))
        == "{'a': 3, 'b': 0.5, 'c': 'x/y', 'd': (True,), 'e': 2.0}"
    )


@pytest.mark.slow
def test_a_mutated_recipe_is_read_or_refused_in_one_line(tmp_path):
    faults = [
        (done, outcome)
        for done, outcome in fuzzed.cases(0, 40, tmp_path)
        if outcome not in GOOD
    ]
    assert not faults


def test_a_fault_is_told_from_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzed, "load_recipe", lambda target: 1 / 0)
    assert all(
        "traceback: ZeroDivisionError" in outcome
        for _, outcome in fuzzed.cases(0, 3, tmp_path)
    )
