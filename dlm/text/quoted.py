"""Quoted: text in which the names of special tokens that strangers wrote stay text.

    template's own  '<|user|>'   stranger's  'say <|eos|>'   template's own  '<|eos|>'
    ids                   1 id                plain pieces                        1 id

A `Quoted` keeps this when texts are joined. A chat template does not know the type, so there each
name carries a sign behind its first character. That character is no white space, so filters and
trims treat the name like any other text; afterwards the signs are removed.

A template may also make a name out of text that contains none. A second rendering finds this: it
has a sign behind each character of the data that could be part of a name (`Marks.put` with
`everywhere`). A name without a sign in that rendering is the template's own.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from dlm.core.errors import UserError

# First the space of no width, invisible if one is left in a text; then characters for private use.
_SIGNS = ("\u200b", *map(chr, range(0x100000, 0x10FFFE)))
_MARK = re.compile(r"[^\w\s]")  # neither a letter, a digit, '_' nor white space
_ESCAPES = frozenset("&%\\{}")  # they begin what stands for another character in some notation
_NEVER = "(?!)"  # a pattern that matches nothing


class Quoted(str):
    """A text; `quoted` are the positions of a stranger's characters. A name with one is text."""

    quoted: frozenset[int]

    def __new__(cls, text: str, quoted: Iterable[int] | None = None) -> "Quoted":
        """Without `quoted`, all of the text is a stranger's; a Quoted keeps its own positions."""
        self = super().__new__(cls, text)
        if quoted is None:
            quoted = text.quoted if isinstance(text, Quoted) else range(len(text))
        self.quoted = frozenset(quoted)
        return self

    def __getnewargs__(self):
        return str(self), self.quoted

    def __add__(self, other: str) -> "Quoted":
        """Join the texts; a plain str contains no character of a stranger."""
        moved = {len(self) + position for position in _positions(other)}
        return Quoted(str(self) + str(other), self.quoted | moved)

    def __radd__(self, other: str) -> "Quoted":
        moved = (len(other) + position for position in self.quoted)
        return Quoted(str(other) + str(self), moved)

    def rstrip(self, characters: str | None = None) -> "Quoted":
        text = super().rstrip(characters)
        remaining = (position for position in self.quoted if position < len(text))
        return Quoted(text, remaining)


def _positions(text: str) -> frozenset[int]:
    return text.quoted if isinstance(text, Quoted) else frozenset()


def places(text: str, names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of every name in the text, overlapping ones included."""
    for name in names:
        begin = text.find(name)
        while begin >= 0:
            yield begin, begin + len(name)
            begin = text.find(name, begin + 1)


def spelled(text: str, names: Collection[str]) -> list[tuple[int, int]]:
    """List (begin, end) of names with a stranger's characters, in order, overlaps as one span."""
    quoted = _positions(text)
    spans: list[tuple[int, int]] = []
    # Most texts have no quoted part and need no search.
    if not quoted:
        return spans
    for begin, end in sorted(places(text, names)):
        if quoted.isdisjoint(range(begin, end)):
            continue
        # A name that overlaps the last span extends it.
        if spans and begin < spans[-1][1]:
            begin, last_end = spans.pop()
            end = max(last_end, end)
        spans.append((begin, end))
    return spans


def unquoted(text: Quoted, names: Collection[str]) -> Counter[str]:
    """Count how often the text contains each name without any character of a stranger."""
    spans = places(text, names)
    own = (span for span in spans if text.quoted.isdisjoint(range(*span)))
    return Counter(text[begin:end] for begin, end in own)


def harmless(sought: Iterable[str], names: Collection[str]) -> list[str]:
    """Select texts, of those that a template looks for, whose marks cannot make up a name.

    The marks of all the selected texts together contain those of no name.
    """
    marks_of_names = [set(_MARK.findall(name)) for name in names]
    selected: list[str] = []
    marks: set[str] = set()
    for text in sought:
        more = marks.union(_MARK.findall(text))
        completes_a_name = any(own and own <= more for own in marks_of_names)
        if not more & _ESCAPES and not completes_a_name:
            selected.append(text)
            marks = more
    return selected


class Marks:
    """Puts a sign into the data of a template and removes it from the rendering.

    The sign is a character that neither the template nor the data contain.
    """

    def __init__(self, names: Collection[str], *written: str):
        """Choose the sign; `written` are all texts that must not contain it."""
        self._names = names
        self._beginnings = {name[:k] for name in names for k in range(1, len(name))}
        self._longest = max(map(len, self._beginnings), default=0)
        self.sign = self._unused_sign(written)
        self._escaped_sign = _escaped(self.sign)

    @staticmethod
    def _unused_sign(written: tuple[str, ...]) -> str:
        for sign in _SIGNS:
            # JSON may write the sign as an escape, so that is searched for too.
            escaped = _escaped(sign)
            if not any(sign in text or escaped in text for text in written):
                return sign
        raise UserError(
            "the messages of a chat contain every sign for private use: "
            "take out the characters that are no text"
        )

    def put(self, data: Any, everywhere: bool = False, but: Collection[str] = ()) -> Any:
        """Put the sign into all names in plain data.

        A text that ends with the beginning of a name gets one too, because the next text may
        complete the name. `everywhere`: also behind each character that is neither a letter, a
        digit, '_' nor white space, except in the texts `but`.
        """
        if not everywhere:
            return self._signed(data, self._of_names)
        alternatives = map(re.escape, sorted(but, key=len, reverse=True))
        spared = re.compile("|".join(alternatives) or _NEVER)

        def of_names_and_marks(text: str) -> set[int]:
            unspared = spared.sub(lambda match: " " * len(match[0]), text)
            marks = {match.start() for match in _MARK.finditer(unspared)}
            return self._of_names(text) | marks

        return self._signed(data, of_names_and_marks)

    def _signed(self, value: Any, where: Callable[[str], set[int]]) -> Any:
        """Put the sign behind the characters at the positions `where(text)` of every text."""
        if isinstance(value, dict):
            pairs = value.items()
            return {self._signed(key, where): self._signed(part, where) for key, part in pairs}
        if isinstance(value, list):
            return [self._signed(part, where) for part in value]
        if not isinstance(value, str):
            return value
        behind = (position + 1 for position in sorted(where(value)))
        cuts = itertools.pairwise([0, *behind, len(value)])
        return self.sign.join(value[begin:end] for begin, end in cuts)

    def _of_names(self, text: str) -> set[int]:
        """Positions where a name begins, whole or at the end of the text."""
        begins = {begin for begin, _ in places(text, self._names)}
        # A template may trim the text before it joins the next one.
        trimmed = text.rstrip()
        for length in range(1, min(self._longest, len(trimmed)) + 1):
            if trimmed[-length:] in self._beginnings:
                begins.add(len(trimmed) - length)
        return begins

    def taken(self, text: str) -> Quoted:
        """Remove the signs; the character before each of them is quoted."""
        signs = re.escape(self.sign) + "|" + re.escape(self._escaped_sign)
        parts = re.split(signs, text)
        ends = itertools.accumulate(map(len, parts[:-1]))
        return Quoted("".join(parts), (end - 1 for end in ends if end))


def _escaped(sign: str) -> str:
    r"""Write a character as JSON does: '\u200b'."""
    return json.dumps(sign)[1:-1]
