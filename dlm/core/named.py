"""What a user names: places, seeds, words that are spelt almost right."""

import difflib
import os
import unicodedata
from typing import Any

SEEDS = 2**32
_LONGEST = 120  # characters of a value in an error


class Place(str):
    """The name of a file or folder, of files (a pattern) or of a recipe with its arguments; a leading ~ is the user's home.

    Raises ValueError with the rest of a sentence that begins with what was named so.
    """

    def __new__(cls, text: str) -> "Place":
        text = os.fspath(text)
        if not text.strip():
            raise ValueError("is missing: name a file or folder")
        if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs") for sign in text):
            raise ValueError(
                f"is {shown(text)}: a name must be UTF-8, without line breaks and other control signs"
            )
        full = os.path.expanduser(text)
        if full.startswith("~"):
            raise ValueError(
                f"is {shown(text)}, and there is no such home: write ./{shown(text)[1:-1]} for what is called so"
            )
        return super().__new__(cls, full)


class Seed(int):
    """What draws begin with; beyond 32 bits two numbers would be one seed. Raises ValueError as `Place` does."""

    def __new__(cls, number: int) -> "Seed":
        if not 0 <= number < SEEDS:
            raise ValueError(f"must be in 0 … {SEEDS - 1}, not {number}")
        return super().__new__(cls, number)


def shown(value: Any) -> str:
    """A value as an error tells it, of whatever length it is."""
    try:
        text = repr(value)
    except Exception:  # numbers of thousands of digits, objects of the user's own making
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def one_line(value: Any) -> str:
    """As it is, where that is one line of printable signs, else as Python spells it."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def nearest(word: str, words: Any) -> str:
    """' (did you mean …?)' or nothing."""
    close = difflib.get_close_matches(
        shown(word) if not isinstance(word, str) else word[:_LONGEST], [str(w) for w in words], 1
    )
    return f" (did you mean {close[0]!r}?)" if close else ""
