"""Fill a grid of side s², so that every row, column and box holds each digit once:   1.3./…  =  the whole grid

The givens may leave several solutions: every one that keeps them is right. Grids are found by a search from row to row, each with the
digits in a random order: all are possible (288 of side 4, 6.7·10²¹ of side 9), though not equally likely, and few of side 9 are images
of one another under a symmetry. Permutations of a single grid would be one family, which a model may solve without knowing the rules.
"""

import itertools
import random
from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks import Problem, rng


@dataclass(frozen=True)
class Sudoku:
    box: int = 2  # s: 2 is a grid of 4 × 4, 3 the usual 9 × 9
    holes: float = 0.5  # share of the cells that are taken out
    seed: Seed = 0

    def __post_init__(self):
        if self.box not in (2, 3) or not 0 < self.holes <= 1:
            raise ValueError(
                f"box={self.box} must be 2 or 3 and holes={self.holes} above 0 and at most 1"
            )

    @property
    def longest(self) -> int:
        return self.box**4

    def __getitem__(self, i: int) -> Problem:
        draw, cells = rng(self, i), self.box**4
        grid = _grid(draw, self.box)
        taken = set(draw.sample(range(cells), max(round(self.holes * cells), 1)))
        return Problem("".join("." if n in taken else d for n, d in enumerate(grid)) + "=", grid)

    def template(self, problem: Problem) -> tuple[str | int, ...]:
        runs = (
            ("".join(run), hole) for hole, run in itertools.groupby(problem.prompt[:-1], ".".__eq__)
        )
        return tuple(len(run) if hole else run for run, hole in runs)

    def grade(self, problem: Problem, answer: str) -> bool:
        s, given, grid = self.box, problem.prompt[:-1], answer.strip()
        if len(grid) != s**4 or any(g not in (".", d) for g, d in zip(given, grid, strict=True)):
            return False
        rows = [grid[n : n + s * s] for n in range(0, s**4, s * s)]
        boxes = [
            "".join(rows[r + k][c : c + s] for k in range(s))
            for r in range(0, s * s, s)
            for c in range(0, s * s, s)
        ]
        whole = sorted(map(str, range(1, s * s + 1)))
        return all(
            sorted(part) == whole
            for part in [*rows, *map("".join, zip(*rows, strict=True)), *boxes]
        )


def _grid(draw: random.Random, s: int) -> str:
    """A full grid, its cells in reading order."""
    side = s * s
    places = [divmod(cell, side) for cell in range(side * side)]
    order = [
        [(str(d), 1 << d) for d in draw.sample(range(1, side + 1), side)] for _ in range(side)
    ]  # that a row's cells try
    rows, columns, boxes, grid = [0] * side, [0] * side, [0] * side, [""] * (side * side)

    def fill(cell: int) -> bool:
        if cell == side * side:
            return True
        r, c = places[cell]
        b = r - r % s + c // s
        taken = rows[r] | columns[c] | boxes[b]
        for digit, bit in order[r]:
            if not taken & bit:
                rows[r], columns[c], boxes[b], grid[cell] = (
                    rows[r] | bit,
                    columns[c] | bit,
                    boxes[b] | bit,
                    digit,
                )
                if fill(cell + 1):
                    return True
                rows[r], columns[c], boxes[b] = rows[r] ^ bit, columns[c] ^ bit, boxes[b] ^ bit
        return False

    fill(0)
    return "".join(grid)
