"""`dlm.bench`: benches join by their files, mistakes are one line, and measuring takes turns."""

import json
import subprocess
import sys

import pytest

from dlm import bench, benches
from dlm.app import cli


@pytest.mark.parametrize(
    "argv, said",
    [
        (["trian"], "did you mean 'train'"),
        (["__init__"], "no bench '__init__'"),
        (["train", "--repeat=3"], "did you mean '--repeats'"),
        (["train", "--repeats=0"], "--repeats=0"),
        (["train", "--config=nowhere.py"], "no recipe nowhere.py"),
        (["startup", "--config=nowhere.py"], "no recipe nowhere.py"),
        (["restore", "--millions=0"], "--millions and --repeats must be at least 1"),
        (["resume", "--kills=-1"], "--kills and --terms must not be negative"),
        (["fuzz", "--cases=0"], "--cases=0"),
        (["fuzz", "--of=confgs"], "did you mean 'configs'"),
    ],
)
def test_a_mistake_is_one_line(argv, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(bench.main, argv)
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1
    )


def test_help_lists_the_benches_and_nothing_imports_jax():
    code = "import sys; from dlm import bench; import dlm.benches.train, dlm.benches.startup; "
    code += "bench.main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code + "; sys.exit('jax' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 0
        and "\n  startup " in done.stdout
        and "\n  train " in done.stdout
    )


@pytest.mark.slow
def test_restoring_is_measured_on_a_state_of_that_size(capsys):
    bench.main(["restore", "--millions=1", "--repeats=1", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert (
        11e6 < results["bytes"] < 13e6
        and results["ratio"]["median"]
        == results["verify"]["median"] / results["restore"]["median"]
    )


def test_parts_take_turns_and_the_first_round_does_not_count():
    calls = []

    def part(name):
        return lambda: calls.append(name) or len(calls)

    assert benches.in_turns(dict(a=part("a"), b=part("b")), 2) == dict(
        a=[3, 5], b=[4, 6]
    )
    assert "".join(calls) == "ababab"


def test_a_ratio_is_taken_within_rounds():
    assert benches.ratio([1.0, 20.0, 300.0], [1.0, 10.0, 100.0]) == dict(
        median=2.0, min=1.0, max=3.0
    )
    spread = dict(median=2.0, min=1.0, max=3.0)
    assert benches.formatted(spread, 100, 0, " %") == "200 % (100–300)"
