"""A run as an evaluation harness sees it: pieces of text in, their nats and errors out; prompts in, ids out.

    autoregression   exact, and whether every token is the likeliest
    diffusion        the bound of what is scored, given the text before it, with its Monte-Carlo error; or the exact likelihood under a
                     sampler whose order does not hang on chance (`evals.exact`); greedy is what the sampler writes at temperature 0

Noise is keyed by a piece's number, which its text decides: neither the order of requests nor their batch changes a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import axes
from dlm.core.contracts import Canvas, Layout, Output
from dlm.core.errors import UserError
from dlm.evals import exact
from dlm.evals.lm_eval import tokenized
from dlm.evals.lm_eval.tokenized import Piece
from dlm.machine import mesh
from dlm.nn.visibility import is_autoregressive
from dlm.samplers.plan import Sampler
from dlm.samplers.rules.ordered import Ordered


class Score(NamedTuple):
    nats: float  # −log p, or its bound
    variance: float  # of the noise drawn
    greedy: bool


@dataclass(frozen=True)
class _Bound:
    """`count` of an evaluator: (nats_B, variance_B, greedy_B); the last is known of autoregression alone."""

    samples: int
    pattern: str

    def __call__(self, experiment, params, batch, key):
        outputs, student = [], experiment.net(params)

        def net(canvas: Canvas) -> Output:
            outputs.append(student(canvas))
            return outputs[-1]

        estimate = experiment.held(params, experiment.reported(self.pattern)).bound(
            net, batch, key, self.samples
        )
        greedy_B = jnp.zeros(len(batch.tokens_BL), bool)
        if is_autoregressive(experiment.objective.visibility):
            same_BL = outputs[0].prediction.argmax() == batch.tokens_BL
            greedy_B = (same_BL | (batch.weights_BL == 0)).all(1)
        return estimate.nats_BL.sum(1), estimate.variance_B, greedy_B


@dataclass(frozen=True)
class _Replayed:
    """The same under a sampler; without a variance."""

    sampler: Sampler

    def __call__(self, experiment, params, batch, key):
        nats_BL, _ = exact.replay(self.sampler, experiment, params, batch, key)
        return nats_BL.sum(1), jnp.zeros(len(nats_BL)), jnp.zeros(len(nats_BL), bool)


class Model:
    """Scores and writes in batches of `rows` rows; every row is padded to one of a few lengths."""

    def __init__(
        self,
        context,
        rows: int = 0,
        samples: int = 8,
        likelihood: str = "bound",
        pattern: str = "count",
    ):
        self.context, self.visibility = context, context.objective.visibility
        self.reads = int(self.visibility.shift == "input")  # tokens before a row
        self.rows = rows or context.experiment.run.data.batch
        shares = axes.shards(context.experiment.mesh.shape)
        if self.rows % shares:
            raise UserError(
                f"evals.harness.batch={self.rows} must be a multiple of the {shares} devices on the data axes"
            )
        self.sampler = context.sampler or context.experiment.run.sampler
        self.speller = tokenized.Speller(
            context.tokenizer, self.reads, context.experiment.run.data.length
        )
        self.exact = context.experiment.reported(pattern).claims == "exact"
        count = _Bound(samples, pattern)
        if likelihood == "exact" and not is_autoregressive(self.visibility):
            block = self.visibility.block or 0
            length = block or self.speller.room
            given = context.sampler or Sampler(rule=Ordered(), steps=length, block=block)
            self.sampler, self.exact = exact.deterministic(given, context.objective), True
            count = _Replayed(self.sampler)
        self._count, self.nfe = count, []

    def scores(self, pieces: Sequence[Piece], greedy: bool = True) -> list[Score]:
        """One for each piece. Whether diffusion would write what is scored is asked only if `greedy` matters: it takes a sample."""
        experiment, by_piece = self.context.experiment, [Score(0.0, 0.0, False)] * len(pieces)
        count = experiment.counted(self._count)
        for length, members in tokenized.batches(pieces, self.rows, self.speller.room):
            arrays = tokenized.stacked(
                [pieces[i] for i in members],
                self.rows,
                length,
                self.context.tokenizer.pad,
                self.reads,
            )
            counts = mesh.fetch(
                count(self.context.params, experiment.put(arrays), self.context.key)
            )
            for i, nats, variance, best in zip(
                members, *counts, strict=False
            ):  # the rest of the rows is padding
                by_piece[i] = Score(float(nats), float(variance), bool(best))
        if greedy and not is_autoregressive(self.visibility):
            cut = [Piece(p.ids[: p.first], p.first, p.before, p.number) for p in pieces]
            wanted = [p.ids[p.first :] for p in pieces]
            written = self.write(
                cut, [len(w) for w in wanted], replace(self.sampler, temperature=0.0)
            )
            by_piece = [
                s._replace(greedy=np.array_equal(a, b))
                for s, a, b in zip(by_piece, wanted, written, strict=True)
            ]
        return by_piece

    def write(
        self, prompts: Sequence[Piece], tokens: Sequence[int], sampler: Sampler
    ) -> list[np.ndarray]:
        """What the sampler puts after each prompt, in so many tokens."""
        generator = self.context.experiment.generator(
            self.context.params, sampler, seed=self.context.seed
        )
        groups: dict[tuple, list[int]] = {}
        for i, (prompt, room) in enumerate(zip(prompts, tokens, strict=True)):
            known = len(prompt.ids)
            # Read at once is what a power of two allows: one program for many lengths, and the same whoever else is in the batch.
            prefill = generator.prefill(1 << known.bit_length() - 1) if known else 0
            groups.setdefault(
                (prefill, tokenized.bucket(known + room, self.speller.room)), []
            ).append(i)
        generated = [np.zeros(0, np.int32)] * len(prompts)
        for (prefill, length), members in sorted(groups.items()):
            for begin in range(0, len(members), self.rows):
                part = members[begin : begin + self.rows]
                padded = part + part[-1:] * (self.rows - len(part))
                canvas = self._canvas(
                    [prompts[i] for i in padded], [tokens[i] for i in padded], length
                )
                index_B = jnp.array([prompts[i].number for i in padded])
                sampled = jax.device_get(generator.fill(canvas, index_B, prefill))
                self.nfe.append(int(sampled.nfe))
                for b, i in enumerate(part):
                    known = len(prompts[i].ids)
                    generated[i] = sampled.canvas.z_BL[b, known : known + tokens[i]]
        return generated

    def _canvas(self, prompts: Sequence[Piece], tokens: Sequence[int], length: int) -> Canvas:
        """Prompts as anchors, masks behind them, then padding, a segment of its own where positions see everything."""
        vocab, i_L = self.context.tokenizer.vocab, np.arange(length)
        known_B1 = np.array([[len(p.ids)] for p in prompts])
        last_B1 = known_B1 + np.array(tokens)[:, None]
        z_BL = np.where(i_L < last_B1, vocab.mask, vocab.pad)
        for b, prompt in enumerate(prompts):
            z_BL[b, : len(prompt.ids)] = prompt.ids
        frozen_BL = jnp.asarray((i_L < known_B1) | (i_L >= last_B1))
        canvas = Canvas(
            jnp.asarray(z_BL, jnp.int32), jnp.ones(z_BL.shape), frozen_BL, self.visibility
        )
        if self.reads:
            before_B = jnp.array([p.before for p in prompts], jnp.int32)
            canvas = replace(canvas, before_B=before_B)
        if is_autoregressive(self.visibility):
            return canvas
        segments_BL = jnp.asarray(i_L < last_B1, jnp.int32)
        return replace(canvas, layout=Layout(segments_BL))
