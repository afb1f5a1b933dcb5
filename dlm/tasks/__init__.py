"""tasks — generated problems with an exact grader, one per file. No JAX.

A task is a sequence of problems without end, the same in every process: `task[i] → Problem`, `task.grade(problem, answer) → bool`,
`task.longest`, the characters of the longest answer. A grader checks the answer, it does not compare it with one that is known. What is
asked stands in the prompt in one canonical form, so that two problems are the same where their prompts are.

A task whose prompt is a part of the answer, as a puzzle is of its solution, has `task.template(problem)` as well: the answer as a tuple of
what is given (strings) and what is to be filled in (how many characters).
"""

import random
from typing import NamedTuple


class Problem(NamedTuple):
    prompt: str
    answer: str  # one that is right


def rng(task, i: int) -> random.Random:
    """Of problem `i`, whatever was asked before."""
    return random.Random(f"{type(task).__name__} {task.seed} {i}")
