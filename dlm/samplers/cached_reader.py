"""What a pass reads: the whole canvas, or the part of it that a cache does not know yet.

              prefix        prompt & finished blocks │ block │ rest        whole: the first pass of a block    part: all others
    none                    r r r r r r r r r r r r    r r r   r r r       every pass is whole
    exact, causal           · · · · · · · · · · · ·    r       · · ·       one position; those before it are known
    exact, block-causal     · · · · · · · · · b b b    r r r   · · ·       whole: the block before, now that it is clean, and the block
    dual                    · · · · · · · · · · · ·    r r r   · · ·       part
    prefix                  · · · · · · · · · · · ·    r r r   r r r       part; in one of four widths, so that few programs compile
    delayed                 · · · · · · · · · · · ·    r · r   · · ·       part; masks, and what was revealed in the last pass, in one of
                                                                           a few widths

A bidirectional network's keys and values depend on the whole canvas, so prefix, dual and delayed caches are approximations: their memory is
as old as their last whole pass. With `refresh=1` every pass is whole.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Net, Output, Visibility
from dlm.nn.visibility import is_autoregressive

_NARROWEST = 16  # positions of a delayed pass


@dataclass(frozen=True)
class Reader:
    """Reads what is asked for at R places, with as few positions as its cache allows."""

    net: Net
    visibility: Visibility
    kind: str  # of the cache
    size: int  # R, the positions of a block
    bos: int
    aligned: bool = (
        True  # whether the places asked for are those of a run, none of them beyond the canvas
    )

    @property
    def has_parts(self) -> bool:
        """Whether some passes read less than the first of a block."""
        return self.kind in ("prefix", "dual", "delayed") or (
            self.kind == "exact" and not is_autoregressive(self.visibility)
        )

    @property
    def stepwise(self) -> bool:
        """Whether every block must be read in its turn, even if nothing in it is to be decided."""
        return self.kind == "exact"

    def whole(self, canvas: Canvas, memory, block, row_index_BR) -> tuple[Output, Any]:
        """(Output at the places, memory) of a pass that brings the memory up to date."""
        L = canvas.z_BL.shape[1]
        if self.kind == "none":
            return self._at(self.net(canvas), row_index_BR, L), None
        if self.kind != "exact":
            return self._run(canvas, memory, 0, L, row_index_BR)
        if is_autoregressive(self.visibility):
            return self._run(canvas, memory, block, 1, row_index_BR)
        width = min(2 * self.size, L)
        return self._run(
            canvas,
            memory,
            jnp.minimum(jnp.maximum(block - 1, 0) * self.size, L - width),
            width,
            row_index_BR,
        )

    def part(self, canvas: Canvas, memory, block, row_index_BR) -> tuple[Output, Any]:
        """The same with a memory that is kept."""
        L = canvas.z_BL.shape[1]
        if self.kind != "prefix":
            start = jnp.minimum(block * self.size, L - self.size)
            return self._run(
                canvas,
                memory,
                start,
                self.size,
                row_index_BR,
                None if self.aligned else block * self.size,
            )
        widths = sorted({min(L, -(-L * k // 4 // self.size) * self.size) for k in (1, 2, 3, 4)})
        which = sum(jnp.int32(L - block * self.size > w) for w in widths[:-1])
        branches = [
            lambda c, m, w=w: self._run(c, m, L - w, w, row_index_BR, block * self.size)
            for w in widths
        ]
        return jax.lax.switch(which, branches, canvas, memory)

    def widths(self) -> list[int]:
        """Of delayed passes."""
        sizes = [self.size]
        while sizes[-1] // 2 >= _NARROWEST:
            sizes.append(-(-sizes[-1] // 2))
        return sizes[::-1]

    def scattered(self, canvas: Canvas, memory, row_index_BR, wanted_BR) -> tuple[Output, Any]:
        """A pass over these places alone; of those that are not wanted nothing is remembered."""
        slots_BR = jnp.where(wanted_BR, row_index_BR, canvas.z_BL.shape[1])  # outside of the memory
        window = canvas.gather(row_index_BR)
        window = replace(window, layout=replace(window.layout, index_BL=slots_BR))
        return self._read(window, canvas, memory, None)

    def first(self, canvas: Canvas, memory, count: int):
        """The memory after the first `count` positions, which are all anchors."""
        return self._run(canvas, memory, 0, count, None)[1]

    def _run(self, canvas: Canvas, memory, start, width: int, row_index_BR, first=None):
        """A pass over a run of positions, of which those from `first` on are remembered: blocks before it are finished."""

        def slice_of(x_BL):
            return jax.lax.dynamic_slice_in_dim(x_BL, start, width, 1)

        window = canvas.cut(slice_of, (start + jnp.arange(width))[None])
        if self.visibility.shift == "input":
            first_B = self.bos if canvas.before_B is None else canvas.before_B
            before_B = canvas.z_BL[:, jnp.maximum(start - 1, 0)]
            before_B = jnp.where(jnp.asarray(start) > 0, before_B, first_B)
            window = replace(window, before_B=before_B)
        output, memory = self._read(window, canvas, memory, start, first)
        return (
            output if row_index_BR is None else self._at(output, row_index_BR - start, width)
        ), memory

    def _read(self, window: Canvas, canvas: Canvas, memory, start, first=None):
        where = dict(slots_BL=window.layout.index_BL, start=start, first=first)
        cache = replace(memory, layout=canvas.layout, **where)
        output = self.net(replace(window, cache=cache))
        return replace(output, cache=None), output.cache

    def _at(self, output: Output, row_index_BR, width: int) -> Output:
        output = replace(output, hidden_BLD=None)
        return (
            output
            if row_index_BR.shape[1] == width and self.aligned
            else output.gather(jnp.clip(row_index_BR, 0, width - 1))
        )
