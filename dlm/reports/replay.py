"""Denoising, replayed: one self-contained HTML page that shows a sample being written, step by step.

    page([trace, …], title) → HTML     slider, play, keys; each token coloured by the step that committed it or by confidence

The page (replay.html) needs no network and no font of its own. What it shows is a list of changes: a step holds only the positions
whose token changed, with the probability the model gave it, so that a page of 256 tokens and 64 steps is about 20 kB.
"""

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GENERATOR = '<meta name="generator" content="dlm replay">'  # tells this page from any other
_CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Trace:
    """The life of one sample; plain lists or numpy arrays, T steps over L positions."""

    name: str
    states: list  # [T+1][L] ids; state 0 is the start
    confidence: list  # [T][L] probability of the token that step committed, else 0
    frozen: list  # [L] bool: anchors, which no step changes
    times: list  # [T+1] from 1 (all noise) down to 0 (clean)
    pieces: dict[int, str]  # id → the text it stands for
    mask: int
    caption: dict[str, str] = field(
        default_factory=dict
    )  # sampler settings, shown under the sample

    def __post_init__(self):
        steps, length = len(self.states) - 1, len(self.frozen)
        shapes = np.shape(self.states), np.shape(self.confidence), np.shape(self.times)
        if steps < 1 or shapes != ((steps + 1, length), (steps, length), (steps + 1,)):
            raise ValueError(
                f"trace {self.name!r}: states, confidence and times have shapes {shapes}, which do not fit together"
            )

    def changes(self) -> list[list]:
        """Per step, [position, id, confidence] of every position whose token changed."""
        states, confidence = np.asarray(self.states), np.asarray(self.confidence, float)
        return [
            [[int(i), int(now[i]), round(float(sure[i]), 4)] for i in np.flatnonzero(now != before)]
            for before, now, sure in zip(states[:-1], states[1:], confidence, strict=True)
        ]

    def piece(self, token: int) -> str:
        """The text of an id; the mask has none."""
        return "" if token == self.mask else printable(self.pieces.get(int(token), "�"))

    def text(self) -> str:
        """What the last state says."""
        return "".join(self.piece(token) for token in self.states[-1])


def page(traces: list[Trace], title: str) -> str:
    """The whole page as a string of HTML."""
    parts = dict(
        title=html.escape(title),
        data=embed([_data(trace) for trace in traces]),
        final="\n\n".join(html.escape(trace.text()) for trace in traces),
    )
    return re.sub(
        r"{{(\w+)}}",
        lambda m: parts[m[1]],
        Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
    )


def printable(text: str) -> str:
    """`text` with control characters drawn as ␀, ␛, …: noise must neither vanish from a page nor reach a terminal raw."""
    return _CONTROL.sub(lambda c: chr(0x2400 + ord(c[0])) if c[0] < " " else "␡", text)


def embed(value) -> str:
    """JSON for the inside of a <script> element: no text in it can close the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(trace: Trace) -> dict:
    used = np.unique(np.asarray(trace.states))
    return dict(
        name=trace.name,
        start=[int(token) for token in trace.states[0]],
        steps=trace.changes(),
        frozen=[int(i) for i in np.flatnonzero(trace.frozen)],
        times=[round(float(t), 4) for t in trace.times],
        pieces={int(token): trace.piece(token) for token in used if token != trace.mask},
        mask=int(trace.mask),
        caption={str(k): str(v) for k, v in trace.caption.items()},
    )
