"""The terminal replay: frames without a terminal, styles with one, a cursor at the end."""

import io
import re

import numpy as np

from dlm.reports import terminal
from dlm.reports.replay import Trace

STATES = [[1, 0, 0], [1, 2, 0], [1, 0, 3], [1, 2, 3]]
TRACE = Trace(
    "s",
    STATES,
    np.zeros((3, 3)),
    [True, False, False],
    [1, 0.7, 0.3, 0],
    {1: "a", 2: "b\n", 3: "c"},
    0,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_a_few_plain_frames():
    stream = io.StringIO()
    terminal.animate(TRACE, stream)
    assert [
        frame.partition("\n")[2] for frame in stream.getvalue().split("── ")[1:]
    ] == [
        "a░░\n",
        "ab\n░\n",
        "a░c\n",
        "ab\nc\n",
    ]
    assert "\x1b" not in stream.getvalue()
    assert "step 2 of 3, time 0.300, 1 blanks left" in stream.getvalue()


def test_a_terminal_gets_every_step_in_colour():
    stream = Terminal()
    terminal.animate(TRACE, stream, delay=0)
    first, *steps = stream.getvalue().split("\x1b[H")[1:]
    assert len(steps) == 3
    assert re.sub(r"\x1b\[[\d;?]*\w", "", steps[-1]).startswith("s: step 3 of 3")
    assert "\x1b[4ma" in first  # given: underlined
    new, older = (re.search(r"\x1b\[([\d;]+)mc", step)[1] for step in steps[1:])
    assert (
        new == older + ";7"
    )  # committed at step 2: reversed there, the same colour later
    assert "\x1b[31m░" in steps[1]  # taken back
    assert stream.getvalue().endswith("\x1b[?25h\n")
