"""Find the way from the centre of a star to the end of one of its arms:   a>b,b>c,a>d,d>e a-e=a>d>e

Bachmann & Nagarajan (arXiv:2403.06963): the first step decides everything, and left to right it is the hardest to know.
"""

from dataclasses import dataclass

from dlm.tasks import Problem, rng

NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class StarGraph:
    arms: int = 3
    length: int = 3  # edges of each arm
    names: int = len(NAMES)  # letters that nodes are called by, anew in each problem; the fewer, the sooner an edge is looked up
    seed: int = 0

    def __post_init__(self):
        if self.names > len(NAMES):
            raise ValueError(f"names={self.names} must be at most {len(NAMES)}, the letters that there are")
        if min(self.arms, self.length) < 1 or self.arms * self.length + 1 > self.names:
            raise ValueError(f"arms={self.arms} × length={self.length} must be from 1 to names - 1 = {self.names - 1} edges")

    @property
    def longest(self) -> int:
        return 2 * self.length + 1

    def __getitem__(self, i: int) -> Problem:
        draw = rng(self, i)
        centre, *others = draw.sample(NAMES[: self.names], self.arms * self.length + 1)
        arms = [[centre, *others[a * self.length : (a + 1) * self.length]] for a in range(self.arms)]
        edges = [f"{x}>{y}" for arm in arms for x, y in zip(arm, arm[1:], strict=False)]
        draw.shuffle(edges)
        way = draw.choice(arms)
        return Problem(f"{','.join(edges)} {centre}-{way[-1]}=", ">".join(way))

    def grade(self, problem: Problem, answer: str) -> bool:
        edges, ends = problem.prompt[:-1].split(" ")
        known = {tuple(edge.split(">")) for edge in edges.split(",")}
        way = answer.strip().split(">")
        steps = list(zip(way, way[1:], strict=False))
        return (way[0], way[-1]) == tuple(ends.split("-")) and len(steps) == self.length and all(step in known for step in steps)
