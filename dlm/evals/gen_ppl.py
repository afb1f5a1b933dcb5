"""Generative perplexity: the likelihood of the samples under another, autoregressive model.

    gen_bits_per_byte = Σ −log₂ p_judge(sample) / Σ bytes
    gen_ppl = exp(Σ −log p_judge / Σ tokens of the judge)

The variety of the samples is always scored beside it, since repetitive text has a high likelihood.

The judge is a run directory. It reads each sample from its beginning, cut at the length that it was
trained with, and the eos of those that end in one. Its scores of as many held-out documents, cut at
as many tokens, say what real text scores.

    same tokenizer       the judge reads the ids that were drawn
    another tokenizer    it reads their bytes, in ids of its own

It never reads their text: young models draw bytes that are no UTF-8, and a text has three other
bytes for each. Two more scores are `cut`, the share of the bytes that were too long for the judge,
and `lost`, the share of the tokens that have no bytes or no id of the judge.

Source: arXiv:2310.16834 (SEDD), section 5.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from dlm.core.contracts.evaluation import EvalContext
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run
from dlm.data import packing
from dlm.evals.base import Scores, estimate
from dlm.evals.samples import Samples, before, variety
from dlm.machine import mesh

Texts = Sequence[np.ndarray]

# The columns of `judged`.
NATS = 0
BYTES = 1
TOKENS = 2
CUT_BYTES = 3
LOST = 4
DRAWN = 5


@dataclass(frozen=True)
class GenPPL(Samples):
    judge: Place = cast(Place, "")  # run directory of an autoregressive model

    reads: ClassVar[bool] = True

    def check(self, run: Run, tokenizer: Any) -> None:
        """Raises UserError, before a run is trained, where no judge is named."""
        self._require_judge()

    def _require_judge(self) -> None:
        if not self.judge:
            raise UserError(
                "a judge is missing: --evals.gen_ppl.judge=RUN, "
                "the directory of an autoregressive run"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        self._require_judge()
        tokenizer = context.tokenizer
        judge = trusted(context, self.judge, "--evals.gen_ppl.judge")
        replies = context.draw(self.num, self.length)
        drawn = [reply.ids for reply in replies]
        context.details["judge"] = identity(judge)
        context.details["over"] = "samples"
        yield from perplexity("gen", judge, drawn, tokenizer)

        # Real text of the same length, which the judge scores in the same way.
        documents = context.held_out_documents[: self.num]
        length = len(drawn[0])
        real = []
        for ids in tokenizer.encode_all(documents):
            whole = np.append(ids, tokenizer.eos)
            real.append(whole[:length])
        context.details["over"] = "documents"
        yield from perplexity("real", judge, real, tokenizer)
        context.details["over"] = "samples"
        yield from variety(drawn, tokenizer.vocab)


def identity(judge: EvalContext) -> dict[str, Any]:
    """Returns which model judged: its directory, its checkpoint, the sha256 of its config."""
    assert judge.folder is not None
    folder = judge.folder
    config = (folder / "config.json").read_bytes()
    digest = hashlib.sha256(config)
    return {
        "dir": str(folder.resolve()),
        "step": judge.step,
        "config": digest.hexdigest(),
    }


def trusted(context: EvalContext, workdir: str, flag: str) -> EvalContext:
    """Opens the run that scores the samples of `context`; `flag` named it."""
    judge = context.open_run(workdir)
    if judge.objective.claims != "exact":
        raise UserError(
            f"{flag}={workdir} is no autoregressive run: its likelihood is a bound"
        )
    return judge


class Translated(NamedTuple):
    """A text in ids of the judge's tokenizer, up to its first end."""

    ids: np.ndarray
    lost: int  # tokens that have no ids there
    drawn: int  # tokens before


