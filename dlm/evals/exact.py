"""The exact likelihood of held-out text under a sampler (DUEL, arXiv:2603.01367, eq. 6), beside the bound.

    log p(x) = Σ_k Σ_{i in F(z_k)} log p(x_i | z_k)        F: the positions that the rule reveals in pass k; z_k: x where they are revealed

The sampler is the one given with --sampler.…, else `rule`, from left to right if nothing is said. It is replayed on the text: its rule
picks positions, and the true tokens are put there in the place of drawn ones. That is exact where the picks depend on the canvas alone,
and takes as many passes as sampling. The bound speaks of the order of training, all orders alike; `gap` is how far it lies above. Tokens
are scored at the sampler's temperature, and positions are picked as it does, over the whole packed window; where the network is equally
sure of several, as it is of a window that is all masks, the left one is picked (`samplers.positions.ranks`). An autoregressive model has one
order and one pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.config import member, to_plain
from dlm.core.contracts import Canvas, Net, Output, Pattern
from dlm.core.errors import UserError
from dlm.machine import mesh
from dlm.nn.visibility import is_autoregressive
from dlm.samplers import generator, plan
from dlm.samplers.plan import Cache, Sampler
from dlm.samplers.rules.base import Rule


@dataclass(frozen=True)
class Exact:
    rule: Any = member("samplers.rules", "ordered")  # unless a sampler is given with --sampler.…
    steps: int = 0  # passes per block; 0: as many as it has positions
    windows: int = 64  # evenly spread held-out windows; 0: all
    samples: int = 4  # of the bound on the same windows, an even number
    pattern: Pattern = "count"  # of that bound, as in evals.bound

    claims: ClassVar[str] = "exact"
    over: ClassVar[str] = "noise"

    def __post_init__(self):
        if self.samples < 2 or self.samples % 2 or min(self.windows, self.steps) < 0:
            raise ValueError(
                f"samples={self.samples} must be even and at least 2; windows={self.windows} and steps={self.steps} not negative"
            )

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error); an exact score has none, the gap has the bound's."""
        experiment, objective = context.experiment, context.objective
        bound, score, sampler = (
            experiment.bound(self.samples, self.pattern),
            None,
            context.sampler or experiment.run.sampler,
        )
        if is_autoregressive(objective.visibility) and (
            sampler.temperature,
            sampler.top_p,
            sampler.top_k,
        ) != (1.0, 1.0, 0):
            raise UserError(
                "an autoregressive model's likelihood is that of sampler.temperature=1, top_p=1 and top_k=0: set them"
            )
        if not is_autoregressive(objective.visibility):
            block = objective.visibility.block or 0
            length = block or experiment.run.data.length
            sampler = context.sampler or Sampler(
                rule=self.rule, steps=self.steps or length, block=block
            )
            score = experiment.counted(_Replayed(sampler := deterministic(sampler, objective)))
        exact, above, variance, size, passes = 0.0, 0.0, 0.0, 0.0, 1
        for batch in context.held_out(self.windows or None):
            estimate, read = mesh.fetch((bound(context.params, batch, context.key), batch))
            nats_BL = estimate.nats_BL
            if score is not None:
                nats_BL, passes = mesh.fetch(score(context.params, batch, context.key))
            exact += float(nats_BL.astype(np.float64).sum())
            above += float(estimate.nats_BL.astype(np.float64).sum())
            variance += float(estimate.variance_B.astype(np.float64).sum())
            size += float((context.tokenizer.bytes_V[read.tokens_BL] * read.weights_BL).sum())
        context.details.update(sampler=to_plain(sampler), nfe=float(passes))
        bits = 1 / (math.log(2) * size)
        yield "exact_bits_per_byte", exact * bits, 0.0
        yield "gap_bits_per_byte", (above - exact) * bits, math.sqrt(variance) * bits


def deterministic(sampler: Sampler, objective) -> Sampler:
    """The sampler, if which positions it reveals does not hang on chance."""
    if not objective.process.final:
        raise UserError(
            "evals.exact replays which masks are revealed, and this run's noise leaves none: only its bound is known"
        )
    for chooser in (sampler.driver, sampler.rule):
        if chooser.order_randomness:
            name = type(chooser).__module__.removeprefix("dlm.")
            raise UserError(f"no exact likelihood: {name} {chooser.order_randomness}")
    if sampler.remask or sampler.next_pass:
        raise UserError(
            "no exact likelihood: sampler.remask and sampler.next_pass change tokens that were drawn"
        )
    return plan.resolve(sampler, objective.process, objective.visibility)


@dataclass(frozen=True)
class _Replayed:
    """`count` of an evaluator: (nats_BL, passes) of a batch under a sampler."""

    sampler: Sampler

    def __call__(self, experiment, params, batch, key):
        return replay(self.sampler, experiment, params, batch, key)


def replay(sampler: Sampler, experiment, params, batch, key):
    """`replayed` by the network of an experiment."""
    process, visibility = experiment.held(params).process, experiment.objective.visibility
    return replayed(experiment.net(params), sampler, process, visibility, batch, key)


def replayed(net: Net, sampler: Sampler, process, visibility, batch, key):
    """(−log p(x_i | z) of each token when its position is revealed, forward passes)."""
    hidden_BL = jnp.where(batch.noisable_BL, process.vocab.mask, batch.tokens_BL)
    target = dict(target_BL=batch.tokens_BL)
    canvas = Canvas.of(batch, hidden_BL, jnp.ones(hidden_BL.shape), visibility, **target)
    replay_sampler = replace(
        sampler,
        rule=_Replay(sampler.rule),
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        cache=Cache("none"),
    )

    def scored(canvas: Canvas) -> Output:
        output = net(canvas)
        return replace(
            output,
            prediction=_TemperedScores(
                output.prediction, (sampler.temperature, sampler.top_p, sampler.top_k)
            ),
        )

    done = generator.generate(
        scored, replay_sampler, process, canvas, keys.per_sample(key, batch.index_B)
    )
    return jnp.where(batch.weights_BL > 0, -batch.weights_BL * done.logprob_BL, 0.0), done.nfe


@dataclass(frozen=True)
class _Replay(Rule):
    """A rule that picks positions as another one does, and puts the true tokens there."""

    rule: Any

    def init(self, canvas):
        return self.rule.init(canvas)

    def step(self, key_B, output, canvas, view, state):
        revealed_BL = self.rule.positions(output.prediction, canvas, view)
        return replace(canvas, z_BL=jnp.where(revealed_BL, canvas.target_BL, canvas.z_BL)), state


@dataclass(frozen=True)
class _TemperedScores:
    """A prediction that scores tokens at the sampler's temperature and nucleus, and is as sure as it is."""

    base: Any
    sharpness: tuple

    def log_prob(self, ids_BL):
        return self.base.tempered(*self.sharpness).log_prob(ids_BL)

    def gather(self, position_BR):
        return _TemperedScores(self.base.gather(position_BR), self.sharpness)

    def __getattr__(self, name):
        return getattr(self.base, name)
