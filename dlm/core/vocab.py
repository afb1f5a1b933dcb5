"""The ids that mean something to a model."""

import functools
import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocab:
    """The ids that mean something to a model; given by the tokenizer, never by a config."""

    size: int
    bos: int
    eos: int
    pad: int
    mask: int
    excluded: tuple[int, ...] | None = (
        None  # what is never generated, where that is not bos, pad and mask
    )
    stops: tuple[int, ...] = ()  # what ends a text besides eos, such as the end of a turn

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids that end a text; the first is the eos that training writes behind a document."""
        return (self.eos, *(i for i in self.stops if i != self.eos))

    @property
    def never(self) -> tuple[int, ...]:
        """Ids that no model ever generates. Published models may use one id for eos, bos and pad, and what ends a text must stay."""
        return (
            tuple(i for i in (self.bos, self.pad, self.mask) if i not in self.ends)
            if self.excluded is None
            else self.excluded
        )

    def ending(self, ids):
        """Where an id ends a text, bool; `ids` is an array of NumPy or of JAX."""
        return functools.reduce(operator.or_, (ids == end for end in self.ends))
