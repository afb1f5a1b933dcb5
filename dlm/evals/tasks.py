"""Accuracy on generated problems with an exact grader: the model completes a prompt, the grader says whether it solves the problem.

The problems are held out by the hash of their prompt, so a model trained on `data.problems` of the same task has been asked none of
them. There is as much room for the answer as for the longest one, which blanks fill up as in training. With `ask="fill"` the prompt is
not continued: the answer itself is filled in around its givens (`data.problems.form="answer"`).

`orders` and `steps` ask again with each of these rules of revealing, in each of these numbers of steps: --evals.tasks.steps='(4, 16)'
--evals.tasks.orders='("random", "margin")' scores sudoku_accuracy_random_4 and so on; the rest of the sampler is the run's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dlm.core.config import build_member, member
from dlm.core.errors import UserError
from dlm.core.intervals import jackknife
from dlm.data import problems
from dlm.data.base import digest
from dlm.evals.samples import before
from dlm.samplers.requests import Request
from dlm.tasks.base import Problem


@dataclass(frozen=True)
class Tasks:
    task: Any = member("tasks", "brackets")
    num: int = 64  # problems
    temperature: float = 0.0  # of the sampler while it answers
    ask: Literal["prompt", "fill"] = "prompt"
    orders: tuple[
        Literal["random", "left_to_right", "top", "margin", "entropy"], ...
    ] = ()  # none: the sampler's own rule
    steps: tuple[int, ...] = ()  # none: the sampler's own

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "problems"
    reads: ClassVar[bool] = False

    def __post_init__(self):
        if self.num < 2 or self.temperature < 0:
            raise ValueError(
                f"num={self.num} must be at least 2 and temperature={self.temperature} not negative"
            )
        if any(n < 1 for n in self.steps):
            raise ValueError(f"steps={self.steps} must be positive")
        if self.ask == "fill" and not problems.answer_contains_prompt(self.task):
            raise ValueError(
                f"ask='fill' needs a task whose prompt is a part of the answer, such as tasks.sudoku: not {self.task}"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the problems."""
        tokenizer, asked = context.tokenizer, self.problems(context.tokenizer)
        told = dict(
            sha256=digest(part for p in asked for part in (p.prompt, p.answer))["sha256"],
            rows=len(asked),
        )
        templates = [self.request(p, tokenizer).parts for p in asked]
        for label, changes in self._samplers():
            replies = context.generate(templates, temperature=self.temperature, **changes)
            right_N = [
                self.solves(p, reply, tokenizer) for p, reply in zip(asked, replies, strict=True)
            ]
            context.details.update(trials=len(right_N), task=told)
            yield (
                f"{type(self.task).__name__.lower()}_accuracy{label}",
                *jackknife(np.mean, right_N),
            )

    def check(self, run, tokenizer) -> None:
        """Refuses what `run` would refuse of every model with this tokenizer."""
        self.problems(tokenizer)

    def problems(self, tokenizer, num: int = 0) -> list[Problem]:
        """Return the first `num` held-out problems, by default those that `run` scores."""
        chosen = problems.held_out(self.task, num or self.num)
        for problem in chosen:
            self._check(tokenizer, problem)
        return chosen

    def request(self, problem: Problem, tokenizer) -> Request:
        """Return the problem as the model reads it, with room for the longest answer."""
        if self.ask == "prompt":
            return Request((problem.prompt, self.task.longest + 1))
        end = np.array([tokenizer.eos], np.int32)
        return Request((*self.task.template(problem), end))

    def solves(self, problem: Problem, reply, tokenizer) -> bool:
        """Return whether a reply to the problem's request is a correct answer."""
        return self.task.grade(problem, self._answer(problem, reply, tokenizer))

    def _check(self, tokenizer, problem: Problem) -> None:
        """Refuses a tokenizer of which a token reaches over the border of what is given and what is asked: a text of training was encoded
        whole, a template is in its parts, and so is none that a model has learned to go on from."""
        parts = (problem.prompt,) if self.ask == "prompt" else self.task.template(problem)
        whole = tokenizer.encode(
            problems.document(self.task, problem) if self.ask == "prompt" else problem.answer
        )
        at, fits = 0, True
        for part in parts:
            ids = whole[at : at + part] if isinstance(part, int) else tokenizer.encode(part)
            fits &= np.array_equal(whole[at : at + len(ids)], ids)
            at += len(ids) if isinstance(part, str) else part
        if not fits or (self.ask == "fill" and at != len(whole)):
            raise UserError(
                f"evals.tasks.ask={self.ask!r}: this run's tokenizer joins what is given with what is asked for, as in {problem.prompt!r}: "
                "a score would tell of the tokenizer; train with text='bytes', or leave evals.tasks out"
            )

    def _answer(self, problem: Problem, reply, tokenizer) -> str:
        if self.ask == "fill":
            return reply.text
        return tokenizer.decode(
            before(tokenizer.vocab, reply.ids[len(tokenizer.encode_prompt(problem.prompt)) :])
        ).rstrip(" ")

    def _samplers(self) -> Iterator[tuple[str, dict]]:
        """What a score's name ends with, and the sampler's fields that it changes."""
        for order in self.orders or ("",):
            for steps in self.steps or (0,):
                rule = dict(rule=_rule(order)) if order else {}
                label = "".join(f"_{part}" for part in (order, steps) if part)
                yield label, rule | (dict(steps=steps) if steps else {})


def _rule(order: str):
    """The sampling rule of this name. A random order is each problem's own: one for all may be a lucky one."""
    if order == "random":
        return build_member("samplers.rules.first_hitting", "samplers.rules")
    if order == "left_to_right":
        return build_member(dict(name="samplers.rules.ordered", order=order), "samplers.rules")
    return build_member(dict(name="samplers.rules.confident", confidence=order), "samplers.rules")
