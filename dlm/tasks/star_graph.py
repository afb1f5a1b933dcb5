"""Find the path from the centre of a star to the end of one of its arms, without its two ends:

    a>b,d>e,e>f,b>c,c>g,a>d g-a=bc

The first step decides everything, and from left to right it is the hardest to know (Bachmann &
Nagarajan, arXiv:2403.06963).

The end is written before the centre, so the answer continues where the question ends, and nodes
follow each other without a separator: each node of a step, in the question or the answer, is at a
fixed distance from the neighbours that can be read.
"""

import itertools
from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks.base import Problem, Task

NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class StarGraph(Task):
    """Find a path in a star."""

    arms: int = 3
    length: int = 3  # edges of each arm
    names: int = len(
        NAMES
    )  # letters for nodes; with fewer, an edge is sooner looked up
    seed: Seed = Seed(0)

    def __post_init__(self):
        if self.names > len(NAMES):
            raise ValueError(
                f"names={self.names} must be at most {len(NAMES)}, the letters that there are"
            )
        if self.length < 2:
            raise ValueError(
                f"length={self.length} must be at least 2: "
                "a way of one edge has no node between its ends"
            )
        if self.arms < 1 or self._edges + 1 > self.names:
            raise ValueError(
                f"arms={self.arms} × length={self.length} must be "
                f"from 1 to names - 1 = {self.names - 1} edges"
            )

    @property
    def _edges(self) -> int:
        return self.arms * self.length

    @property
    def longest(self) -> int:
        return self.length - 1

    def __getitem__(self, i: int) -> Problem:
        draw = self._random(i)
        # Each problem assigns its letters to nodes at random.
        centre, *others = draw.sample(NAMES[: self.names], self._edges + 1)
        arms = []
        for begin in range(0, self._edges, self.length):
            arms.append([centre, *others[begin : begin + self.length]])
        # The prompt must not reveal which edges form an arm.
        edges = [edge for arm in arms for edge in _edges_of(arm)]
        draw.shuffle(edges)
        path = draw.choice(arms)
        question = f"{','.join(edges)} {path[-1]}-{centre}="
        return Problem(question, "".join(path[1:-1]))

    def grade(self, problem: Problem, answer: str) -> bool:
        edges, ends = problem.prompt[:-1].split(" ")
        end, centre = ends.split("-")
        steps = _edges_of([centre, *answer.strip(), end])
        known = set(edges.split(","))
        return len(steps) == self.length and known.issuperset(steps)


def _edges_of(path: list[str]) -> list[str]:
    return [f"{start}>{end}" for start, end in itertools.pairwise(path)]
