"""Replays the denoising of a sample in a terminal: the picture of replay.html in 256 ANSI colours.

    animate(trace, sys.stderr)

Blue to yellow: decided early to late; reverse video: decided in this step; underlined: an anchor.
A stream that is no terminal gets plain text.
"""

import shutil
import time
from typing import TextIO

import numpy as np

from dlm.reports.replay import Trace

_RAMP = (63, 69, 75, 80, 79, 114, 149, 185, 221)  # of the 256 colours, early to late
_FRAMES = 4  # printed where nothing can be animated
_HIDE_CURSOR = "\x1b[?25l"
_SHOW_CURSOR = "\x1b[0m\x1b[?25h\n"
_CLEAR = "\x1b[H\x1b[J"


def animate(trace: Trace, stream: TextIO, delay: float = 0.08) -> None:
    """Plays `trace`, `delay` seconds a step; a stream that is no terminal gets a few plain frames.

    A mask is drawn as ░ in a plain frame and on the screen.
    """
    steps = len(trace.states) - 1
    if not stream.isatty():
        # Evenly spaced, and always the first and the last.
        chosen = {round(i * steps / (_FRAMES - 1)) for i in range(_FRAMES)}
        for step in sorted(chosen):
            frame = _frame(trace, step, colour=False)
            stream.write(f"── {_heading(trace, step)}\n{frame}\n")
        return

    stream.write(_HIDE_CURSOR)
    try:
        for step in range(steps + 1):
            columns, lines = shutil.get_terminal_size()
            frame = _clip(_frame(trace, step, colour=True), columns, lines)
            stream.write(f"{_CLEAR}{_heading(trace, step)}\n\n{frame}\n")
            stream.flush()
            time.sleep(delay)
    except KeyboardInterrupt:
        # Whoever has seen enough still gets the prompt back in order.
        pass
    finally:
        stream.write(_SHOW_CURSOR)


def _heading(trace: Trace, step: int) -> str:
    steps = len(trace.states) - 1
    moment = float(trace.times[step])
    blanks = sum(int(token) == trace.mask for token in trace.states[step])
    return (
        f"{trace.name}: step {step} of {steps}, time {moment:.3f}, {blanks} blanks left"
    )


def _frame(trace: Trace, step: int, colour: bool) -> str:
    """The text of one state."""
    last_change_L = _last_changes(trace, step)
    parts = []
    for i, token in enumerate(trace.states[step]):
        text = "░" if token == trace.mask else trace.piece(token)
        if colour:
            style = _style(trace, i, step, int(last_change_L[i]))
            text = _styled(text, style)
        parts.append(text)
    return "".join(parts)


def _last_changes(trace: Trace, step: int) -> np.ndarray:
    """[L] the last step up to this one in which each position changed, 0 where none did."""
    # Later changes overwrite earlier ones.
    states = np.asarray(trace.states)
    last_L = np.zeros(states.shape[1], int)
    for earlier in range(step):
        changed_L = states[earlier + 1] != states[earlier]
        last_L[changed_L] = earlier + 1
    return last_L


def _style(trace: Trace, i: int, step: int, last_change: int) -> str:
    """The ANSI style of position `i` in a state."""
    just_changed = step > 0 and last_change == step
    if trace.frozen[i]:
        return "4"
    if trace.states[step][i] == trace.mask:
        # A mask that is new was remasked: red, where older masks are faint.
        return "31" if just_changed else "2"
    steps = len(trace.states) - 1
    shade = _RAMP[last_change * (len(_RAMP) - 1) // steps]
    style = f"38;5;{shade}"
    return f"{style};7" if just_changed else style


def _styled(text: str, style: str) -> str:
    # A style ends with its line, so that a clipped frame leaves no colour behind.
    lines = [f"\x1b[{style}m{line}\x1b[0m" for line in text.split("\n")]
    return "\n".join(lines)


def _clip(text: str, columns: int, lines: int) -> str:
    """The first rows that fit: a taller frame would scroll, and its heading would repeat."""
    rows = []
    room = lines - 4
    for line in text.split("\n"):
        # Escape sequences make a line look about four times as long as it is.
        room -= 1 + len(line) // (4 * columns)
        if room < 0:
            break
        rows.append(line)
    return "\n".join(rows)
