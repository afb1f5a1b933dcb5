"""A run as an evaluation harness uses it: nats and errors of pieces of text, and ids after prompts.

    autoregression   exact, and whether every token is the most likely one
    diffusion        the bound of what is scored, given the text before it, with its Monte-Carlo
                     error; or the exact likelihood under a sampler that reveals positions in an
                     order without randomness (`evals.exact`). `greedy` compares with what the
                     sampler writes at temperature 0.

Noise is keyed by a piece's number, which its text determines: neither the order of requests nor
their batch changes a score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import axes
from dlm.core.contracts import Canvas, Layout, Output
from dlm.core.contracts.evaluation import EvalContext
from dlm.core.errors import UserError
from dlm.evals import exact
from dlm.evals.lm_eval import tokenized
from dlm.evals.lm_eval.tokenized import Ids, Pieces
from dlm.machine import mesh
from dlm.nn.visibility import is_autoregressive
from dlm.samplers.plan import Sampler
from dlm.samplers.rules.ordered import Ordered

Rooms = Sequence[int]  # tokens to write after each prompt


class Score(NamedTuple):
    """Of a piece."""

    nats: float  # −log p, or its bound
    variance: float  # of the noise drawn
    greedy: bool  # whether the model would write it


Scores = list[Score]


@dataclass(frozen=True)
class _Bound:
    """`count` of an evaluator: (nats_B, variance_B, greedy_B).

    greedy_B is known only for autoregression.
    """

    samples: int
    pattern: str

    def __call__(self, experiment, params, batch, key):
        student = experiment.net(params)
        outputs = []

        # The one call of an autoregressive bound also says what is most likely.
        def net(canvas: Canvas) -> Output:
            output = student(canvas)
            outputs.append(output)
            return output

        objective = experiment.reported(self.pattern)
        models = replace(experiment.models(params), student=net)
        estimate = objective.bound(models, batch, key, self.samples)
        greedy_B = jnp.zeros(len(batch.tokens_BL), bool)
        if is_autoregressive(experiment.objective.visibility):
            best_BL = outputs[0].prediction.argmax()
            same_BL = best_BL == batch.tokens_BL
            ignored_BL = batch.weights_BL == 0
            greedy_B = (same_BL | ignored_BL).all(1)
        return estimate.nats_BL.sum(1), estimate.variance_B, greedy_B


@dataclass(frozen=True)
class _Replayed:
    """The same under a sampler; without a variance."""

    sampler: Sampler

    def __call__(self, experiment, params, batch, key):
        replay = exact.replay(self.sampler)
        nats_BL, _ = replay(experiment, params, batch, key)
        nats_B = nats_BL.sum(1)
        variance_B = jnp.zeros(len(nats_B))
        greedy_B = jnp.zeros(len(nats_B), bool)
        return nats_B, variance_B, greedy_B


class Model:
    """Scores and writes in batches of `rows` rows; each row is padded to one of a few lengths."""

    def __init__(
        self,
        context: EvalContext,
        rows: int = 0,
        samples: int = 8,
        likelihood: str = "bound",
        pattern: str = "count",
    ):
        """Prepares a run.

        Args:
            context: of the run
            rows: of a batch; 0: as many as in training
            samples: noise draws of a bound
            likelihood: 'bound', or 'exact' under a sampler
            pattern: of the bound, as in evals.bound
        """
        run = context.experiment.run
        self.context = context
        self.visibility = context.objective.visibility
        self.reads = int(self.visibility.shift == "input")  # tokens before a row
        self.rows = rows or run.data.batch
        shares = axes.shards(context.experiment.mesh.shape)
        if self.rows % shares:
            raise UserError(
                f"evals.harness.batch={self.rows} must be a multiple of the {shares} devices "
                "on the data axes"
            )
        room = run.data.length
        self.speller = tokenized.Speller(context.tokenizer, self.reads, room)
        self.sampler = context.sampler or run.sampler
        reported = context.experiment.reported(pattern)
        self.exact = reported.claims == "exact"
        self.nfe: list[int] = []
        self._count: Callable = _Bound(samples, pattern)
        if likelihood == "exact" and not self._is_autoregressive:
            self._replay_sampler()

    @property
    def _is_autoregressive(self) -> bool:
        return is_autoregressive(self.visibility)

    def _replay_sampler(self) -> None:
        """Scores by the exact likelihood under a sampler, by default from left to right."""
        sampler = self.context.sampler
        if sampler is None:
            block = self.visibility.block or 0
            steps = block or self.speller.room
            sampler = Sampler(rule=Ordered(), steps=steps, block=block)
        objective = self.context.objective
        self.sampler = exact.deterministic(sampler, objective)
        self.exact = True
        self._count = _Replayed(self.sampler)

    def scores(self, pieces: Pieces, greedy: bool = True) -> Scores:
        """Returns a score for each piece.

        To know what a diffusion model would write takes a sample, which only `greedy` draws.
        """
        context = self.context
        count = context.experiment.counted(self._count)
        pad = context.tokenizer.pad
        room = self.speller.room
        nothing = Score(nats=0.0, variance=0.0, greedy=False)
        scores = [nothing] * len(pieces)
        for length, members in tokenized.batches(pieces, self.rows, room):
            chosen = [pieces[i] for i in members]
            arrays = tokenized.stacked(
                chosen, rows=self.rows, length=length, pad=pad, shift=self.reads
            )
            batch = context.experiment.put(arrays)
            counts = count(context.params, batch, context.key)
            counts = mesh.fetch(counts)
            # The other rows are padding.
            for i, nats, variance, best in zip(members, *counts, strict=False):
                scores[i] = Score(
                    nats=float(nats), variance=float(variance), greedy=bool(best)
                )
        if greedy and not self._is_autoregressive:
            return self._with_greedy(pieces, scores)
        return scores

    def _with_greedy(self, pieces: Pieces, scores: Scores) -> Scores:
        """The scores, compared with what the sampler writes at temperature 0."""
        prompts = []
        continuations = []
        for piece in pieces:
            start = piece.ids[: piece.first]
            rest = piece.ids[piece.first :]
            prompts.append(piece._replace(ids=start))
            continuations.append(rest)
        rooms = [len(ids) for ids in continuations]
        coldest = replace(self.sampler, temperature=0.0)
        written = self.write(prompts, rooms, coldest)
        compared = []
        for i, score in enumerate(scores):
            greedy = np.array_equal(continuations[i], written[i])
            compared.append(score._replace(greedy=greedy))
        return compared

    def write(self, prompts: Pieces, tokens: Rooms, sampler: Sampler) -> list[Ids]:
        """Returns the ids that the sampler writes after each prompt, so many tokens."""
        context = self.context
        make = context.experiment.generator
        generator = make(context.params, sampler, seed=context.seed)
        # Prompts of one length and one prefill are written together.
        groups: dict[tuple, list[int]] = {}
        for i, prompt in enumerate(prompts):
            known = len(prompt.ids)
            # The largest power of two is prefilled: one program for many lengths, and the same
            # result whichever other prompts are in the batch.
            prefill = 0
            if known:
                power = known.bit_length() - 1
                prefill = generator.prefill(1 << power)
            whole = known + tokens[i]
            length = tokenized.bucket(whole, self.speller.room)
            members = groups.setdefault((prefill, length), [])
            members.append(i)

        nothing = np.zeros(0, np.int32)
        written = [nothing] * len(prompts)
        for (prefill, length), members in sorted(groups.items()):
            for begin in range(0, len(members), self.rows):
                part = members[begin : begin + self.rows]
                # Batches have one size, so the last prompt is repeated.
                spare = self.rows - len(part)
                padded = part + part[-1:] * spare
                chosen = [prompts[i] for i in padded]
                rooms = [tokens[i] for i in padded]
                canvas = self._canvas(chosen, rooms, length)
                numbers = [prompt.number for prompt in chosen]
                index_B = jnp.array(numbers)
                sampled = generator.fill(canvas, index_B, prefill)
                sampled = jax.device_get(sampled)
                nfe = int(sampled.nfe)
                self.nfe.append(nfe)
                for b, i in enumerate(part):
                    known = len(prompts[i].ids)
                    row = sampled.canvas.z_BL[b]
                    written[i] = row[known : known + tokens[i]]
        return written

    def _canvas(self, prompts: Pieces, tokens: Rooms, length: int) -> Canvas:
        """Prompts as anchors, then masks, then padding.

        Padding is a segment of its own, where positions attend to the whole canvas.
        """
        vocab = self.context.tokenizer.vocab
        i_L = np.arange(length)
        lengths = [len(prompt.ids) for prompt in prompts]
        known_B1 = np.array(lengths)[:, None]
        tokens_B1 = np.array(tokens)[:, None]
        last_B1 = known_B1 + tokens_B1
        in_text_BL = i_L < last_B1
        z_BL = np.where(in_text_BL, vocab.mask, vocab.pad)
        for b, prompt in enumerate(prompts):
            known = len(prompt.ids)
            z_BL[b, :known] = prompt.ids
        z_BL = jnp.asarray(z_BL, jnp.int32)
        t_BL = jnp.ones(z_BL.shape)
        is_prompt_BL = i_L < known_B1
        frozen_BL = jnp.asarray(is_prompt_BL | ~in_text_BL)
        canvas = Canvas(z_BL, t_BL, frozen_BL, self.visibility)
        if self.reads:
            before = [prompt.before for prompt in prompts]
            before_B = jnp.array(before, jnp.int32)
            canvas = replace(canvas, before_B=before_B)
        if self._is_autoregressive:
            return canvas
        segments_BL = jnp.asarray(in_text_BL, jnp.int32)
        return replace(canvas, layout=Layout(segments_BL))
