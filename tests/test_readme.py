"""The README as its reader would use it: its commands run. Its example of an objective is in tests/laws/test_planted.py."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from dlm import bench, convert, evaluate, report, sample, sweep, train
from tests.hf import published

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = dict(
    convert=convert,
    train=train,
    evaluate=evaluate,
    sample=sample,
    sweep=sweep,
    report=report,
    bench=bench,
)
SHELL = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
]
SMALL = [
    "--config.steps=2",
    "--config.data.batch=4",
    "--config.data.length=16",
    "--config.text.size=300",
    "--config.nn.layers=1",
]


def words(line):
    return shlex.split(line.removeprefix("launch/local.sh "))


def local_lines():
    return [line for line in SHELL if line.startswith("launch/local.sh ")]


@pytest.mark.slow
def test_everyday_commands_run(tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "\n\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(200)), encoding="utf-8"
    )
    local = [
        "--config.data.source.name=data.local",
        f"--config.data.source.paths=({str(corpus)!r},)",
        "--config.data.source.unit=paragraph",
    ]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    published.publish(tmp_path / "published", "llama")
    ran = []
    for line in local_lines():
        name, *flags = words(line)
        if name == "bench" or "early" in line:  # minutes; and the example below
            continue
        if name == "report":
            shutil.copytree("runs/first", "runs/second")
        flags += ["--dry_run"] if name == "sweep" else []  # an hour otherwise
        COMMANDS[name].main(
            flags + (SMALL + local if name == "train" and "--dry_run" not in flags else [])
        )
        ran.append(name)
    assert {"train", "evaluate", "sample", "report", "convert"} <= set(ran)
    assert Path("replay.html").is_file() and Path("runs/report/report.html").is_file()


def test_the_sweep_that_is_shown_is_the_one_that_is_shipped():
    shown = re.search(r"```python\n(def sweep\(\):\n.*?)```", README, re.S)[1]
    assert shown in (ROOT / "configs" / "sweeps" / "objectives.py").read_text(encoding="utf-8")


def test_every_command_of_the_readme_exists():
    for line in SHELL:
        for word in line.split():
            assert not word.startswith("launch/") or (ROOT / word).is_file(), line
    for line in local_lines():
        assert words(line)[0] in COMMANDS, line
