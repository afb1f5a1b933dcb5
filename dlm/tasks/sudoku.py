"""Fill a grid of side s², so that every row, column and box contains each digit once:

    1.3./…  =  the whole grid

The givens may leave several solutions; every one that keeps them is right. A search from row to row
generates the grids, each with the digits in a random order. All grids are possible (288 of side 4,
6.7·10²¹ of side 9), though not equally likely, and few of side 9 are images of one another under a
symmetry. Permutations of a single grid would be one family, which a model may solve without knowing
the rules. Ours in this form.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks.base import Parts, Problem, Task

HOLE = "."
_DIGITS = "123456789"


@dataclass(frozen=True)
class Sudoku(Task):
    """Fill the holes of a grid."""

    box: int = 2  # s: 2 is a grid of 4 × 4, 3 the usual 9 × 9
    holes: float = 0.5  # share of the cells that are removed
    seed: Seed = Seed(0)

    def __post_init__(self):
        if self.box not in (2, 3) or not 0 < self.holes <= 1:
            raise ValueError(
                f"box={self.box} must be 2 or 3 and holes={self.holes} above 0 and at most 1"
            )

    @property
    def longest(self) -> int:
        return self.box**4

    def __getitem__(self, i: int) -> Problem:
        draw = self._random(i)
        cells = self.box**4
        search = _Search(draw, self.box)
        grid = search.grid()
        count = round(self.holes * cells)
        puzzle = list(grid)
        # At least one hole, also in a small grid.
        for cell in draw.sample(range(cells), max(count, 1)):
            puzzle[cell] = HOLE
        prompt = "".join(puzzle)
        return Problem(f"{prompt}=", grid)

    def template(self, problem: Problem) -> Parts:
        parts: list[str | int] = []
        puzzle = problem.prompt[:-1]
        for is_hole, run in itertools.groupby(puzzle, HOLE.__eq__):
            cells = "".join(run)
            parts.append(len(cells) if is_hole else cells)
        return tuple(parts)

    def grade(self, problem: Problem, answer: str) -> bool:
        puzzle = problem.prompt[:-1]
        grid = answer.strip()
        if len(grid) != self.box**4:
            return False
        # Every given must still be there.
        for known, digit in zip(puzzle, grid, strict=True):
            if known not in (HOLE, digit):
                return False
        side = self.box**2
        digits = list(_DIGITS[:side])
        units = _units(grid, self.box)
        return all(sorted(unit) == digits for unit in units)


def _units(grid: str, s: int) -> Iterator[str]:
    """Yields the digits of each row, column and box."""
    side = s * s
    for begin in range(0, len(grid), side):
        yield grid[begin : begin + side]
    for column in range(side):
        yield grid[column::side]
    # A box is the same s columns of s consecutive rows.
    band = s * side
    for top in range(0, len(grid), band):
        rows = grid[top : top + band]
        for left in range(0, side, s):
            parts = [rows[i : i + s] for i in range(left, band, side)]
            yield "".join(parts)


class _Search:
    """Fills a grid cell by cell and goes back from dead ends.

    A set of digits is an int with one bit for each.
    """

    def __init__(self, draw: random.Random, s: int):
        self._s = s
        self._side = s * s
        digits = range(1, self._side + 1)
        # Each row tries the digits in an order of its own.
        self._orders = [draw.sample(digits, self._side) for _ in digits]
        self._rows = [0] * self._side
        self._columns = [0] * self._side
        self._boxes = [0] * self._side
        self._cells = [""] * self._side**2

    def grid(self) -> str:
        """Return a full grid, its cells in reading order."""
        self._fill(0)
        return "".join(self._cells)

    def _fill(self, cell: int) -> bool:
        """Fills the grid from this cell on; False where that is impossible."""
        if cell == len(self._cells):
            return True
        row, column = divmod(cell, self._side)
        box = row - row % self._s + column // self._s
        used = self._rows[row]
        used |= self._columns[column]
        used |= self._boxes[box]
        for digit in self._orders[row]:
            bit = 1 << digit
            if used & bit:
                continue
            # Try the digit, and take it back if the rest cannot be filled.
            self._toggle(row, column, box, bit)
            self._cells[cell] = str(digit)
            if self._fill(cell + 1):
                return True
            self._toggle(row, column, box, bit)
        return False

    def _toggle(self, row: int, column: int, box: int, bit: int) -> None:
        self._rows[row] ^= bit
        self._columns[column] ^= bit
        self._boxes[box] ^= bit
