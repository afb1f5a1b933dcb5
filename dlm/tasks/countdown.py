"""Reach a number with all of the given ones:   3 7 25 46=25+7*3

Operators + − * and brackets; a grader walks the expression's tree, nothing is evaluated as code.
"""

import ast
import operator
from collections import Counter
from dataclasses import dataclass

from dlm.core.named import Seed
from dlm.tasks import Problem, rng

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


@dataclass(frozen=True)
class Countdown:
    numbers: int = 3
    largest: int = 20
    seed: Seed = 0

    def __post_init__(self):
        if self.numbers < 2 or self.largest < 1:
            raise ValueError(
                f"numbers={self.numbers} must be at least 2 and largest={self.largest} at least 1"
            )

    @property
    def longest(self) -> int:
        return self.numbers * (len(str(self.largest)) + 3)

    def __getitem__(self, i: int) -> Problem:
        draw = rng(self, i)
        numbers = [draw.randint(1, self.largest) for _ in range(self.numbers)]
        value, text = numbers[0], str(numbers[0])
        for n in numbers[1:]:
            kind = draw.choice(list(OPERATORS))
            text = (
                f"({text}){SIGNS[kind]}{n}"
                if kind is ast.Mult and not text.isdigit()
                else f"{text}{SIGNS[kind]}{n}"
            )
            value = OPERATORS[kind](value, n)
        return Problem(f"{' '.join(map(str, sorted(numbers)))} {value}=", text)

    def grade(self, problem: Problem, answer: str) -> bool:
        *numbers, target = map(int, problem.prompt[:-1].split())
        try:
            value, used = _value(ast.parse(answer.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        return value == target and Counter(used) == Counter(numbers)


def _value(node: ast.expr) -> tuple[int, list[int]]:
    """The value of an expression and the numbers in it; anything else but whole numbers and + − * is an error."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value, [node.value]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        (a, used), (b, more) = _value(node.left), _value(node.right)
        return OPERATORS[type(node.op)](a, b), used + more
    raise ValueError("not an expression of whole numbers")
