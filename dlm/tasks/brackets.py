"""Close what is open:   ([{<   =   >}])

The prompt is the beginning of a balanced string, the answer any ending that balances it.
"""

from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks import Problem, rng

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


@dataclass(frozen=True)
class Brackets:
    depth: int = 6  # brackets left open at most
    opened: int = 10  # brackets opened in the prompt
    seed: Seed = 0

    def __post_init__(self):
        if not 1 <= self.depth <= self.opened:
            raise ValueError(f"depth={self.depth} must be from 1 to opened={self.opened}")

    @property
    def longest(self) -> int:
        return self.depth

    def __getitem__(self, i: int) -> Problem:
        draw, text, stack, left = rng(self, i), "", [], self.opened
        while left or not stack:
            if stack and (len(stack) == self.depth or draw.random() < 0.45):
                text += PAIRS[stack.pop()]
            else:
                stack.append(draw.choice("([{<"))
                text, left = text + stack[-1], max(left - 1, 0)
        return Problem(f"{text}=", "".join(PAIRS[b] for b in reversed(stack)))

    def grade(self, problem: Problem, answer: str) -> bool:
        stack = []
        for character in problem.prompt[:-1] + answer:
            if character in PAIRS:
                stack.append(PAIRS[character])
            elif not stack or stack.pop() != character:
                return False
        return not stack
