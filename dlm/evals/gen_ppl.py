"""Generative perplexity: what another, autoregressive model thinks of the samples. Always with their variety, since dull text scores well.

    gen_bits_per_byte = Σ −log₂ p_judge(sample) / Σ bytes,     gen_ppl = exp(Σ −log p_judge / Σ tokens of the judge)

The judge is a run directory. It reads each sample from its beginning, cut at the length that it was trained with, and the eos of those
that end in one. Its scores of as many held-out documents, cut at as many tokens, say where real text stands.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dlm.data import pack
from dlm.evals import jackknife
from dlm.evals.samples import Samples, before, variety
from dlm.run import mesh
from dlm.run.spec import UserError


@dataclass(frozen=True)
class GenPPL(Samples):
    judge: str = ""  # run directory of an autoregressive model

    def run(self, subject, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the samples."""
        if not self.judge:
            raise UserError("a judge is missing: --evals.gen_ppl.judge=RUN, the directory of an autoregressive run")
        judge = trusted(subject, self.judge, "--evals.gen_ppl.judge")
        replies, tokenizer = subject.draw(self.num, self.length), subject.tokenizer
        real = [np.append(ids, tokenizer.eos) for ids in tokenizer.encode_all(subject.held_out_documents[: self.num])]
        for name, ids_N in dict(gen=[r.ids for r in replies], real=[ids[: len(replies[0].ids)] for ids in real]).items():
            yield from perplexity(name, judge, ids_N, tokenizer)
        yield from variety([reply.ids for reply in replies], subject.tokenizer.vocab)


def trusted(subject, workdir: str, flag: str):
    """The run that judges what `subject` drew; `flag` named it."""
    judge = subject.other(workdir)
    if judge.objective.claims != "exact":
        raise UserError(f"{flag}={workdir} is no autoregressive run: its likelihood is a bound")
    return judge


def _ended(ids: np.ndarray, tokenizer) -> tuple[str, bool]:
    """(text up to its first end, whether there is one)."""
    text = before(tokenizer.vocab, ids)
    return tokenizer.decode(text), len(text) < len(ids)


def judged(judge, texts: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
    """[N, 3]: nats, bytes and tokens of each text under the judge, with an eos where it has `ended`."""
    loader, tokenizer, rows = judge.experiment.run.data, judge.tokenizer, []
    bound = judge.experiment.bound(2)
    for begin in range(0, len(texts), loader.batch):
        part = slice(begin, begin + loader.batch)
        encoded = zip(tokenizer.encode_all(list(texts[part])), ended[part], strict=True)
        ids_B = [np.append(ids, [tokenizer.eos] * end)[: loader.length].astype(np.int32) for ids, end in encoded]
        batch = pack.apart(ids_B, loader.batch, loader.length, tokenizer.pad)
        nats_BL = mesh.fetch(bound(judge.params, judge.experiment.put(batch), judge.key)).nats_BL
        size_BL = tokenizer.bytes_V[batch["tokens_BL"]] * batch["weights_BL"]
        rows += [(nats_BL[b].sum(), size_BL[b].sum(), len(ids)) for b, ids in enumerate(ids_B)]  # an empty text costs nothing
    return np.array(rows, np.float64)


def perplexity(name: str, judge, ids_N: Sequence[np.ndarray], tokenizer) -> Iterator[tuple[str, float, float]]:
    """What the judge thinks of these texts, given as ids of `tokenizer`."""
    rows_N3 = judged(judge, *zip(*(_ended(ids, tokenizer) for ids in ids_N), strict=True))

    def bits(rows):
        return rows[:, 0].sum() / math.log(2) / max(rows[:, 1].sum(), 1)

    yield f"{name}_bits_per_byte", *jackknife(bits, rows_N3)
    yield f"{name}_ppl", *jackknife(lambda rows: math.exp(rows[:, 0].sum() / max(rows[:, 2].sum(), 1)), rows_N3)
