"""The commit of a run's code, never that of a repository that merely contains the package."""

import os
import re
import shutil
import subprocess

import pytest

from dlm.runs import provenance


def git(folder, *words):
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def place(tmp_path):
    """place(folder) → a copy of a small package there."""
    package = tmp_path / "original"
    (package / "run").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "run" / "a.py").write_text("x = 1\n")

    def copied(folder):
        shutil.copytree(package, tmp_path / folder / "dlm")
        return (tmp_path / folder / "dlm").resolve()

    return copied


def repository(folder, ignored):
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text(ignored)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    return git(folder, "rev-parse", "HEAD")


def test_an_installed_copy_is_known_by_its_sources_whatever_repository_is_around_it(
    place, tmp_path, monkeypatch
):
    alone, inside, below = place("alone"), place("theirs/.venv/lib"), place("other")
    strange = [
        repository(tmp_path / "theirs", ".venv\n"),
        repository(tmp_path / "other", "dlm\n"),
    ]
    names = {provenance.commit.__wrapped__(copy) for copy in (alone, inside, below)}
    (name,) = names  # equal code has equal names
    assert re.fullmatch(r"src-[0-9a-f]{16} of dlm \S+", name) and not any(
        one in name for one in strange
    )
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert provenance.commit.__wrapped__(alone) == name, (
        "what a hook of git sets is no repository of ours"
    )
    (alone / "run" / "a.py").write_text("x = 2\n")
    assert provenance.commit.__wrapped__(alone) != name
    assert provenance.commit.__wrapped__(place("whole")) == name


def test_a_checkout_has_its_commit_and_says_when_it_was_changed(
    place, tmp_path, monkeypatch
):
    ours = place("ours")
    commit = repository(tmp_path / "ours", "*.pyc\n")
    assert provenance.commit.__wrapped__(ours) == commit
    (ours / "run" / "a.pyc").write_text("")
    (ours.parent / "notes.txt").write_text("")
    assert provenance.commit.__wrapped__(ours) == commit, (
        "neither what git ignores nor what lies beside the package is its code"
    )
    (ours / "run" / "b.py").write_text("x = 1\n")
    assert provenance.commit.__wrapped__(ours) == f"{commit}+changes", (
        "a part that is found by listing its folder"
    )
    (ours / "run" / "b.py").unlink()
    (ours / "run" / "a.py").write_text("x = 2\n")
    assert provenance.commit.__wrapped__(ours) == f"{commit}+changes"
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert provenance.commit.__wrapped__(ours).startswith("src-"), "without git"
