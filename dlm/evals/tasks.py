"""Accuracy on generated problems with an exact grader: the model completes a prompt, the grader says whether it solves the problem.

The problems are held out by the hash of their prompt, so a model trained on `data.problems` of the same task has been asked none of
them. There is as much room for the answer as for the longest one, which blanks fill up as in training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dlm.data import problems
from dlm.evals import jackknife
from dlm.run.spec import member


@dataclass(frozen=True)
class Tasks:
    task: Any = member("tasks", "brackets")
    num: int = 64  # problems
    temperature: float = 0.0  # of the sampler while it answers

    claims: ClassVar[str] = "samples"

    def __post_init__(self):
        if self.num < 2 or self.temperature < 0:
            raise ValueError(f"num={self.num} must be at least 2 and temperature={self.temperature} not negative")

    def run(self, subject, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the problems."""
        asked = problems.held_out(self.task, self.num)
        replies = subject.generate([(p.prompt, self.task.longest + 1) for p in asked], temperature=self.temperature)
        right_N = [self.task.grade(p, reply.text[len(p.prompt) :].rstrip(" ")) for p, reply in zip(asked, replies, strict=True)]
        yield f"{type(self.task).__name__.lower()}_accuracy", *jackknife(np.mean, right_N)