def judged(judge: EvalContext, ids_N: Texts, tokenizer: Any) -> np.ndarray:
    """Returns the judge's sums of texts in ids of `tokenizer`, each up to its first end: [N, 6].

    Nats, bytes and tokens that the judge reads, with an eos where there is an end; bytes that were
    cut; tokens that were lost, and of how many.
    """
    own = judge.tokenizer
    texts = [translated(ids, tokenizer, own) for ids in ids_N]
    size = judge.experiment.run.data.batch
    rows = []
    for begin in range(0, len(texts), size):
        rows += _batch_rows(judge, texts[begin : begin + size])
    return np.array(rows, np.float64)


def _batch_rows(judge: EvalContext, texts: list[Translated]) -> list[list]:
    """The sums of as many texts as the judge reads at once."""
    loader = judge.experiment.run.data
    tokenizer = judge.tokenizer
    cut_B = []
    for text in texts:
        ids = text.ids[: loader.length]
        cut_B.append(ids.astype(np.int32))
    arrays = packing.apart(cut_B, loader.batch, loader.length, tokenizer.pad)
    bound = judge.experiment.bound(2)
    batch = judge.experiment.put(arrays)
    scored = bound(judge.params, batch, judge.key)
    nats_BL = mesh.fetch(scored).nats_BL

    # An empty text costs nothing: its weights are 0.
    bytes_BL = tokenizer.bytes_V[arrays["tokens_BL"]]
    bytes_B = (bytes_BL * arrays["weights_BL"]).sum(1)
    rows = []
    for b, text in enumerate(texts):
        row = [0.0] * 6
        row[NATS] = nats_BL[b].sum()
        row[BYTES] = bytes_B[b]
        row[TOKENS] = len(cut_B[b])
        whole = tokenizer.bytes_V[text.ids]
        row[CUT_BYTES] = whole.sum() - bytes_B[b]
        row[LOST] = text.lost
        row[DRAWN] = text.drawn
        rows.append(row)
    return rows


def translated(ids: np.ndarray, tokenizer: Any, judge: Any) -> Translated:
    """Returns a text of `tokenizer` in ids of the judge's tokenizer."""
    text = before(tokenizer.vocab, ids)
    drawn = len(text)
    end = np.asarray(ids[drawn : drawn + 1])
    if tokenizer.fingerprint != judge.fingerprint:
        own = judge.encode_bytes(tokenizer.bytes_of(text))
        end = np.full(len(end), judge.eos, np.int32)
        # Bytes are all that two vocabularies have in common.
        without_bytes = tokenizer.bytes_V[text] == 0
        lost = int(without_bytes.sum())
        return Translated(np.append(own, end), lost, drawn)

    # Equal vocabularies may be padded to unequal sizes, and some ids are never generated.
    known = text < judge.size
    known &= ~np.isin(text, judge.vocab.never)
    own = text[known]
    ends = judge.vocab.ending(end)
    end = np.where(ends, end, judge.eos)
    lost = drawn - len(own)
    return Translated(np.append(own, end), lost, drawn)


def perplexity(name: str, judge: EvalContext, ids_N: Texts, tokenizer: Any) -> Scores:
    """Yields the judge's scores of texts in ids of `tokenizer`."""
    rows_N6 = judged(judge, ids_N, tokenizer)
    statistics = {
        "bits_per_byte": _bits_per_byte,
        "ppl": _perplexity,
        "cut": _share_cut,
        "lost": _share_lost,
    }
    for title, statistic in statistics.items():
        yield estimate(f"{name}_{title}", statistic, rows_N6)


def _bits_per_byte(rows_N6: np.ndarray) -> float:
    return _ratio(rows_N6, NATS, BYTES) / math.log(2)


def _perplexity(rows_N6: np.ndarray) -> float:
    return math.exp(_ratio(rows_N6, NATS, TOKENS))


def _share_cut(rows_N6: np.ndarray) -> float:
    return _ratio(rows_N6, CUT_BYTES, BYTES, CUT_BYTES)


def _share_lost(rows_N6: np.ndarray) -> float:
    return _ratio(rows_N6, LOST, DRAWN)


def _ratio(rows_N6: np.ndarray, above: int, *below: int) -> float:
    whole = rows_N6[:, below].sum()
    return rows_N6[:, above].sum() / max(whole, 1)
