"""Computes the prediction at the positions of a step: the whole canvas, or what a cache lacks.

                           prompt, decided blocks    block   rest
    none                   r r r r r r r r r r r r   r r r   r r r    every pass is whole
    exact, causal          · · · · · · · · · · · ·   r       · · ·    one position
    exact, block-causal    · · · · · · · · · b b b   r r r   · · ·    whole: the block before, too
    dual                   · · · · · · · · · · · ·   r r r   · · ·    part
    prefix                 · · · · · · · · · · · ·   r r r   r r r    part; in one of four widths
    delayed                · · · · · · · · · · · ·   r · r   · · ·    part; masks, and tokens that
                                                                      the last pass revealed

whole: the first pass of a block; part: all others. The widths are few, so that few programs are
compiled.

r, b: positions that a pass computes. The keys and values of a bidirectional network depend on the
whole canvas, so prefix, dual and delayed caches are approximations, as old as their last whole
pass. With `refresh=1` every pass is whole. Sources: Fast-dLLM (arXiv:2505.22618) for prefix and
dual, dKV-Cache (arXiv:2505.15781) for delayed.

Shapes: B rows, L positions, R of them in the window of a step.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Cache, Canvas, Net, Output, Visibility
from dlm.nn.visibility import is_autoregressive

_NARROWEST = 16  # positions of a delayed pass
Read = tuple[Output, Cache | None]
Place = int | Array  # a position, or the number of a block


@dataclass(frozen=True)
class Reader:
    """Computes the prediction in a window, with as few positions as the cache allows."""

    net: Net
    visibility: Visibility
    kind: str  # of the cache (`plan.cache_kind`)
    size: int  # positions of a block
    bos: int  # token before the first position, where the canvas names no other
    aligned: bool = (
        True  # whether windows are runs of positions, none of them beyond the canvas
    )

    @property
    def has_parts(self) -> bool:
        """Whether some passes compute less than the first of a block."""
        if self.kind == "exact":
            return not is_autoregressive(self.visibility)
        return self.kind in ("prefix", "dual", "delayed")

    @property
    def stepwise(self) -> bool:
        """Whether every block is computed in its turn, also where it is decided already."""
        return self.kind == "exact"

    # ------------------------------------------------------------------------ kinds of passes

    def whole(
        self,
        canvas: Canvas,
        cache: Cache | None,
        block: Place,
        index_BR: Array,
    ) -> Read:
        """Computes the window and everything that the cache is to be renewed with."""
        L = canvas.z_BL.shape[1]
        if self.kind == "none" or cache is None:
            return self._at(self.net(canvas), index_BR, L), None
        if self.kind != "exact":
            return self._run(canvas, cache, 0, L, index_BR)
        if is_autoregressive(self.visibility):
            return self._run(canvas, cache, block, 1, index_BR)
        # The block before is decided now, so its keys and values are final.
        width = min(2 * self.size, L)
        before = jnp.maximum(block - 1, 0)
        start = jnp.minimum(before * self.size, L - width)
        return self._run(canvas, cache, start, width, index_BR)

    def part(
        self,
        canvas: Canvas,
        cache: Cache | None,
        block: Place,
        index_BR: Array,
    ) -> Read:
        """Computes the window, and with a prefix cache all that follows."""
        L = canvas.z_BL.shape[1]
        first = block * self.size
        if self.kind == "prefix":
            return self._suffix(canvas, cache, first, index_BR)
        start = jnp.minimum(first, L - self.size)
        # A last block beyond the canvas is computed with positions before it.
        keep_before = None if self.aligned else first
        return self._run(canvas, cache, start, self.size, index_BR, keep_before)

    def _suffix(self, canvas: Canvas, cache: Cache | None, first, index_BR) -> Read:
        """Computes everything from the block on, in the narrowest of four widths that suffices."""
        L = canvas.z_BL.shape[1]
        # Quarters of the canvas, rounded up to blocks.
        widths = set()
        for quarter in (1, 2, 3, 4):
            blocks = -(-L * quarter // 4 // self.size)
            widths.add(min(L, blocks * self.size))
        ascending = sorted(widths)

        def of_width(width):
            def run(canvas, cache):
                return self._run(canvas, cache, L - width, width, index_BR, first)

            return run

        programs = [of_width(width) for width in ascending]
        which = sum(jnp.int32(L - first > width) for width in ascending[:-1])
        return jax.lax.switch(which, programs, canvas, cache)

    def widths(self) -> list[int]:
        """Returns the widths of delayed passes."""
        sizes = [self.size]
        while sizes[-1] // 2 >= _NARROWEST:
            sizes.append(-(-sizes[-1] // 2))
        return sizes[::-1]

    def scattered(
        self, canvas: Canvas, cache: Cache | None, index_BR, cached_BR
    ) -> Read:
        """Computes these positions; of those not in `cached_BR` no key or value is stored."""
        beyond = canvas.z_BL.shape[1]
        slots_BR = jnp.where(cached_BR, index_BR, beyond)
        window = canvas.gather(index_BR)
        layout = replace(window.layout, index_BL=slots_BR)
        window = replace(window, layout=layout)
        return self._call(window, canvas, cache, None)

    def prefill(self, canvas: Canvas, cache: Cache | None, count: int) -> Cache | None:
        """Returns the cache after the first `count` positions, which are all anchors."""
        _, stored = self._run(canvas, cache, 0, count, None)
        return stored

    # ------------------------------------------------------------------- one call of the network

    def _run(
        self,
        canvas: Canvas,
        cache: Cache | None,
        start: Place,
        width: int,
        index_BR: Array | None,
        first: Place | None = None,
    ) -> Read:
        """Computes a run of `width` positions, and stores those from `first` on."""

        def slice_of(x_BL):
            return jax.lax.dynamic_slice_in_dim(x_BL, start, width, 1)

        index_R = start + jnp.arange(width)
        window = canvas.cut(slice_of, index_R[None])
        if self.visibility.shift == "input":
            window = replace(window, before_B=self._before(canvas, start))
        output, stored = self._call(window, canvas, cache, start, first)
        if index_BR is not None:
            output = self._at(output, index_BR - start, width)
        return output, stored

    def _before(self, canvas: Canvas, start) -> Array:
        """Returns the token before the run."""
        first_B = self.bos if canvas.before_B is None else canvas.before_B
        previous = jnp.maximum(start - 1, 0)
        begins = jnp.asarray(start) == 0
        return jnp.where(begins, first_B, canvas.z_BL[:, previous])

    def _call(
        self,
        window: Canvas,
        canvas: Canvas,
        cache: Cache | None,
        start: Place | None,
        first: Place | None = None,
    ) -> Read:
        assert cache is not None, "only kind 'none' computes without one"
        slots_BL = window.layout.index_BL
        layout = canvas.layout
        cache = replace(
            cache, layout=layout, slots_BL=slots_BL, start=start, first=first
        )
        output = self.net(replace(window, cache=cache))
        stored = output.cache
        if stored is not None:  # without the slots, which only this pass used
            stored = Cache(stored.k_NBMJK, stored.v_NBMJK)
        return replace(output, cache=None), stored

    def _at(self, output: Output, index_BR: Array, width: int) -> Output:
        """Returns the output at positions of a run, those beyond it at its ends."""
        output = replace(output, hidden_BLD=None)
        if self.aligned and index_BR.shape[1] == width:
            return output
        index_BR = jnp.clip(index_BR, 0, width - 1)
        return output.gather(index_BR)
