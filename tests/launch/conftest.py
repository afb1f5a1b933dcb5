"""A checkout that costs no installation."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Replaces the interpreter and, copied by `-m venv`, that of .venv: records the calls of pip
# and runs all else for real.
FAKE = f"""#!/bin/bash
case "$1 $2" in
  "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo venv >>"$LOG" ;;
  "-m pip") [ "$3" = --version ] || echo "${{@: -1}}" >>"$LOG" ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A checkout in a path with a space, whose one command says where it was run and with what."""
    root = tmp_path / "a clone"
    shutil.copytree(ROOT / "launch", root / "launch")
    (root / "dlm").mkdir()
    (root / "dlm" / "__init__.py").touch()
    for room in ("app", "core", "machine", "runs"):
        (root / "dlm" / room).symlink_to(ROOT / "dlm" / room)
    (root / "dlm" / "show.py").write_text(
        '"""Shows its arguments."""\nimport os, sys\nprint(os.getcwd(), sys.argv[1:])\n'
    )
    (root / "requirements.txt").write_text("one\n")
    fake = tmp_path / "fake"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    return root, dict(PYTHON=str(fake), LOG=str(tmp_path / "log"), PYTHONPATH="")
