"""Infilling accuracy: a hole in a held-out document is filled and compared with the original.

    tttttttt________tttttttt

A model that attends to both sides is given both; others are given only the left side, and fill the
same hole. The original text is one of many that fit, so this compares models, and is no share of
correct answers.

Source: ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.core.contracts.evaluation import EvalContext
from dlm.core.errors import UserError
from dlm.evals.base import Base, Scores, estimate


@dataclass(frozen=True)
class Infill(Base):
    num: int = 64  # documents
    length: int = 48  # tokens of each document, from its beginning
    hole: int = 8  # tokens in the middle that are removed
    temperature: float = 0.0  # of the sampler while it fills

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "documents"

    def __post_init__(self):
        if not 0 < self.hole < self.length or self.num < 2 or self.temperature < 0:
            raise ValueError(
                f"hole={self.hole} must be inside the length, num at least 2, "
                f"temperature not negative: length={self.length} num={self.num} "
                f"temperature={self.temperature}"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        real_NL = self._documents(context)
        begin = (self.length - self.hole) // 2
        end = begin + self.hole
        templates = []
        for ids in real_NL:
            template = [ids[:begin], self.hole]
            if context.objective.visibility.infills:
                template.append(ids[end:])
            templates.append(tuple(template))
        replies = context.generate(templates, temperature=self.temperature)

        # The tokens of a document depend on each other: a document is one item.
        rows = []
        for reply, ids in zip(replies, real_NL, strict=True):
            rows.append(reply.ids[begin:end] == ids[begin:end])
        right_NK = np.array(rows)
        context.details["trials"] = len(right_NK)
        yield estimate("token_accuracy", np.mean, right_NK.mean(1))
        yield estimate("exact_match", np.mean, right_NK.all(1))

    def _documents(self, context: EvalContext) -> list[np.ndarray]:
        """The beginnings of the first documents that are long enough."""
        documents: list[np.ndarray] = []
        for document in context.held_out_documents:
            ids = context.tokenizer.encode(document)
            if len(ids) >= self.length:
                documents.append(ids[: self.length])
            if len(documents) == self.num:
                return documents
        if len(documents) < 2:
            raise UserError(
                f"only {len(documents)} held-out document(s) have {self.length} tokens: "
                "make --evals.infill.length smaller"
            )
        return documents
