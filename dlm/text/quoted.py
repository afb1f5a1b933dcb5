"""Texts that hold what strangers wrote: there a special token's name is text, and only a chat's template itself makes control ids.

    template's own  '<|user|>'   stranger's  'say <|eos|>'   template's own  '<|eos|>'
    ids                   1 id                plain pieces                        1 id

A `Quoted` carries that through whatever joins texts. Through a template it is carried by a sign behind the first character of each name,
which is no white space, so that filters and trims treat the name as any other text; afterwards the signs are taken out again. Whether a
template has made a name out of a text that held none is seen in a second rendering, with a sign behind each character of the texts that
could be part of one (`Marks.put` with `everywhere`): a name that no sign is in there is the template's own.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from dlm.core.errors import UserError

_SIGNS = (
    "\u200b",
    *map(chr, range(0x100000, 0x10FFFE)),
)  # a space without width, which shows nothing if it is left; signs of no meaning
_MARK = re.compile(r"[^\w\s]")  # neither a letter, a digit, '_' nor white space
_ESCAPES = frozenset(
    "&%\\{}"
)  # what begins, in one notation or another, that which stands for another character


class Quoted(str):
    """A text in which the characters at the positions `quoted` are a stranger's: a name that has one of them is text."""

    quoted: frozenset[int]

    def __new__(cls, text: str, quoted: Iterable[int] | None = None) -> "Quoted":
        """All of it is a stranger's unless `quoted` says what; of a Quoted, what was."""
        made = super().__new__(cls, text)
        made.quoted = frozenset(
            getattr(text, "quoted", range(len(text))) if quoted is None else quoted
        )
        return made

    def __getnewargs__(self):
        return str(self), self.quoted

    def __add__(self, other: str) -> "Quoted":
        """What is added and is no Quoted is nobody's."""
        return Quoted(
            str(self) + str(other),
            self.quoted | {len(self) + i for i in getattr(other, "quoted", ())},
        )

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
            begin, end = (
                (found[-1][0], max(found.pop()[1], end))
                if found and begin < found[-1][1]
                else (begin, end)
            )
            found.append((begin, end))
    return found


def unquoted(text: "Quoted", names: Collection[str]) -> Counter[str]:
    """How often the text has each name in which no stranger had a hand."""
    return Counter(
        text[begin:end]
        for begin, end in places(text, names)
        if text.quoted.isdisjoint(range(begin, end))
    )


def harmless(sought: Iterable[str], names: Collection[str]) -> list[str]:
    """Of the texts that a template looks for, those out of whose marks, all together, no name could be made."""
    found, marks, of_names = [], set(), [set(_MARK.findall(name)) for name in names]
    for text in sought:
        more = marks.union(_MARK.findall(text))
        if not more & _ESCAPES and not any(own and own <= more for own in of_names):
            found, marks = [*found, text], more
    return found


class Marks:
    """The sign for the renderings of a template: one that neither the template nor the data have."""

    def __init__(self, names: Collection[str], *written: str):
        self._names = names
        self._beginnings = {name[:k] for name in names for k in range(1, len(name))}
        self._longest = max(map(len, self._beginnings), default=0)
        self.sign = next(
            (
                sign
                for sign in _SIGNS
                if not any(sign in w or json.dumps(sign)[1:-1] in w for w in written)
            ),
            None,
        )
        if self.sign is None:
            raise UserError(
                "the messages of a chat hold every sign for private use: take out what is no text"
            )

    def put(self, given: Any, everywhere: bool = False, but: Collection[str] = ()) -> Any:
        """Plain data, with the sign in all their names, and where a text ends in the beginning of one, which the next may finish;
        `everywhere`: also behind each character that is neither a letter, a digit, '_' nor white space, outside of the texts `but`."""
        spared = re.compile("|".join(map(re.escape, sorted(but, key=len, reverse=True))) or "(?!)")

        def marked(text: str) -> set[int]:
            unseen = spared.sub(lambda match: " " * len(match[0]), text)
            return self._of_names(text) | {match.start() for match in _MARK.finditer(unseen)}

        return self._signed(given, marked if everywhere else self._of_names)

    def _signed(self, value: Any, where: Callable[[str], set[int]]) -> Any:
        if isinstance(value, dict):
            return {
                self._signed(key, where): self._signed(part, where) for key, part in value.items()
            }
        if isinstance(value, list):
            return [self._signed(part, where) for part in value]
        if not isinstance(value, str):
            return value
        cuts = [0, *(i + 1 for i in sorted(where(value))), len(value)]
        return self.sign.join(value[a:b] for a, b in itertools.pairwise(cuts))

    def _of_names(self, text: str) -> set[int]:
        begins = {begin for begin, _ in places(text, self._names)}
        ended = text.rstrip()
        return begins | {
            len(ended) - k
            for k in range(1, min(self._longest, len(ended)) + 1)
            if ended[-k:] in self._beginnings
        }

    def taken(self, text: str) -> Quoted:
        """The text without its signs, and what stood before them as a stranger's."""
        signs = "|".join(map(re.escape, (self.sign, json.dumps(self.sign)[1:-1])))
        parts = re.split(signs, text)
        ends = list(itertools.accumulate(map(len, parts[:-1])))
        return Quoted("".join(parts), (end - 1 for end in ends if end))
