"""Generated problems as a corpus: each document is a prompt and an answer of one of the `tasks`, filled up with blanks.

    prompt=answer·····      as long as the longest answer, so that how much room there is tells nothing of the answer, in training as
                            in evaluation

Problems are held out by the hash of their prompt: no prompt that is asked was trained on, whichever of its answers was shown.
"""

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from dlm import data
from dlm.core.config import member
from dlm.core.errors import UserError
from dlm.tasks import Problem

SHARE = 0.05  # of the problems that are never trained on


@dataclass(frozen=True)
class Problems:
    task: Any = member("tasks", "brackets")
    count: int = 20_000  # problems, of which SHARE is held out
    form: Literal["whole", "answer"] = "whole"
    unique: bool = (
        False  # equal documents are kept once: rare ones become as frequent as frequent ones
    )

    def __post_init__(self):
        if self.form == "answer" and not hasattr(self.task, "template"):
            raise ValueError(
                f"form='answer' needs a task whose prompt is a part of the answer, such as tasks.sudoku: not {self.task}"
            )
        if self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")

    def documents(self, split: data.Split) -> list[str]:
        problems = self._all[0][split]
        if not problems:
            raise UserError(
                f"none of {self.count} problems is in the split {split!r}: make config.data.source.count larger"
            )
        return problems

    @property
    def dropped(self) -> dict[str, int]:
        return self._all[1]

    @functools.cached_property
    def _all(self) -> tuple[dict[data.Split, list[str]], dict[str, int]]:
        splits: dict[data.Split, list[str]] = dict(train=[], held_out=[])
        for problem in map(self.task.__getitem__, range(self.count)):
            text = problem.answer if self.form == "answer" else document(self.task, problem)
            splits["held_out" if _is_held_out(self.task, problem) else "train"].append(text)
        dropped: Counter = Counter()
        return {
            split: data.kept(problems, self.unique, dropped) for split, problems in splits.items()
        }, dict(+dropped)


def document(task, problem: Problem) -> str:
    """What a model is trained on."""
    return problem.prompt + problem.answer.ljust(task.longest)


def _is_held_out(task, problem: Problem) -> bool:
    return data.is_held_out(problem.answer if hasattr(task, "template") else problem.prompt, SHARE)


def held_out(task, num: int) -> list[Problem]:
    """The first `num` different problems that training leaves out.

    Raises UserError for a task that has not as many.
    """
    problems, i = {}, 0
    while len(problems) < num:
        problem = task[i]
        if _is_held_out(task, problem):
            problems.setdefault(problem.prompt, problem)
        i += 1
        if i > 1000 * (num + 10):
            raise UserError(
                f"{type(task).__name__} has only {len(problems)} held-out problems among its first {i}: ask for fewer, or make it larger"
            )
    return list(problems.values())
