"""Generated problems as a corpus: each document is a prompt and an answer of one of the `tasks`."""

import functools
from dataclasses import dataclass
from typing import Any

from dlm import data
from dlm.run.spec import UserError, member
from dlm.tasks import Problem

SHARE = 0.05  # of the problems that are never trained on


@dataclass(frozen=True)
class Problems:
    task: Any = member("tasks", "brackets")
    count: int = 20_000  # problems, of which SHARE is held out

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")

    def documents(self, split: data.Split) -> list[str]:
        if not self._splits[split]:
            raise UserError(f"none of {self.count} problems is in the split {split!r}: make config.data.source.count larger")
        return self._splits[split]

    @functools.cached_property
    def _splits(self) -> dict[data.Split, list[str]]:
        return data.by_hash((self.task[i].document for i in range(self.count)), SHARE)


def held_out(task, num: int) -> list[Problem]:
    """The first `num` different problems that training leaves out."""
    found, i = {}, 0
    while len(found) < num:
        problem = task[i]
        if data.is_held_out(problem.document, SHARE):
            found[problem.document] = problem
        i += 1
        if i > 1000 * (num + 10):
            raise ValueError(f"{type(task).__name__} has only {len(found)} different problems among the first {i} that are held out")
    return list(found.values())
