"""A context that records the requests of an evaluator and returns prepared answers."""

import types

import numpy as np

from dlm.nn.visibility.full import Full
from dlm.samplers.requests import Reply
from dlm.text.bytes import Bytes


class Asked:
    """`fill(n, hole)` fills the hole of the n-th template: it returns ids or a string."""

    def __init__(
        self,
        documents=(
            "the cat sat on a mat. ",
            "dogs ran up to red barns. ",
            "it rained. ",
        ),
        fill=None,
        visibility=None,
    ):
        self.tokenizer, self.held_out_documents = Bytes().fit(()), list(documents)
        self.objective, self.details, self.asked = (
            types.SimpleNamespace(visibility=visibility or Full()),
            {},
            [],
        )
        self.fill = fill or (lambda n, hole: np.arange(hole) % (5 + n))

    def generate(self, templates, **changes):
        replies = []
        for template in templates:
            parts = [
                self.fill(len(replies), p) if isinstance(p, int) else p
                for p in template
            ]
            ids = np.concatenate(
                [
                    self.tokenizer.encode_prompt(p) if isinstance(p, str) else p
                    for p in parts
                ]
            ).astype(np.int32)
            ends = np.flatnonzero(ids == self.tokenizer.eos)
            text = self.tokenizer.decode(ids[: ends[0]] if len(ends) else ids)
            replies.append(Reply(text, ids, np.zeros(len(ids), bool), 0.0, 4, 0.0))
        self.asked.append((templates, changes))
        return replies

    def draw(self, num, length=0):
        return self.generate([(length or 12,)] * num)


def scores(evaluator, context):
    return {name: (value, se) for name, value, se in evaluator.run(context, 0)}
