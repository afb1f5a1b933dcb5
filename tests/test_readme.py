"""The README as its reader would use it: its commands run, its example of an objective passes the laws, and with a mistake in it fails."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlm import bench, evaluate, report, sample, train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = dict(train=train, evaluate=evaluate, sample=sample, report=report, bench=bench)
SHELL = [line.partition("  #")[0].strip() for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
EXAMPLE = re.search(r"`dlm/(objectives/\w+\.py)`:\n\n```python\n(.*?)```", README, re.S)
SMALL = ["--config.steps=2", "--config.data.batch=4", "--config.data.length=16", "--config.text.size=300", "--config.nn.layers=1"]


def words(line):
    return shlex.split(line.removeprefix("launch/local.sh "))


def local_lines():
    return [line for line in SHELL if line.startswith("launch/local.sh ")]


@pytest.mark.slow
def test_everyday_commands_run(tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(200)), encoding="utf-8")
    local = [
        "--config.data.source.name=data.local",
        f"--config.data.source.paths=({str(corpus)!r},)",
        "--config.data.source.unit=paragraph",
    ]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    ran = []
    for line in local_lines():
        name, *flags = words(line)
        if name == "bench" or "early" in line:  # minutes; and the example below
            continue
        if name == "report":
            shutil.copytree("runs/first", "runs/second")
        COMMANDS[name].main(flags + (SMALL + local if name == "train" and "--dry_run" not in flags else []))
        ran.append(name)
    assert {"train", "evaluate", "sample", "report"} <= set(ran)
    assert Path("replay.html").is_file() and Path("runs/report/report.html").is_file()


def test_every_command_of_the_readme_exists():
    for line in SHELL:
        if line.startswith("bash "):
            assert (ROOT / line.split()[1]).is_file(), line
    for line in local_lines():
        assert words(line)[0] in COMMANDS, line


def house(tmp_path, source):
    """A copy of the code with the example in it."""
    for name in ("dlm", "tests", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "dlm" / EXAMPLE[1]).write_text(source, encoding="utf-8")
    return tmp_path


def run(house, *command):
    environment = {**os.environ, "PYTHONPATH": str(house)}
    return subprocess.run([sys.executable, "-m", *command], cwd=house, env=environment, capture_output=True, text=True, timeout=300)


def laws(house):
    return run(house, "pytest", "-p", "no:cacheprovider", "-x", "tests/laws/test_bounds.py", "-k", "early")


@pytest.mark.slow
def test_the_example_trains_and_holds_the_laws(tmp_path):
    folder = house(tmp_path, EXAMPLE[2])
    line = next(line for line in local_lines() if "objectives.early" in line)
    flags = words(line)[1:] + [*SMALL, "--dry_run", "--config.objective.power=3"]
    dry = run(folder, "dlm.train", *flags)
    assert dry.returncode == 0, dry.stderr
    done = laws(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 4


@pytest.mark.slow
def test_the_example_with_a_product_for_its_division_is_caught(tmp_path):
    wrong = EXAMPLE[2].replace("nats_BL / density_B", "nats_BL * density_B")
    assert wrong != EXAMPLE[2]
    done = laws(house(tmp_path, wrong))
    assert done.returncode == 1 and "test_the_reported_bound_and_the_loss" in done.stdout
