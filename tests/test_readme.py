"""The README and the pages of docs/ as a reader uses them: their commands run, their links lead on.

The README's example of an objective is tested in tests/laws/test_planted.py.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlm import bench, convert, evaluate, report, sample, sweep, train
from dlm.runs import earlier_tables
from tests.hf import published

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMANDS = dict(
    convert=convert,
    train=train,
    evaluate=evaluate,
    sample=sample,
    sweep=sweep,
    report=report,
    bench=bench,
)
LOCAL = "launch/local.sh "
SMALL = [
    "--config.steps=2",
    "--config.data.batch=4",
    "--config.data.length=16",
    "--config.text.size=300",
    "--config.nn.layers=1",
]
SWEEP = re.compile(r"```python\n(def sweep\(\):\n.*?)```", re.S)


def shell_lines(page):
    """The commands of a page's bash blocks, without comments and with single spaces."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line.partition("  #")[0] for line in lines]
    return [
        re.sub(r" +", " ", command).strip() for command in commands if command.strip()
    ]


# Many pages repeat a command of the README; each runs once, in the order of the pages.
SHELL = list(dict.fromkeys(line for page in PAGES for line in shell_lines(page)))
COMMAND_LINES = [line.removeprefix(LOCAL) for line in SHELL if line.startswith(LOCAL)]


def dry_form(line):
    """How a script prints what it would do; None for a program that is not ours."""
    words = shlex.split(line)
    if words[0] != "bash":
        return None
    # The option precedes the command, which precedes its own flags.
    place = next((i for i, word in enumerate(words[2:], 2) if word[0] != "-"), None)
    if words[1] not in ("launch/local.sh", "launch/tpu.sh", "launch/npu.sh"):
        return None
    return [*words[:place], "--dry_run", *words[place:]]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder with recipes and published weights, and flags that name a short text."""
    corpus = tmp_path / "corpus.txt"
    functions = [f"def f{i}(x):\n    return x + {i}" for i in range(200)]
    corpus.write_text("\n\n".join(functions), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    published.publish(tmp_path / "published", "llama")
    return [
        "--config.data.source.name=data.local",
        f"--config.data.source.paths=({str(corpus)!r},)",
        "--config.data.source.unit=paragraph",
    ]


@pytest.mark.slow
def test_every_command_of_the_pages_runs(reader, capsys):
    called = []
    for line in COMMAND_LINES:
        name, *flags = shlex.split(line)
        # Benches take minutes; the objective `early` is planted by tests/laws/test_planted.py.
        if name == "bench" or "early" in line:
            continue
        if name == "report":
            shutil.copytree("runs/first", "runs/second")
        if name == "sweep" and "--dry_run" not in flags:
            flags.append("--dry_run")
        if name == "train" and "--dry_run" not in flags:
            flags += SMALL + reader
        COMMANDS[name].main(flags)
        called.append(name)
    assert {"train", "evaluate", "sample", "report", "convert", "sweep"} <= set(called)
    assert Path("replay.html").is_file() and Path("runs/report/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in SHELL if dry_form(line)])
def test_every_script_of_the_pages_accepts_its_flags(line):
    reply = subprocess.run(
        dry_form(line), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert reply.returncode == 0 and reply.stdout, reply.stderr


def test_every_command_of_the_pages_exists():
    for line in SHELL:
        for word in line.split():
            assert not word.startswith("launch/") or (ROOT / word).is_file(), line
    for line in COMMAND_LINES:
        assert line.split()[0] in COMMANDS, line


def test_every_file_that_the_pages_name_exists():
    """Of folders that the repository has; names with a placeholder or a wildcard are left out."""
    pattern = re.compile(r"`((?:dlm|tests|configs|launch|docs)/[\w/.-]+)`")
    for page in PAGES:
        for name in pattern.findall(page.read_text(encoding="utf-8")):
            planted = name == "dlm/objectives/early.py"
            assert planted or (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_link_between_the_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")
        ):
            assert target.startswith("https://") or (page.parent / target).is_file(), (
                target
            )


def test_the_sweep_that_is_shown_is_the_one_that_is_shipped():
    shown = SWEEP.search((ROOT / "docs" / "sweep.md").read_text(encoding="utf-8"))[1]
    assert shown in (ROOT / "configs" / "sweeps" / "objectives.py").read_text(
        encoding="utf-8"
    )


def test_the_changelog_names_every_field_that_was_renamed():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for row in earlier_tables.FIELDS:
        for path in (row.old, row.new):
            assert path.rpartition(".")[2] in changes, path


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_run", "add_idea"])
def test_the_notebooks_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "docs" / f"{name}.py"))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--site-dir", str(tmp_path / "site")]
    reply = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert reply.returncode == 0, reply.stdout + reply.stderr
    # The site opens from the disk: nothing in it comes from a server.
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)', page.read_text()
        )
        assert not loaded, f"{page.name}: {loaded}"
