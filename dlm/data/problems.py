"""Generated problems as a corpus: each document is a prompt and an answer, padded with blanks.

    prompt=answer·····      as long as the longest answer: the room left for an answer reveals
                            nothing about it, in training as in evaluation

Problems are held out by the hash of their prompt: no evaluated prompt was in training, whichever of
its answers was shown. The problems are those of the family `tasks`. Ours.
"""

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from dlm.core.config import member
from dlm.core.errors import UserError
from dlm.data.base import Source, Split, Splits, filtered, is_held_out
from dlm.tasks.base import Problem, Task

SHARE = 0.05  # of the problems that are held out
_TRIES = 1000  # problems that are generated for each one that is to be held out


@dataclass(frozen=True)
class Problems(Source):
    """Generate documents from one of the tasks."""

    task: Any = member("tasks", "brackets")
    count: int = 20_000  # problems, before SHARE of them is held out
    form: Literal["whole", "answer"] = "whole"  # whole: prompt and answer
    unique: bool = (
        False  # drop equal documents: rare ones become as frequent as frequent ones
    )

    def __post_init__(self):
        if self.form == "answer" and not answer_contains_prompt(self.task):
            raise ValueError(
                "form='answer' needs a task whose prompt is a part of the answer, "
                f"such as tasks.sudoku: not {self.task}"
            )
        if self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")

    def documents(self, split: Split) -> list[str]:
        problems = self._all[0][split]
        if not problems:
            raise UserError(
                f"none of {self.count} problems is in the split {split!r}: "
                "make config.data.source.count larger"
            )
        return problems

    @property
    def dropped(self) -> dict[str, int]:
        return self._all[1]

    @functools.cached_property
    def _all(self) -> tuple[Splits, dict[str, int]]:
        train: list[str] = []
        held_out: list[str] = []
        for i in range(self.count):
            problem = self.task[i]
            split = held_out if _is_held_out(self.task, problem) else train
            split.append(self._document(problem))
        dropped: Counter = Counter()
        train = filtered(train, self.unique, dropped)
        held_out = filtered(held_out, self.unique, dropped)
        return dict(train=train, held_out=held_out), dict(+dropped)

    def _document(self, problem: Problem) -> str:
        return problem.answer if self.form == "answer" else document(self.task, problem)


def answer_contains_prompt(task: Task) -> bool:
    """Whether a task's prompt is a part of its answer, as a puzzle is of its solution."""
    return task.template(task[0]) is not None


def document(task: Task, problem: Problem) -> str:
    """Return the text that a model is trained on."""
    return problem.prompt + problem.answer.ljust(task.longest)


def _is_held_out(task: Task, problem: Problem) -> bool:
    # Two puzzles of one solution must be in the same split.
    has_template = task.template(problem) is not None
    return is_held_out(problem.answer if has_template else problem.prompt, SHARE)


def held_out(task: Task, num: int) -> list[Problem]:
    """Generate the first `num` different problems that are held out.

    Raises UserError for a task that has not as many.
    """
    problems: dict[str, Problem] = {}
    i = 0
    while len(problems) < num:
        problem = task[i]
        if _is_held_out(task, problem):
            problems.setdefault(problem.prompt, problem)
        i += 1
        if i > _TRIES * (num + 10):
            raise UserError(
                f"{type(task).__name__} has only {len(problems)} held-out problems "
                f"among its first {i}: ask for fewer, or make it larger"
            )
    return list(problems.values())
