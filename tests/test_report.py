"""`dlm.report`: what goes to stdout, what into the files, and a mistake in one line."""

import json
import subprocess
import sys

import pytest

from dlm import report
from dlm.app import cli
from tests.reports.conftest import write


@pytest.fixture
def runs(tmp_path):
    return [
        str(write(tmp_path / "masked", "masked", 3.0, 0.01, "bound")),
        str(write(tmp_path / "ar", "ar", 2.0, 0.0, "exact")),
    ]


def test_prints_the_table_and_samples_and_writes_both_files(runs, tmp_path, capsys):
    report.main([*runs, f"--out={tmp_path / 'a' / 'b'}"])
    out, err = capsys.readouterr()
    assert (
        "3.000 ± 0.020" in out
        and "  │ def f<b>(x):\n" in out
        and "ar cannot infill" in out
        and "\x1b" not in out
        and err == ""
    )
    assert (tmp_path / "a/b/report.html").stat().st_size > 4000 and (
        tmp_path / "a/b/results.csv"
    ).read_text().count("\n") == 3


def test_json_is_one_object(runs, capsys):
    report.main([*runs, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert [row["bits_per_byte"] for row in answer["rows"]] == [3.0, 2.0, 2.7] and len(
        answer["samples"]["ar"]
    ) == 3
    assert answer["report"] == f"{runs[0]}/report.html"


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "RUNDIR"),
        (["nowhere"], "no run directory nowhere"),
        (["x", "--ot=y"], "--ot=y"),
    ],
)
def test_a_mistake_is_one_line(argv, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(report.main, argv)
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1
    )


def test_starts_without_jax():
    code = (
        "import sys, dlm.report; sys.exit(' '.join({'jax', 'orbax', 'grain'} & "
        "set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        ).stderr.strip()
        == ""
    )
