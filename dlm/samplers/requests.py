"""Requests and replies: the form in which tasks, agents and commands talk to a model.

A request is a template. Strings (or ids) are anchors that never change, numbers are holes of that
many tokens. A prompt is a string and one hole; infilling has text on both sides.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dlm.core.errors import UserError


@dataclass(frozen=True)
class Request:
    parts: tuple[str | int | np.ndarray, ...]

    @classmethod
    def prompt(cls, text: str, tokens: int) -> "Request":
        return cls((text, tokens) if text else (tokens,))

    @classmethod
    def infill(cls, template: str, tokens: int, hole: str = "___") -> "Request":
        """Every `hole` in the template stands for `tokens` tokens."""
        if hole not in template:
            raise UserError(f"nothing to fill in: the template has no {hole}")
        parts: list[str | int] = []
        for piece in template.split(hole):
            parts += [piece, tokens] if piece else [tokens]
        return cls(tuple(parts[:-1]))


@dataclass(frozen=True)
class Reply:
    text: str  # anchors and generated tokens, up to the first end of text after the last anchor
    ids: np.ndarray  # of the request's parts, with its holes filled
    frozen: np.ndarray  # bool, which ids are anchors
    logprob: float  # of the generated tokens when each was committed, nats
    nfe: int  # forward passes of the batch this reply came from
    seconds: float  # of that batch
    trace: dict[str, Any] | None = None  # states [T+1, L], confidence [T, L], times [T+1]
