"""Denoising, replayed in a terminal: the same picture as replay.html, in 256 ANSI colours or, where there is no terminal, as text.

animate(trace, sys.stderr)      blue to yellow: committed early to late · reverse video: at this step · underlined: given
"""

import shutil
import time
from typing import TextIO

import numpy as np

from dlm.reports.replay import Trace

_RAMP = (63, 69, 75, 80, 79, 114, 149, 185, 221)  # of the 256 colours, early to late
_FRAMES = 4  # printed where nothing can be animated


def animate(trace: Trace, stream: TextIO, delay: float = 0.08) -> None:
    """Play `trace`, `delay` seconds a step; a stream that is no terminal gets a few plain frames with blanks as ░."""
    steps = len(trace.states) - 1
    if not stream.isatty():
        for step in sorted({round(i * steps / (_FRAMES - 1)) for i in range(_FRAMES)}):
            stream.write(f"── {_heading(trace, step)}\n{_frame(trace, step, colour=False)}\n")
        return
    stream.write("\x1b[?25l")  # no cursor while it plays
    try:
        for step in range(steps + 1):
            rows = _clip(_frame(trace, step, colour=True), *shutil.get_terminal_size())
            stream.write("\x1b[H\x1b[J" + _heading(trace, step) + "\n\n" + rows + "\n")
            stream.flush()
            time.sleep(delay)
    except KeyboardInterrupt:
        pass
    finally:
        stream.write("\x1b[0m\x1b[?25h\n")


def _heading(trace: Trace, step: int) -> str:
    blanks = sum(int(token) == trace.mask for token in trace.states[step])
    return f"{trace.name}: step {step} of {len(trace.states) - 1}, time {float(trace.times[step]):.3f}, {blanks} blanks left"


def _frame(trace: Trace, step: int, colour: bool) -> str:
    states, steps = np.asarray(trace.states), len(trace.states) - 1
    moved_TL = states[1 : step + 1] != states[:step]
    since_L = (
        np.where(moved_TL.any(0), step - np.argmax(moved_TL[::-1], 0), 0)
        if step
        else np.zeros(states.shape[1], int)
    )
    return "".join(
        _token(trace, i, int(states[step, i]), int(since_L[i]), step, steps, colour)
        for i in range(states.shape[1])
    )


def _token(
    trace: Trace, i: int, token: int, since: int, step: int, steps: int, colour: bool
) -> str:
    text = "░" if token == trace.mask else trace.piece(token)
    if not colour:
        return text
    if trace.frozen[i]:
        style = "4"
    elif token == trace.mask:
        style = "31" if since == step and step else "2"
    else:
        style = f"38;5;{_RAMP[since * (len(_RAMP) - 1) // steps]}" + (
            ";7" if since == step and step else ""
        )
    return "\n".join(f"\x1b[{style}m{line}\x1b[0m" for line in text.split("\n"))


def _clip(text: str, columns: int, lines: int) -> str:
    """The first rows that fit: a frame taller than the screen would scroll and leave its head behind."""
    kept, room = [], lines - 4
    for line in text.split("\n"):
        room -= 1 + len(line) // (4 * columns)  # escapes make a line look longer than it is
        if room < 0:
            break
        kept.append(line)
    return "\n".join(kept)
