"""Close what is open:   ([{<   =   >}])

The prompt is the beginning of a balanced string, the answer any ending that balances it. Ours.
"""

from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks.base import Problem, Task

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_OPENING = "".join(PAIRS)
_CLOSING_SHARE = 0.45  # chance that a prompt closes a bracket where it may do either


@dataclass(frozen=True)
class Brackets(Task):
    """Complete a string of brackets."""

    depth: int = 6  # brackets left open at most
    opened: int = 10  # brackets opened in the prompt
    seed: Seed = Seed(0)

    def __post_init__(self):
        if not 1 <= self.depth <= self.opened:
            raise ValueError(
                f"depth={self.depth} must be from 1 to opened={self.opened}"
            )

    @property
    def longest(self) -> int:
        return self.depth

    def __getitem__(self, i: int) -> Problem:
        draw = self._random(i)
        text = ""
        stack: list[str] = []
        left = self.opened
        # Something must be open at the end, so that there is an answer.
        while left or not stack:
            is_full = len(stack) == self.depth
            if stack and (is_full or draw.random() < _CLOSING_SHARE):
                text += PAIRS[stack.pop()]
            else:
                stack.append(draw.choice(_OPENING))
                text += stack[-1]
                left = max(left - 1, 0)
        answer = "".join(PAIRS[bracket] for bracket in reversed(stack))
        return Problem(f"{text}=", answer)

    def grade(self, problem: Problem, answer: str) -> bool:
        expected = []
        for character in problem.prompt[:-1] + answer:
            if character in PAIRS:
                expected.append(PAIRS[character])
            elif not expected or expected.pop() != character:
                return False
        return not expected
