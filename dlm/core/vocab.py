"""The special ids of a vocabulary."""

import functools
import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocab:
    """The ids that mean something to a model; the tokenizer provides them, never a config."""

    size: int
    bos: int
    eos: int
    pad: int
    mask: int
    excluded: tuple[int, ...] | None = (
        None  # ids never generated; None: bos, pad and mask
    )
    stops: tuple[
        int, ...
    ] = ()  # further ids that end a text, such as the end of a turn

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids that end a text; the first is the eos that follows each training document."""
        return (self.eos, *(i for i in self.stops if i != self.eos))

    @property
    def never(self) -> tuple[int, ...]:
        """Ids that no model generates.

        Published models may use one id as eos, bos and pad; an id that ends a text must stay.
        """
        if self.excluded is not None:
            return self.excluded
        specials = (self.bos, self.pad, self.mask)
        return tuple(i for i in specials if i not in self.ends)

    def ending(self, ids):
        """Return where an id ends a text, bool; `ids` is an array of NumPy or JAX."""
        return functools.reduce(operator.or_, (ids == end for end in self.ends))
