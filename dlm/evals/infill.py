"""Infilling accuracy: a hole in the middle of a held-out document is filled, and its tokens compared with those that stood there.

    tttttttt________tttttttt      a diffusion model sees both sides; an autoregressive one is given the left side alone, and fills
                                  the same hole

The text that stood there is one of many that fit, so this is a yardstick between models, not a share of correct answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.core.errors import UserError
from dlm.core.intervals import jackknife


@dataclass(frozen=True)
class Infill:
    num: int = 64  # documents
    length: int = 48  # tokens of each that are looked at
    hole: int = 8  # tokens in the middle that are taken out
    temperature: float = 0.0  # of the sampler while it fills

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "documents"

    def __post_init__(self):
        if not 0 < self.hole < self.length or self.num < 2 or self.temperature < 0:
            given = f"length={self.length} num={self.num} temperature={self.temperature}"
            raise ValueError(
                f"hole={self.hole} must be inside the length, num at least 2, temperature not negative: {given}"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the documents."""
        real_NL = self._documents(context)
        begin = (self.length - self.hole) // 2
        end, both = begin + self.hole, context.objective.visibility.infills
        templates = [(ids[:begin], self.hole, *([ids[end:]] if both else [])) for ids in real_NL]
        replies = context.generate(templates, temperature=self.temperature)
        right_NK = np.array(
            [
                reply.ids[begin:end] == ids[begin:end]
                for reply, ids in zip(replies, real_NL, strict=True)
            ]
        )
        context.details["trials"] = len(right_NK)
        yield "token_accuracy", *jackknife(np.mean, right_NK.mean(1))
        yield "exact_match", *jackknife(np.mean, right_NK.all(1))

    def _documents(self, context) -> list[np.ndarray]:
        documents = []
        for ids in map(context.tokenizer.encode, context.held_out_documents):
            if len(ids) >= self.length:
                documents.append(ids[: self.length])
            if len(documents) == self.num:
                return documents
        if len(documents) < 2:
            raise UserError(
                f"only {len(documents)} held-out document(s) have {self.length} tokens: make --evals.infill.length smaller"
            )
        return documents
