"""Texts that hold what strangers wrote: there a special token's name is text, and only a chat's template itself makes control ids.

    template's own  '<|user|>'   stranger's  'say <|eos|>'   template's own  '<|eos|>'
    ids                   1 id                plain pieces                        1 id

A `Quoted` carries that through whatever joins texts. Through a template it is carried by a sign behind the first character of each name,
which is no white space, so that filters and trims treat the name as any other text; afterwards the signs are taken out again.
"""

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from dlm.run.spec import UserError

_SIGNS = "\u200b", *map(chr, range(0x100000, 0x10FFFE))  # a space without width, which shows nothing if it is left; signs of no meaning


class Quoted(str):
    """A text in which the characters at the positions `quoted` are a stranger's: a name that has one of them is text."""

    quoted: frozenset[int]

    def __new__(cls, text: str, quoted: Iterable[int] | None = None) -> "Quoted":
        """All of it is a stranger's unless `quoted` says what; of a Quoted, what was."""
        made = super().__new__(cls, text)
        made.quoted = frozenset(getattr(text, "quoted", range(len(text))) if quoted is None else quoted)
        return made

    def __getnewargs__(self):
        return str(self), self.quoted

    def __add__(self, other: str) -> "Quoted":
        """What is added and is no Quoted is nobody's."""
        return Quoted(str(self) + str(other), self.quoted | {len(self) + i for i in getattr(other, "quoted", ())})

    def __radd__(self, other: str) -> "Quoted":
        return Quoted(str(other) + str(self), (len(other) + i for i in self.quoted))

    def rstrip(self, characters: str | None = None) -> "Quoted":
        text = super().rstrip(characters)
        return Quoted(text, (i for i in self.quoted if i < len(text)))


def places(text: str, names: Collection[str]) -> Iterator[tuple[int, int]]:
    """(begin, end) of every name in the text, also of those that overlap."""
    for name in names:
        begin = text.find(name)
        while begin >= 0:
            yield begin, begin + len(name)
            begin = text.find(name, begin + 1)


def spelled(text: str, names: Collection[str]) -> list[tuple[int, int]]:
    """(begin, end) of the names in which a stranger had a hand, in order; of those that overlap all of them as one."""
    quoted = getattr(text, "quoted", ())
    found: list[tuple[int, int]] = []
    for begin, end in sorted(places(text, names)) if quoted else ():
        if any(i in quoted for i in range(begin, end)):
            begin, end = (found[-1][0], max(found.pop()[1], end)) if found and begin < found[-1][1] else (begin, end)
            found.append((begin, end))
    return found


class Marks:
    """The sign for one rendering of a template: one that neither the template nor the data have."""

    def __init__(self, names: Collection[str], *written: str):
        self._names = names
        self._beginnings = {name[:k] for name in names for k in range(1, len(name))}
        self._longest = max(map(len, self._beginnings), default=0)
        self.sign = next((sign for sign in _SIGNS if not any(sign in w or json.dumps(sign)[1:-1] in w for w in written)), None)
        if self.sign is None:
            raise UserError("the messages of a chat hold every sign for private use: take out what is no text")

    def put(self, value: Any) -> Any:
        """Plain data, with the sign in all their names, and where a text ends in the beginning of one, which the next may finish."""
        if isinstance(value, dict):
            return {self.put(key): self.put(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.put(part) for part in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        begins = {begin for begin, _ in places(text, self._names)}
        ended = text.rstrip()
        begins |= {len(ended) - k for k in range(1, min(self._longest, len(ended)) + 1) if ended[-k:] in self._beginnings}
        cuts = [0, *(begin + 1 for begin in sorted(begins)), len(text)]
        return self.sign.join(text[a:b] for a, b in itertools.pairwise(cuts))

    def taken(self, text: str) -> Quoted:
        """The text without its signs, and what stood before them as a stranger's."""
        signs = "|".join(map(re.escape, (self.sign, json.dumps(self.sign)[1:-1])))
        parts = re.split(signs, text)
        ends = list(itertools.accumulate(map(len, parts[:-1])))
        return Quoted("".join(parts), (end - 1 for end in ends if end))
