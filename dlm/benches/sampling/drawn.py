"""What `bench samplers` draws: from worlds whose law is known, and from a trained run."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dlm.app.context import RunContext
from dlm.app.open_run import reopen
from dlm.benches.sampling.output import COLUMNS
from dlm.core import keys
from dlm.core.contracts import Canvas, Visibility
from dlm.core.errors import UserError
from dlm.evals import gen_ppl, samples
from dlm.evals.exact import Exact
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.full import Full
from dlm.oracle.sampler_worlds import Chain, Table
from dlm.samplers import generator, plan
from dlm.samplers.plan import Sampler

BATCH = 16  # samples that a run draws at a time
_ENUMERABLE = 8  # positions of which each may have a posterior of its own

Row = dict[str, Any]


class Drawn:
    """Draws of a world's network.

    One program serves all numbers of steps, since compiling takes longer than drawing.
    """

    def __init__(
        self,
        world: Table | Chain,
        draws: int,
        seed: int,
    ):
        self.world = world
        law = world.law
        shape = draws, law.length
        z_BL = jnp.full(shape, law.vocab.mask, jnp.int32)
        self.canvas = Canvas(
            z_BL,
            t_BL=jnp.ones(shape),
            frozen_BL=jnp.zeros(shape, bool),
            visibility=Full(),
        )
        # The key of sampling, as in the library.
        sample_key = keys.key(keys.root(seed), "sample")
        index_B = jnp.arange(draws)
        self.key_B = keys.per_sample(sample_key, index_B)
        # The sampler and the visibility are static: there is a program for each.
        self._run = jax.jit(self._generated, static_argnums=(0, 1))

    def row(self, sampler: Sampler, steps: int) -> Row:
        """Returns the distance of the law from p after so many steps, and the passes taken."""
        length = self.world.law.length
        drafts = sampler.driver.drafts
        if drafts and length > _ENUMERABLE:
            cost = f"one posterior for each of {length} positions"
            raise UserError(f"it reads each token from those before it, {cost}")
        visibility = Block(size=1) if drafts else Full()
        sampler = stepping(sampler, steps, length)
        sampler = plan.resolve(sampler, self.world.process, visibility)
        if drafts:
            sampled = self._run(sampler, visibility, 1)
        else:
            # The same static argument for all numbers of steps.
            one_step = replace(sampler, steps=1)
            sampled = self._run(one_step, visibility, steps)
        measures = self.world.measured(sampled.canvas.z_BL)
        return dict(nfe=int(sampled.nfe)) | measures

    def _generated(
        self,
        sampler: Sampler,
        visibility: Visibility,
        steps: Any,
    ) -> Any:
        counted = sampler
        if not sampler.driver.drafts:
            # Traced: the number of steps only enters sums, so that one program serves all.
            counted = copy.copy(sampler)
            object.__setattr__(counted, "steps", steps)
        world = self.world
        canvas = replace(self.canvas, visibility=visibility)
        return generator.generate(
            world.net,
            counted,
            world.process,
            canvas,
            self.key_B,
        )


def stepping(sampler: Sampler, steps: int, length: int) -> Sampler:
    """Returns the sampler with so many steps.

    One that drafts gets drafts so long that it takes as many passes if all of them are accepted.
    """
    if not sampler.driver.drafts:
        return replace(sampler, steps=steps)
    block = max(-(-2 * length // steps), 2)
    block = min(block, length)
    return replace(sampler, steps=1, block=block)


class Trained:
    """A run directory, and the judge of what it draws."""

    def __init__(
        self,
        workdir: Path,
        judge: str,
        samples: int,
        seed: int,
    ):
        experiment, state = reopen(workdir)
        source = experiment.run.data.source
        self.context = RunContext(experiment, state.averaged, source, seed)
        self.judge = gen_ppl.trusted(self.context, judge, "--judge")
        self.samples = samples
        self.process = experiment.process_of(state.averaged)

    def row(self, sampler: Sampler, steps: int) -> Row:
        """Returns the scores of the samples, and their cost."""
        run = self.context.experiment.run
        tokenizer = self.context.tokenizer
        sampler = stepping(sampler, steps, run.data.length)
        context = replace(self.context, sampler=sampler)
        # The first call compiles; its texts count all the same.
        replies = context.draw(self.samples)
        speed = self._speed(context, replies)
        nfe = context.details["nfe"]
        flops = self._flops(sampler, nfe)
        row: Row = dict(
            nfe=nfe,
            tokens_per_s=speed,
            flops_per_sample=flops,
        )
        # Texts as ids: the judge may have another tokenizer.
        ids_N = [reply.ids for reply in replies]
        scores = list(gen_ppl.perplexity("gen", self.judge, ids_N, tokenizer))
        scores += samples.variety(ids_N, tokenizer.vocab)
        for name, value, error in scores:
            row[name] = value
            if f"{name}_se" in COLUMNS:
                row[f"{name}_se"] = error
        # Only a rule that draws no positions has an exact likelihood.
        deterministic = not sampler.rule.order_randomness and not sampler.remask
        if deterministic and not sampler.next_pass:
            exact = Exact(windows=16, samples=2)
            for name, value, _ in exact.run(context, 0):
                row[name] = value
        return row

    def _speed(self, context: RunContext, replies: list) -> float:
        """Returns tokens per second; the first call compiles and is not timed."""
        timed = replies[BATCH:] or context.draw(self.samples)
        vocab = context.tokenizer.vocab
        tokens, seconds = 0, 0.0
        for n, reply in enumerate(timed):
            tokens += len(samples.before(vocab, reply.ids))
            # All replies of a call have its seconds.
            if n % BATCH == 0:
                seconds += reply.seconds
        return tokens / seconds

    def _flops(self, sampler: Sampler, passes: float) -> float:
        """Returns the FLOPs of one sample; a third of those of training are the forward pass."""
        run = self.context.experiment.run
        visibility, length = run.objective.visibility, run.data.length
        # Which cache there is depends on the resolved sampler.
        resolved = plan.resolve(sampler, self.process, visibility)
        computed = positions(resolved, visibility, length, passes)
        return computed * run.nn.flops_per_token(length) / 3


def positions(
    sampler: Sampler,
    visibility: Visibility,
    length: int,
    passes: float,
) -> float:
    """Returns the positions that the network computes for a sample.

    With an exact cache these are the block's, and each block once more when it is decided; a draft
    is verified in two streams. Approximate caches are counted as if every pass computed the whole
    canvas, which is too much.
    """
    if plan.cache_kind(sampler, visibility) != "exact":
        return passes * length
    in_blocks = passes * sampler.block
    if sampler.driver.drafts:
        return in_blocks * (sampler.steps + 2) / (sampler.steps + 1)
    # That needs a pass of its own where clean tokens are a stream of their own.
    again = length if visibility.streams == 2 else 0
    return in_blocks + again
