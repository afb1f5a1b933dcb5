"""Find the way from the centre of a star to the end of one of its arms, all but its two ends:   a>b,d>e,e>f,b>c,c>g,a>d g-a=bc

Bachmann & Nagarajan (arXiv:2403.06963): the first step decides everything, and left to right it is the hardest to know.

The end stands before the centre, so that the answer goes on where the question stops, and nodes follow one another without a sign between
them: the node of a step, whether asked for or given, stands at a fixed distance from every neighbour that is always there to be read.
"""

from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks import Problem, rng

NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class StarGraph:
    arms: int = 3
    length: int = 3  # edges of each arm
    names: int = len(
        NAMES
    )  # letters that nodes are called by, anew in each problem; the fewer, the sooner an edge is looked up
    seed: Seed = 0

    def __post_init__(self):
        if self.names > len(NAMES):
            raise ValueError(
                f"names={self.names} must be at most {len(NAMES)}, the letters that there are"
            )
        if self.length < 2:
            raise ValueError(
                f"length={self.length} must be at least 2: a way of one edge has no node between its ends"
            )
        if self.arms < 1 or self.arms * self.length + 1 > self.names:
            raise ValueError(
                f"arms={self.arms} × length={self.length} must be from 1 to names - 1 = {self.names - 1} edges"
            )

    @property
    def longest(self) -> int:
        return self.length - 1

    def __getitem__(self, i: int) -> Problem:
        draw = rng(self, i)
        centre, *others = draw.sample(NAMES[: self.names], self.arms * self.length + 1)
        arms = [
            [centre, *others[a * self.length : (a + 1) * self.length]] for a in range(self.arms)
        ]
        edges = [f"{x}>{y}" for arm in arms for x, y in zip(arm, arm[1:], strict=False)]
        draw.shuffle(edges)
        way = draw.choice(arms)
        return Problem(f"{','.join(edges)} {way[-1]}-{centre}=", "".join(way[1:-1]))

    def grade(self, problem: Problem, answer: str) -> bool:
        edges, ends = problem.prompt[:-1].split(" ")
        end, centre = ends.split("-")
        way = [centre, *answer.strip(), end]
        steps = [f"{x}>{y}" for x, y in zip(way, way[1:], strict=False)]
        return len(steps) == self.length and set(steps) <= set(edges.split(","))
