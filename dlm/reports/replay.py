"""A self-contained HTML page that replays how a sampler wrote its samples, pass by pass.

    page([trace, …], title) → HTML     slider, play, keys; tokens coloured by pass or confidence

The page (replay.html) needs no network and no font of its own. It stores a list of changes: each
pass holds only the positions whose token changed, with the probability that the model gave the
new token. A page of 256 tokens and 64 passes takes about 20 kB.
"""

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GENERATOR = '<meta name="generator" content="dlm replay">'  # distinguishes this page from others
_CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")
_FIELD = re.compile(r"{{(\w+)}}")


@dataclass(frozen=True)
class Trace:
    """The passes that wrote one sample; plain lists or numpy arrays, T passes over L positions."""

    name: str
    states: list  # [T+1][L] ids; state 0 is the canvas before the first pass
    confidence: list  # [T][L] probability of the token that the pass decided, else 0
    frozen: list  # [L] bool: anchors, which no pass changes
    times: list  # [T+1] from 1 (all noise) down to 0 (clean)
    pieces: dict[int, str]  # id → its text
    mask: int
    caption: dict[str, str] = field(
        default_factory=dict
    )  # sampler settings, shown below
    columns: int = 0  # of the square grid in which a puzzle is drawn; 0: running text

    def __post_init__(self):
        length, steps = len(self.frozen), len(self.states) - 1
        arrays = (self.states, self.confidence, self.times)
        shapes = tuple(np.shape(array) for array in arrays)
        fitting = ((steps + 1, length), (steps, length), (steps + 1,))
        if steps < 1 or shapes != fitting:
            raise ValueError(
                f"trace {self.name!r}: states, confidence and times have shapes {shapes}, "
                "which do not fit together"
            )
        if self.grids and self.grids[-1] + self.columns**2 > length:
            raise ValueError(
                f"trace {self.name!r}: {length} tokens do not fill a grid of {self.columns} columns"
            )

    @property
    def grids(self) -> list[int]:
        """The first position of each grid.

        A prompt that is long enough holds a grid itself, the puzzle; the answer follows it.
        """
        if not self.columns:
            return []
        # `argmin` is the first position that is no anchor.
        prompt = int(np.argmin(self.frozen))
        if prompt < self.columns**2:
            return [0]
        return [0, prompt]

    def changes(self) -> list[list]:
        """Return for each pass [position, id, confidence] of every position that it changed."""
        passes = []
        for before_L, after_L, confidence_L in zip(
            self.states[:-1], self.states[1:], self.confidence, strict=True
        ):
            changed = np.not_equal(after_L, before_L)
            passes.append(
                [
                    [int(i), int(after_L[i]), _rounded(confidence_L[i])]
                    for i in np.flatnonzero(changed)
                ]
            )
        return passes

    def piece(self, token: int) -> str:
        """The text of an id; the mask has none."""
        if token == self.mask:
            return ""
        return printable(self.pieces.get(int(token), "�"))

    def text(self) -> str:
        """The text of the last state."""
        return "".join(self.piece(token) for token in self.states[-1])


def page(traces: list[Trace], title: str) -> str:
    """Return the whole page as a string of HTML."""
    # Readers without JavaScript see the finished texts.
    texts = [html.escape(trace.text()) for trace in traces]
    parts = dict(
        title=html.escape(title),
        data=embed([_data(trace) for trace in traces]),
        final="\n\n".join(texts),
    )
    return fill_page(Path(__file__).with_suffix(".html"), parts)


def fill_page(path: Path, parts: dict[str, str]) -> str:
    """Return an HTML file with each {{name}} replaced by a part, which is HTML already."""
    template = path.read_text(encoding="utf-8")
    return _FIELD.sub(lambda match: parts[match[1]], template)


def printable(text: str) -> str:
    """Return `text` with control characters drawn as ␀, ␛, ….

    Noise must neither vanish from a page nor reach a terminal unescaped.
    """
    return _CONTROL.sub(lambda match: _symbol(match[0]), text)


def embed(value) -> str:
    """Return JSON for a <script> element, which no text inside can close."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _symbol(character: str) -> str:
    if character < " ":
        return chr(0x2400 + ord(character))
    return "␡"


def _rounded(value) -> float:
    return round(float(value), 4)


def _data(trace: Trace) -> dict:
    """The fields that the page's script reads."""
    # Only the ids that occur are sent, each once; the script draws the mask itself.
    used = np.unique(np.asarray(trace.states))
    pieces = {}
    for token in used:
        if token != trace.mask:
            pieces[int(token)] = trace.piece(token)
    return dict(
        name=trace.name,
        start=[int(token) for token in trace.states[0]],
        steps=trace.changes(),
        frozen=[int(i) for i in np.flatnonzero(trace.frozen)],
        times=[_rounded(t) for t in trace.times],
        pieces=pieces,
        mask=int(trace.mask),
        caption={str(key): str(value) for key, value in trace.caption.items()},
        columns=trace.columns,
        grids=trace.grids,
    )
