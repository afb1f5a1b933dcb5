"""Names that a user types: places and seeds; and values and near misses in error messages."""

import difflib
import os
import unicodedata
from collections.abc import Iterable
from typing import Any

SEEDS = 2**32  # number of different seeds
_LONGEST = 120  # characters of a value in an error message
_CONTROL = (
    "Cc",
    "Zl",
    "Zp",
    "Cs",
)  # Unicode categories: controls, line ends, lone surrogates


class Place(str):
    """A path, a file pattern, or a recipe with its arguments; a leading ~ is the user's home.

    Raises ValueError with the end of a sentence that begins with the name of the field.
    """

    def __new__(cls, text: str) -> "Place":
        text = os.fspath(text)
        if not text.strip():
            raise ValueError("is missing: name a file or folder")
        if any(unicodedata.category(sign) in _CONTROL for sign in text):
            rule = "a name must be UTF-8, without line breaks and other control signs"
            raise ValueError(f"is {shown(text)}: {rule}")
        full = os.path.expanduser(text)
        if full.startswith("~"):
            remedy = f"write ./{shown(text)[1:-1]} for a file of that name"
            raise ValueError(f"is {shown(text)}, and there is no such home: {remedy}")
        return super().__new__(cls, full)


class Seed(int):
    """A seed of 32 bits: beyond that, two numbers would give the same draws. Raises as `Place`."""

    def __new__(cls, number: int) -> "Seed":
        if not 0 <= number < SEEDS:
            raise ValueError(f"must be in 0 … {SEEDS - 1}, not {number}")
        return super().__new__(cls, number)


def shown(value: Any) -> str:
    """Show a value in an error message, shortened."""
    try:
        text = repr(value)
    except (
        Exception
    ):  # numbers of thousands of digits, objects of the user's own classes
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def one_line(value: Any) -> str:
    """Return str(value) if it is one line of printable characters, else its repr."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def nearest(word: Any, words: Iterable) -> str:
    """Return ' (did you mean …?)' if one of the words is close, else ''."""
    text = word[:_LONGEST] if isinstance(word, str) else shown(word)
    close = difflib.get_close_matches(text, [str(w) for w in words], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
