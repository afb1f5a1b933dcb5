"""The scripts parse, install once and report a mistake in one line; an unlisted skip fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.shell import bash

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    *sorted((ROOT / "launch").glob("*.sh")),
    ROOT / "launch" / "slurm.sbatch",
    ROOT / ".ci" / "run",
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse_and_are_linted(script):
    assert bash("-n", script).returncode == 0
    tool = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert tool, "shellcheck comes with requirements-dev.txt"
    reply = subprocess.run(
        [tool, "-x", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert reply.returncode == 0, reply.stdout


def test_installs_once_and_again_when_the_requirements_change(clone, tmp_path):
    root, env = clone
    log = tmp_path / "log"
    call = (root / "launch" / "local.sh", "show", "a b", "--c=d")
    first = bash(*call, **env)
    assert first.stdout == f"{Path.cwd()} ['a b', '--c=d']\n", first.stderr
    assert log.read_text().splitlines() == ["venv", f"{root}/requirements.txt"]
    assert bash(*call, **env).stderr == "" and len(log.read_text().splitlines()) == 2
    (root / "requirements.txt").write_text("two\n")
    assert "installing requirements.txt" in bash(*call, **env).stderr
    assert log.read_text().splitlines()[2:] == [f"{root}/requirements.txt"]


@pytest.mark.parametrize(
    "environment, printed",
    [
        ({}, "glibc.malloc.hugetlb=1"),
        (dict(GLIBC_TUNABLES=""), ""),
        (dict(GLIBC_TUNABLES="a=b"), "a=b"),
    ],
)
def test_commands_ask_for_huge_pages_unless_told_otherwise(
    clone, monkeypatch, environment, printed
):
    root, env = clone
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    (root / "dlm" / "show.py").write_text(
        '"""Shows its memory."""\nimport os\nprint(os.environ.get("GLIBC_TUNABLES"))\n'
    )
    assert (
        bash(root / "launch" / "local.sh", "show", **env, **environment).stdout
        == printed + "\n"
    )


def test_an_unknown_command_is_one_line(clone):
    root, env = clone
    reply = bash(root / "launch" / "local.sh", "shwo", **env)
    assert (
        reply.returncode == 2
        and reply.stderr == "error: no command shwo; there are: show preflight\n"
    )
    assert not (root / ".venv").exists()
    for name in ("__init__", "../dlm/show", ".", "--x=1", ""):
        assert bash(root / "launch" / "local.sh", name, **env).returncode == 2
    listed = bash(root / "launch" / "local.sh", **env).stdout
    assert (
        "show       Shows its arguments." in listed
        and "preflight  Checks the machines" in listed
    )


def test_a_python_without_venv_is_one_line(clone, tmp_path):
    root, env = clone
    lame = tmp_path / "lame"
    lame.write_text('#!/bin/bash\n[[ "$2" != *ensurepip* ]]\n')
    lame.chmod(0o755)
    reply = bash(root / "launch" / "local.sh", "show", **{**env, "PYTHON": str(lame)})
    assert (
        reply.returncode == 2
        and reply.stderr.count("\n") == 1
        and "apt install python3-venv" in reply.stderr
    )


STUB = """import os, pathlib, sys
name, flags = pathlib.Path(__file__).stem, [a for a in sys.argv[1:] if a.startswith("--")]
arguments = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
print(name, *sys.argv[1:])
workdir = pathlib.Path(arguments.get("workdir", arguments.get("out")))
workdir.mkdir(parents=True, exist_ok=True)
outputs = {"train": "metrics.jsonl", "evaluate": "evals.jsonl", "sample": "samples.jsonl"}
out = outputs.get(name, "report.html")
(workdir / out).write_text(os.environ.get("TRAINED", "1"))
pathlib.Path(arguments.get("trace", workdir / out)).touch()
sys.exit(3 if os.environ.get("FAILS") == name else 0)
"""


def test_quickstart_does_what_is_not_done_and_stops_at_a_failure(clone, tmp_path):
    root, env = clone
    for name in ("train", "evaluate", "sample", "report"):
        (root / "dlm" / f"{name}.py").write_text(STUB)

    def quickstart(**more):
        reply = bash(
            root / "launch" / "quickstart.sh", tmp_path / "my runs", **env, **more
        )
        return reply.returncode, [
            line.split()[0]
            for line in reply.stdout.splitlines()
            if line.split()[0] in ("train", "evaluate", "sample", "report")
        ]

    trained, scored, drawn = ["train"] * 4, ["evaluate"] * 4, ["sample"] * 5
    assert quickstart(FAILS="evaluate") == (3, [*trained, "evaluate"])
    assert quickstart() == (0, [*trained, *scored, *drawn, "report"])
    assert quickstart() == (0, [*trained, "report"])
    (tmp_path / "my runs" / "replay.html").unlink()
    assert quickstart() == (0, [*trained, "sample", "report"])
    # After further training every later step is out of date.
    assert len(quickstart(TRAINED="2")[1]) == 14


def run_pytest(folder, **files):
    """The exit code and output of the tests in `folder`, in an xdist worker.

    The plugin is loaded, and one skip is listed.
    """
    folder.mkdir()
    for name, body in files.items():
        (folder / f"{name}.py").write_text(f"import pytest\n{body}\n")
    (folder / "listed.py").write_text(
        "from tests.skips import ALLOWED\nALLOWED['test_it.py::test_listed'] = 'known'\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        "-n",
        "1",
        "-p",
        "tests.skips",
        "-p",
        "listed",
        "-p",
        "no:cacheprovider",
        f"--rootdir={folder}",
    ]
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{folder}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    reply = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    return reply.returncode, reply.stdout


def test_a_skip_fails_the_run_unless_listed(tmp_path):
    fine = "def test_a(): pass\n@pytest.mark.xfail\ndef test_b(): assert 0\n"
    fine += "@pytest.mark.parametrize('x', [1])\ndef test_listed(x): pytest.skip()"
    code, out = run_pytest(tmp_path / "fine", test_it=fine)
    assert (
        code == 0
        and "1 passed, 1 skipped, 1 xfailed" in out
        and "WITHOUT LEAVE" not in out
    ), out
    module = "pytest.skip('no torch', allow_module_level=True)"
    code, out = run_pytest(
        tmp_path / "foul",
        test_it=fine + "\ndef test_c(): pytest.skip('no gpu')",
        test_other=module,
    )
    assert code == 1, out
    assert (
        "LEAVE test_it.py::test_c: Skipped: no gpu" in out
        and "LEAVE test_other.py: Skipped: no torch" in out
    ), out
