"""Generative perplexity: what another, autoregressive model thinks of the samples. Always with their variety, since dull text scores well.

    gen_bits_per_byte = Σ −log₂ p_judge(sample) / Σ bytes,     gen_ppl = exp(Σ −log p_judge / Σ tokens of the judge)

The judge is a run directory. It reads each sample from its beginning, cut at the length that it was trained with, and the eos of those
that end in one. Its scores of as many held-out documents, cut at as many tokens, say where real text stands.

    same tokenizer     the judge reads the ids that were drawn       another tokenizer     it reads their bytes, in ids of its own

Never their text: young models draw bytes that are no UTF-8, and a text has three others for each. Beside the scores stand `cut`, the share
of the bytes that were too long for the judge, and `lost`, the share of the tokens that it cannot be told, since they have no bytes or it
never says them.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm.core.errors import UserError
from dlm.core.intervals import jackknife
from dlm.core.named import Place
from dlm.data import packing
from dlm.evals.samples import Samples, before, variety
from dlm.machine import mesh


@dataclass(frozen=True)
class GenPPL(Samples):
    judge: Place = ""  # run directory of an autoregressive model

    reads: ClassVar[bool] = True

    def check(self, *given) -> None:
        """Refuses to draw what nobody judges."""
        if not self.judge:
            raise UserError(
                "a judge is missing: --evals.gen_ppl.judge=RUN, the directory of an autoregressive run"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) over the samples."""
        self.check()
        judge = trusted(context, self.judge, "--evals.gen_ppl.judge")
        replies, tokenizer = context.draw(self.num, self.length), context.tokenizer
        real = [
            np.append(ids, tokenizer.eos)
            for ids in tokenizer.encode_all(context.held_out_documents[: self.num])
        ]
        for name, ids_N in dict(
            gen=[r.ids for r in replies], real=[ids[: len(replies[0].ids)] for ids in real]
        ).items():
            context.details.update(
                judge=identity(judge), over="samples" if name == "gen" else "documents"
            )
            yield from perplexity(name, judge, ids_N, tokenizer)
        context.details["over"] = "samples"
        yield from variety([reply.ids for reply in replies], context.tokenizer.vocab)


def identity(judge) -> dict:
    """Which model judged: its directory, its checkpoint, the sha256 of its config."""
    config = (judge.folder / "config.json").read_bytes()
    return dict(
        dir=str(judge.folder.resolve()), step=judge.step, config=hashlib.sha256(config).hexdigest()
    )


def trusted(context, workdir: str, flag: str):
    """The run that judges what `context` drew; `flag` named it."""
    judge = context.open_run(workdir)
    if judge.objective.claims != "exact":
        raise UserError(f"{flag}={workdir} is no autoregressive run: its likelihood is a bound")
    return judge


def judged(judge, ids_N: Sequence[np.ndarray], tokenizer) -> np.ndarray:
    """[N, 6] of texts in ids of `tokenizer`, each up to its first end: nats, bytes and tokens that the judge reads, with an eos where there
    is an end; bytes cut; tokens lost, of how many."""
    loader, own, rows = judge.experiment.run.data, judge.tokenizer, []
    bound, same = judge.experiment.bound(2), tokenizer.fingerprint == own.fingerprint
    for begin in range(0, len(ids_N), loader.batch):
        told = [_told(ids, tokenizer, own, same) for ids in ids_N[begin : begin + loader.batch]]
        ids_B = [ids[: loader.length].astype(np.int32) for ids, _, _ in told]
        batch = packing.apart(ids_B, loader.batch, loader.length, own.pad)
        nats_BL = mesh.fetch(bound(judge.params, judge.experiment.put(batch), judge.key)).nats_BL
        size_B = (own.bytes_V[batch["tokens_BL"]] * batch["weights_BL"]).sum(1)
        for b, (ids, lost, drawn) in enumerate(told):  # an empty text costs nothing
            rows.append(
                (
                    nats_BL[b].sum(),
                    size_B[b],
                    len(ids_B[b]),
                    own.bytes_V[ids].sum() - size_B[b],
                    lost,
                    drawn,
                )
            )
    return np.array(rows, np.float64)


def _told(ids: np.ndarray, tokenizer, judge, same: bool) -> tuple[np.ndarray, int, int]:
    """(a text up to its first end in ids of the judge's tokenizer, tokens lost, tokens drawn)."""
    text = before(tokenizer.vocab, ids)
    end = np.asarray(ids[len(text) : len(text) + 1])
    if not same:
        given = judge.encode_bytes(tokenizer.bytes_of(text))
        return (
            np.append(given, np.full(len(end), judge.eos, np.int32)),
            int((tokenizer.bytes_V[text] == 0).sum()),
            len(text),
        )
    given = text[(text < judge.size) & ~np.isin(text, judge.vocab.never)]
    return (
        np.append(given, np.where(judge.vocab.ending(end), end, judge.eos)),
        len(text) - len(given),
        len(text),
    )


def perplexity(
    name: str, judge, ids_N: Sequence[np.ndarray], tokenizer
) -> Iterator[tuple[str, float, float]]:
    """What the judge thinks of these texts, given as ids of `tokenizer`."""
    rows_N6 = judged(judge, ids_N, tokenizer)

    def ratio(above, *below):
        return lambda rows: rows[:, above].sum() / max(rows[:, below].sum(), 1)

    yield f"{name}_bits_per_byte", *jackknife(lambda rows: ratio(0, 1)(rows) / math.log(2), rows_N6)
    yield f"{name}_ppl", *jackknife(lambda rows: math.exp(ratio(0, 2)(rows)), rows_N6)
    yield f"{name}_cut", *jackknife(ratio(3, 1, 3), rows_N6)
    yield f"{name}_lost", *jackknife(ratio(4, 5), rows_N6)
