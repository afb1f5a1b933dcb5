"""Fill a grid of side s², so that every row, column and box holds each digit once:   1.3./…  =  the whole grid

The givens may leave several solutions: every one that keeps them is right.
"""

from dataclasses import dataclass

from dlm.tasks import Problem, rng


@dataclass(frozen=True)
class Sudoku:
    box: int = 2  # s: 2 is a grid of 4 × 4, 3 the usual 9 × 9
    holes: float = 0.5  # share of the cells that are taken out
    seed: int = 0

    def __post_init__(self):
        if self.box not in (2, 3) or not 0 < self.holes <= 1:
            raise ValueError(f"box={self.box} must be 2 or 3 and holes={self.holes} above 0 and at most 1")

    @property
    def longest(self) -> int:
        return self.box**4

    def __getitem__(self, i: int) -> Problem:
        draw, s = rng(self, i), self.box

        def shuffled() -> list[int]:
            """Rows or columns in an order that keeps boxes together."""
            return [s * b + k for b in draw.sample(range(s), s) for k in draw.sample(range(s), s)]

        rows, columns, digits = shuffled(), shuffled(), draw.sample(range(1, s * s + 1), s * s)
        grid = "".join(str(digits[(s * (r % s) + r // s + c) % (s * s)]) for r in rows for c in columns)
        taken = set(draw.sample(range(s**4), max(round(self.holes * s**4), 1)))
        return Problem("".join("." if n in taken else d for n, d in enumerate(grid)) + "=", grid)

    def grade(self, problem: Problem, answer: str) -> bool:
        s, given, grid = self.box, problem.prompt[:-1], answer.strip()
        if len(grid) != s**4 or any(g not in (".", d) for g, d in zip(given, grid, strict=True)):
            return False
        rows = [grid[n : n + s * s] for n in range(0, s**4, s * s)]
        boxes = ["".join(rows[r + k][c : c + s] for k in range(s)) for r in range(0, s * s, s) for c in range(0, s * s, s)]
        whole = sorted(map(str, range(1, s * s + 1)))
        return all(sorted(part) == whole for part in [*rows, *map("".join, zip(*rows, strict=True)), *boxes])
