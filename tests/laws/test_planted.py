"""The laws reach a member the moment its file exists.

The README's example and three wrong ones, planted in a copy of the code.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.search(
    r"`dlm/objectives/early\.py`:\n\n```python\n(.*?)```", README, re.S
)[1]
MEMBER = """
from dataclasses import dataclass
from typing import ClassVar
from dlm.objectives.masked import Masked as _Masked

@dataclass(frozen=True)
class Planted(_Masked):
    claims: ClassVar = {claims!r}

    def nats(self, *arguments):
        factor = {factor} if self.pattern == "bernoulli" else 1.0
        return super().nats(*arguments) * factor
"""
PLANTED = dict(
    early=EXAMPLE,
    late=EXAMPLE.replace(" - 1) / self.power", " - 1)"),
    silent=MEMBER.format(claims="", factor=1.0),
    cheap=MEMBER.format(claims="bound", factor=0.8),
)
CAUGHT = dict(
    early=set(),
    late={"test_the_reported_bound_and_the_loss"},
    silent={"test_every_member_says_what_it_claims"},
    cheap={
        "test_oracle_reaches_log_p",
        "test_no_denoiser_spends_more_than_one",
        "test_a_fixed_count_does_not_change_the_bound",
    },
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("house")
    for name in ("dlm", "tests", "configs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name, source in PLANTED.items():
        (folder / "dlm" / "objectives" / f"{name}.py").write_text(
            source, encoding="utf-8"
        )
    return folder


def run(house, *command):
    environment = os.environ | dict(
        PYTHONPATH=str(house), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.1"
    )
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=house,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wrong_ones_are_caught_by_name_and_the_example_passes(house):
    tests = f"cosine and ({' or '.join(PLANTED)})"
    options = [
        "-rpf",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "-k",
        tests,
    ]
    reply = run(house, "pytest", *options, "tests/laws/test_bounds.py").stdout
    failures = {name: dict(PASSED=set(), FAILED=set()) for name in PLANTED}
    for verdict, law, name in re.findall(
        r"^(PASSED|FAILED) \S+::(\w+)\[(\w+)-", reply, re.M
    ):
        failures[name][verdict].add(law)
    assert {name: laws["FAILED"] for name, laws in failures.items()} == CAUGHT, reply[
        -3000:
    ]
    assert len(failures["early"]["PASSED"]) >= 4


def test_the_example_trains(house):
    line = next(
        line
        for line in README.splitlines()
        if line.startswith("launch/local.sh train") and "objectives.early" in line
    )
    dry = run(
        house,
        "dlm.train",
        *shlex.split(line)[2:],
        "--dry_run",
        "--config.objective.power=3",
    )
    assert dry.returncode == 0, dry.stderr
