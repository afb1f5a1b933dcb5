"""Accuracy on generated problems with an exact grader: the model completes a prompt.

The problems are held out by the hash of their prompt, so a model trained on `data.problems` of the
same task has seen none of them. There is as much room for the answer as for the longest one; blanks
fill it up as in training. With `ask="fill"` the prompt is not continued: the answer itself is
filled in around the parts of it that the prompt contains (`data.problems.form="answer"`).

`orders` and `steps` repeat the evaluation with each of these rules of revealing, in each of these
numbers of steps: --evals.tasks.steps='(4, 16)' --evals.tasks.orders='("random", "margin")' yields
sudoku_accuracy_random_4 and so on. The other fields of the sampler are the run's.

Source: ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dlm.core.config import build_member, member
from dlm.core.contracts.evaluation import Drawn, EvalContext
from dlm.core.errors import UserError
from dlm.core.run import Run
from dlm.data import problems
from dlm.data.base import digest
from dlm.evals.base import Base, Scores, estimate
from dlm.evals.samples import before
from dlm.samplers.requests import Request
from dlm.tasks.base import Problem

Order = Literal["random", "left_to_right", "top", "margin", "entropy"]


@dataclass(frozen=True)
class Tasks(Base):
    task: Any = member("tasks", "brackets")
    num: int = 64  # problems
    temperature: float = 0.0  # of the sampler while it answers
    ask: Literal["prompt", "fill"] = "prompt"
    orders: tuple[Order, ...] = ()  # (): the sampler's own rule
    steps: tuple[int, ...] = ()  # (): the sampler's own

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "problems"
    reads: ClassVar[bool] = False

    def __post_init__(self):
        if self.num < 2 or self.temperature < 0:
            raise ValueError(
                f"num={self.num} must be at least 2 and temperature={self.temperature} not negative"
            )
        if any(steps < 1 for steps in self.steps):
            raise ValueError(f"steps={self.steps} must be positive")
        if self.ask == "fill" and not problems.answer_contains_prompt(self.task):
            raise ValueError(
                "ask='fill' needs a task whose prompt is a part of the answer, "
                f"such as tasks.sudoku: not {self.task}"
            )

    def check(self, run: Run, tokenizer: Any) -> None:
        """Raises UserError for a tokenizer that does not suit the task."""
        self.problems(tokenizer)

    def run(self, context: EvalContext, step: int) -> Scores:
        tokenizer = context.tokenizer
        chosen = self.problems(tokenizer)
        identity = _identity(chosen)
        templates = [self.request(problem, tokenizer).parts for problem in chosen]
        name = type(self.task).__name__.lower()
        for label, changes in self._samplers():
            replies = context.generate(
                templates, temperature=self.temperature, **changes
            )
            right_N = []
            for problem, reply in zip(chosen, replies, strict=True):
                right_N.append(self.solves(problem, reply, tokenizer))
            context.details.update(trials=len(right_N), task=identity)
            yield estimate(f"{name}_accuracy{label}", np.mean, right_N)

    def problems(self, tokenizer: Any, num: int = 0) -> list[Problem]:
        """Returns the first `num` held-out problems, by default those that `run` scores."""
        chosen = problems.held_out(self.task, num or self.num)
        for problem in chosen:
            self._check_borders(tokenizer, problem)
        return chosen

    def request(self, problem: Problem, tokenizer: Any) -> Request:
        """Returns the problem as the model reads it, with room for the longest answer."""
        if self.ask == "prompt":
            # One more than the longest answer, for the end of the text.
            return Request((problem.prompt, self.task.longest + 1))
        end = np.array([tokenizer.eos], np.int32)
        return Request((*self.task.template(problem), end))

    def solves(self, problem: Problem, reply: Drawn, tokenizer: Any) -> bool:
        """Returns whether a reply to the problem's request is a correct answer."""
        answer = self._answer(problem, reply, tokenizer)
        return self.task.grade(problem, answer)

    def _check_borders(self, tokenizer: Any, problem: Problem) -> None:
        """Raises UserError where a token reaches over the border of a template's parts.

        A training text was encoded whole, and a template is encoded in its parts: its ids would be
        none that a model has learned to continue.
        """
        parts = self.task.template(problem)
        text = problem.answer
        if self.ask == "prompt":
            parts = (problem.prompt,)
            text = problems.document(self.task, problem)
        whole = tokenizer.encode(text)
        begin = 0
        fits = True
        for part in parts:
            # A hole has as many tokens as it has characters.
            if isinstance(part, int):
                begin += part
                continue
            ids = tokenizer.encode(part)
            end = begin + len(ids)
            fits &= np.array_equal(whole[begin:end], ids)
            begin = end
        if self.ask == "fill":
            fits &= begin == len(whole)
        if not fits:
            raise UserError(
                f"evals.tasks.ask={self.ask!r}: this run's tokenizer joins what is given with "
                f"what is asked for, as in {problem.prompt!r}: a score would tell of the "
                "tokenizer; train with text='bytes', or leave evals.tasks out"
            )

    def _answer(self, problem: Problem, reply: Drawn, tokenizer: Any) -> str:
        """The answer in a reply, without the prompt and the blanks."""
        if self.ask == "fill":
            return reply.text
        # Blanks fill up the room behind a short answer.
        prompt = tokenizer.encode_prompt(problem.prompt)
        ids = before(tokenizer.vocab, reply.ids[len(prompt) :])
        return tokenizer.decode(ids).rstrip(" ")

    def _samplers(self) -> Iterator[tuple[str, dict]]:
        """The end of a score's name, and the fields of the sampler that it changes."""
        for order in self.orders or (None,):
            for steps in self.steps or (None,):
                label = ""
                changes: dict[str, Any] = {}
                if order:
                    label += f"_{order}"
                    changes["rule"] = _rule(order)
                if steps:
                    label += f"_{steps}"
                    changes["steps"] = steps
                yield label, changes


def _identity(chosen: list[Problem]) -> dict[str, Any]:
    """A hash of all problems, by which scores on others are recognised."""
    # Prompts and answers, since a task may change either.
    texts = []
    for problem in chosen:
        texts += [problem.prompt, problem.answer]
    return dict(sha256=digest(texts)["sha256"], rows=len(chosen))


def _rule(order: str) -> Any:
    """The sampling rule that reveals in this order."""
    # A random order is drawn for each problem: one for all may be a lucky one.
    if order == "random":
        return build_member("samplers.rules.first_hitting", "samplers.rules")
    fields = dict(name="samplers.rules.confident", confidence=order)
    if order == "left_to_right":
        fields = dict(name="samplers.rules.ordered", order=order)
    return build_member(fields, "samplers.rules")
