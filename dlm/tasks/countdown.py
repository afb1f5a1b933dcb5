"""Reach a number with all of the given ones:   3 7 25 46=25+7*3

Operators + − * and brackets. The grader walks the expression's tree and evaluates nothing as code.
After the numbers round of the game show; ours in this form.
"""

import ast
import operator
from collections import Counter
from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks.base import Problem, Task

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
SIGNS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
}
_KINDS = list(OPERATORS)
_BRACKETS_AND_SIGN = 3  # characters that each number may cost besides its digits


@dataclass(frozen=True)
class Countdown(Task):
    """Write an expression of given numbers with a given value."""

    numbers: int = 3
    largest: int = 20
    seed: Seed = Seed(0)

    def __post_init__(self):
        if self.numbers < 2 or self.largest < 1:
            raise ValueError(
                f"numbers={self.numbers} must be at least 2 and largest={self.largest} at least 1"
            )

    @property
    def longest(self) -> int:
        digits = len(str(self.largest))
        return self.numbers * (digits + _BRACKETS_AND_SIGN)

    def __getitem__(self, i: int) -> Problem:
        draw = self._random(i)
        numbers = [draw.randint(1, self.largest) for _ in range(self.numbers)]
        value = numbers[0]
        text = str(value)
        for number in numbers[1:]:
            kind = draw.choice(_KINDS)
            # Only a product needs brackets around a sum.
            if kind is ast.Mult and not text.isdigit():
                text = f"({text})"
            text += f"{SIGNS[kind]}{number}"
            value = OPERATORS[kind](value, number)
        # Sorted, so that the order reveals nothing about the expression.
        listed = " ".join(map(str, sorted(numbers)))
        return Problem(f"{listed} {value}=", text)

    def grade(self, problem: Problem, answer: str) -> bool:
        # The answer is checked against the prompt, not against the known answer.
        listed = problem.prompt[:-1].split()
        *numbers, target = map(int, listed)
        try:
            expression = ast.parse(answer.strip(), mode="eval").body
            value, used = _value(expression)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        uses_all = Counter(used) == Counter(numbers)
        return value == target and uses_all


def _value(node: ast.expr) -> tuple[int, list[int]]:
    """Compute (the value of an expression, the numbers in it).

    Raises ValueError for anything but whole numbers and + − *.
    """
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value, [node.value]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, left_numbers = _value(node.left)
        right, right_numbers = _value(node.right)
        compute = OPERATORS[type(node.op)]
        return compute(left, right), left_numbers + right_numbers
    raise ValueError("not an expression of whole numbers")
