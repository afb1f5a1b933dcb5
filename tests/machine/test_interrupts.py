"""Signals: the first ends a run with everything saved and exit code 75.

Meanwhile no other run may train in its directory.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlm.core.errors import UserError
from dlm.machine import interrupts
from dlm.runs import checkpoint, directory
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_signal_saves_and_exits_with_the_documented_code(corpus, tmp_path):
    """It comes around the first compilation, which no handler of Python's interrupts."""
    config = tiny.recipe(
        corpus, steps=100_000, nn__layers=1, intervals=dict(log=10, save=0)
    )
    (tmp_path / "recipe.py").write_text(
        f"def get_config(arg=None):\n    return {config!r}\n"
    )
    workdir = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "dlm.train",
        f"--config={tmp_path / 'recipe.py'}",
        f"--workdir={workdir}",
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if "parameters," in line:
                with (
                    pytest.raises(
                        UserError, match=f"is in use by process {process.pid}"
                    ),
                    directory.locked(workdir),
                ):
                    pass
                process.send_signal(signal.SIGTERM)
                break
        said = process.stderr.read()
    assert process.returncode == interrupts.EXIT == 75, said
    step = int(
        re.search(
            r"stopped after update (\d+); the same command goes on from there", said
        )[1]
    )
    assert step <= 1
    assert checkpoint.steps(workdir) == [step][: step > 0] and checkpoint.intact(
        workdir, print
    ) == (step or None)
    with directory.locked(workdir):  # its holder is gone
        pass


def test_the_second_signal_leaves_at_once():
    code = (
        "import os, signal, time\nfrom dlm.machine import interrupts\n"
        "with interrupts.Watch() as told:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while not told.here: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 75 and "once more stops at once" in done.stderr


def test_handlers_are_given_back():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with interrupts.Watch() as watch:
        assert not watch.here and signal.getsignal(signal.SIGINT) != before[1]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
