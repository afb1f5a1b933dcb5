"""The laws reach a member the moment its file exists: wrong ones, planted in a copy of the package, are caught by listing alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMBER = """
from dataclasses import dataclass
from typing import ClassVar
from dlm.objectives.masked import Masked as _Masked

@dataclass(frozen=True)
class Planted(_Masked):
    claims: ClassVar = {claims!r}

    def weight(self, t):
        return super().weight(t) * {factor}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "claims, factor, caught",
    [
        ("", 1.0, ["test_every_member_says_what_it_claims"]),
        ("bound", 0.8, ["test_oracle_reaches_log_p", "test_no_denoiser_spends_more_than_one"]),
    ],
    ids=["claims nothing", "too small a weight"],
)
def test_a_wrong_objective_fails(tmp_path, claims, factor, caught):
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dlm", tmp_path / "dlm", ignore=leave)
    shutil.copytree(ROOT / "tests" / "laws", tmp_path / "tests" / "laws", ignore=leave)
    (tmp_path / "dlm" / "objectives" / "planted.py").write_text(MEMBER.format(claims=claims, factor=factor))
    wanted = "planted and linear and (claims or oracle or spends_more)"
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", wanted]
    command = [sys.executable, "-m", "pytest", *options, "tests/laws/test_bounds.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    failed = {line.split("::")[1].split("[")[0] for line in ran.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == set(caught), ran.stdout[-2000:]
