"""Quoted: untrusted text, in which the names of special tokens stay text.

    template's own  '<|user|>'   untrusted  'say <|eos|>'   template's own  '<|eos|>'
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
_ESCAPES = frozenset("&%\\{}")  # they begin the escape of a character in some notation
_NEVER = "(?!)"  # a pattern that matches nothing

Names = Collection[str]
Span = tuple[int, int]  # begin and end of a name in a text
Spans = list[Span]
Where = Callable[[str], set[int]]  # positions in a text


class Quoted(str):
    """A text; `quoted` are the positions of untrusted characters. A name with one is text."""

    quoted: frozenset[int]

    def __new__(cls, text: str, quoted: Iterable[int] | None = None) -> "Quoted":
        """Without `quoted`, all of the text is untrusted; a Quoted keeps its own positions."""
        self = super().__new__(cls, text)
        if isinstance(text, Quoted) and quoted is None:
            quoted = text.quoted
        elif quoted is None:
            quoted = range(len(text))
        self.quoted = frozenset(quoted)
        return self

    def __getnewargs__(self):
        return str(self), self.quoted

    def __add__(self, other: str) -> "Quoted":
        """Join the texts; a plain str contains no untrusted character."""
        text = str(self) + str(other)
        moved = {len(self) + position for position in _positions(other)}
        return Quoted(text, self.quoted | moved)

    def __radd__(self, other: str) -> "Quoted":
        text = str(other) + str(self)
        moved = (len(other) + position for position in self.quoted)
        return Quoted(text, moved)

    def rstrip(self, characters: str | None = None) -> "Quoted":
        text = super().rstrip(characters)
        length = len(text)
        remaining = (position for position in self.quoted if position < length)
        return Quoted(text, remaining)


def _positions(text: str) -> frozenset[int]:
    if isinstance(text, Quoted):
        return text.quoted
    return frozenset()


def any_of(names: Names) -> re.Pattern[str]:
    """Compile a pattern for any of the names; of several that begin together, the longest."""
    by_length = sorted(names, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, by_length))
    return re.compile(alternatives or _NEVER)


def places(text: str, names: Names) -> Iterator[Span]:
    """Yield (begin, end) of every name in the text, overlapping ones included."""
    for name in names:
        begin = text.find(name)
        while begin >= 0:
            end = begin + len(name)
            yield begin, end
            begin = text.find(name, begin + 1)


def spelled(text: str, names: Names) -> Spans:
    """List (begin, end) of names with untrusted characters, in order, overlaps as one span."""
    quoted = _positions(text)
    spans: Spans = []
    # Most texts have no quoted part and need no search.
    if not quoted:
        return spans
    ordered = sorted(places(text, names))
    for begin, end in ordered:
        if quoted.isdisjoint(range(begin, end)):
            continue
        last_begin, last_end = spans[-1] if spans else (0, 0)
        # A name that overlaps the last span extends it.
        if begin < last_end:
            spans.pop()
            begin = last_begin
            end = max(last_end, end)
        spans.append((begin, end))
    return spans


def unquoted(text: Quoted, names: Names) -> Counter[str]:
    """Count how often the text contains each name without any untrusted character."""
    count: Counter[str] = Counter()
    for begin, end in places(text, names):
        positions = range(begin, end)
        if text.quoted.isdisjoint(positions):
            name = text[begin:end]
            count[name] += 1
    return count


def harmless(sought: Iterable[str], names: Names) -> list[str]:
    """Select texts, of those that a template looks for, whose marks cannot make up a name.

    The marks of all the selected texts together contain those of no name.
    """
    marks_of_names = list(map(_marks_in, names))
    selected: list[str] = []
    marks: set[str] = set()
    for text in sought:
        more = marks | _marks_in(text)
        completes_name = any(own and own <= more for own in marks_of_names)
        has_escape = bool(more & _ESCAPES)
        if not has_escape and not completes_name:
            selected.append(text)
            marks = more
    return selected


def _marks_in(text: str) -> set[str]:
    return set(_MARK.findall(text))


class Marks:
    """Puts a sign into the data of a template and removes it from the rendering.

    The sign is a character that neither the template nor the data contain.
    """

    def __init__(self, names: Names, *written: str):
        """Choose the sign; `written` are all texts that must not contain it."""
        self._names = names
        # A whole name is no beginning: it needs nothing more.
        self._beginnings: set[str] = set()
        for name in names:
            for length in range(1, len(name)):
                self._beginnings.add(name[:length])
        lengths = map(len, self._beginnings)
        self._longest = max(lengths, default=0)
        self.sign = self._unused_sign(written)
        self._escaped_sign = _escaped(self.sign)

    @staticmethod
    def _unused_sign(written: tuple[str, ...]) -> str:
        for sign in _SIGNS:
            # JSON may write the sign as an escape, so that is searched for too.
            forms = (sign, _escaped(sign))
            is_used = any(form in text for text in written for form in forms)
            if not is_used:
                return sign
        raise UserError(
            "the messages of a chat contain every sign for private use: "
            "take out the characters that are no text"
        )

    def put(self, data: Any, everywhere: bool = False, but: Names = ()) -> Any:
        """Put the sign into all names in plain data.

        A text that ends with the beginning of a name gets one too, because the next text may
        complete the name. `everywhere`: also behind each character that is neither a letter, a
        digit, '_' nor white space, except in the texts `but`.
        """
        if not everywhere:
            return self._signed(data, self._of_names)
        spared = any_of(but)

        def of_names_and_marks(text: str) -> set[int]:
            # A spared text is overwritten by blanks, which are no marks.
            searched = spared.sub(_blanks, text)
            positions = self._of_names(text)
            for mark in _MARK.finditer(searched):
                positions.add(mark.start())
            return positions

        return self._signed(data, of_names_and_marks)

    def _signed(self, value: Any, where: Where) -> Any:
        """Puts the sign behind the characters at the positions `where(text)` of every text."""
        if isinstance(value, dict):
            signed = {}
            for key, part in value.items():
                signed_key = self._signed(key, where)
                signed[signed_key] = self._signed(part, where)
            return signed
        if isinstance(value, list):
            return [self._signed(part, where) for part in value]
        if not isinstance(value, str):
            return value
        return self._signed_text(value, where(value))

    def _signed_text(self, text: str, positions: set[int]) -> str:
        parts = []
        begin = 0
        for position in sorted(positions):
            end = position + 1
            parts.append(text[begin:end])
            begin = end
        parts.append(text[begin:])
        return self.sign.join(parts)

    def _of_names(self, text: str) -> set[int]:
        """Positions where a name begins, whole or at the end of the text."""
        begins = set()
        for begin, _ in places(text, self._names):
            begins.add(begin)
        # A template may trim the text before it joins the next one.
        trimmed = text.rstrip()
        longest = min(self._longest, len(trimmed))
        for length in range(1, longest + 1):
            begin = len(trimmed) - length
            if trimmed[begin:] in self._beginnings:
                begins.add(begin)
        return begins

    def taken(self, text: str) -> Quoted:
        """Remove the signs; the character before each of them is quoted."""
        signs = any_of((self.sign, self._escaped_sign))
        parts = signs.split(text)
        # Each part but the last ends with an untrusted character.
        lengths = map(len, parts[:-1])
        ends = itertools.accumulate(lengths)
        positions = (end - 1 for end in ends if end)
        return Quoted("".join(parts), positions)


def _blanks(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _escaped(sign: str) -> str:
    r"""Write a character as JSON does: '\u200b'."""
    return json.dumps(sign)[1:-1]
