"""The exact likelihood of held-out text under a sampler (DUEL, arXiv:2603.01367, eq. 6).

    log p(x) = Σ_k Σ_{i in F(z_k)} log p(x_i | z_k)

F: the positions that the rule reveals in pass k; z_k: x where they are revealed.

The sampler is the one named by --sampler.…, or else `rule`, by default from left to right. It is
replayed on the text: its rule chooses positions, and the true tokens are written there instead of
sampled ones. That is exact where the choice depends on the canvas alone, and takes as many passes
as sampling. The bound is that of the order of training, which averages over all orders; `gap` is
the difference. Tokens are scored at the sampler's temperature, and positions are chosen as it does,
over the whole packed window; of equally confident positions, as in a window of masks only, the left
one is chosen (`samplers.positions.ranks`). An autoregressive model has one order and one pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp

from dlm.core import keys
from dlm.core.config import member, to_plain
from dlm.core.contracts import Canvas, Net, Output, Pattern, Prediction
from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.core.errors import UserError
from dlm.evals.base import Base, Scores, bytes_of, total
from dlm.machine import mesh
from dlm.nn.visibility import is_autoregressive
from dlm.samplers import generator, plan
from dlm.samplers.plan import Cache, Sampler
from dlm.samplers.rules.base import Rule

Sharpness = tuple[float, float, int]  # temperature, top_p, top_k


@dataclass(frozen=True)
class Exact(Base):
    rule: Any = member("samplers.rules", "ordered")  # unless --sampler.… names another
    steps: int = 0  # passes per block; 0: as many as it has positions
    windows: int = 64  # evenly spread held-out windows; 0: all
    samples: int = 4  # of the bound on the same windows, an even number
    pattern: Pattern = "count"  # of that bound, as in evals.bound

    claims: ClassVar[str] = "exact"
    over: ClassVar[str] = "noise"

    def __post_init__(self):
        odd = self.samples < 2 or self.samples % 2
        if odd or min(self.windows, self.steps) < 0:
            raise ValueError(
                f"samples={self.samples} must be even and at least 2; "
                f"windows={self.windows} and steps={self.steps} not negative"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        sampler, score = self._scoring(context)
        bound = context.experiment.bound(self.samples, self.pattern)

        # Both read the same windows, so that the gap has no noise of the text.
        exact = above = variance = size = 0.0
        passes = 1
        for batch in context.held_out(self.windows or None):
            inputs = (context.params, batch, context.key)
            estimate, read = mesh.fetch((bound(*inputs), batch))
            nats_BL = estimate.nats_BL
            if score is not None:
                nats_BL, passes = mesh.fetch(score(*inputs))
            exact += total(nats_BL)
            above += total(estimate.nats_BL)
            variance += total(estimate.variance_B)
            size += bytes_of(context, read)
        context.details.update(sampler=to_plain(sampler), nfe=float(passes))
        bits = 1 / (math.log(2) * size)
        yield Score("exact_bits_per_byte", exact * bits, 0.0)
        gap = above - exact
        yield Score("gap_bits_per_byte", gap * bits, math.sqrt(variance) * bits)

    def _scoring(self, context: EvalContext) -> tuple[Sampler, Callable | None]:
        """The sampler, and the compiled function that scores a batch under it.

        None for an autoregressive model, whose bound is exact.
        """
        experiment = context.experiment
        objective = context.objective
        if is_autoregressive(objective.visibility):
            sampler = context.sampler or experiment.run.sampler
            if _sharpness(sampler) != (1.0, 1.0, 0):
                raise UserError(
                    "an autoregressive model's likelihood is that of sampler.temperature=1, "
                    "top_p=1 and top_k=0: set them"
                )
            return sampler, None
        sampler = context.sampler
        if sampler is None:
            block = objective.visibility.block or 0
            steps = self.steps or block or experiment.run.data.length
            sampler = Sampler(rule=self.rule, steps=steps, block=block)
        sampler = deterministic(sampler, objective)
        return sampler, experiment.counted(replay(sampler))


def _sharpness(sampler: Sampler) -> Sharpness:
    return sampler.temperature, sampler.top_p, sampler.top_k


def deterministic(sampler: Sampler, objective: Any) -> Sampler:
    """Returns the sampler, fitted to the model.

    Raises UserError where the positions that it reveals depend on chance.
    """
    if not objective.process.final:
        raise UserError(
            "evals.exact replays which masks are revealed, and this run's noise leaves none: "
            "only its bound is known"
        )
    for chooser in (sampler.driver, sampler.rule):
        if chooser.order_randomness:
            name = type(chooser).__module__.removeprefix("dlm.")
            raise UserError(f"no exact likelihood: {name} {chooser.order_randomness}")
    if sampler.remask or sampler.next_pass:
        raise UserError(
            "no exact likelihood: sampler.remask and sampler.next_pass change tokens "
            "that were drawn"
        )
    return plan.resolve(sampler, objective.process, objective.visibility)


@dataclass(frozen=True)
class _Replay:
    """`count` of an evaluator: (nats_BL, passes) of a batch under a sampler."""

    sampler: Sampler

    def __call__(self, experiment, params, batch, key):
        net = experiment.net(params)
        process = experiment.process_of(params)
        visibility = experiment.objective.visibility
        return replayed(net, self.sampler, process, visibility, batch, key)


def replay(sampler: Sampler) -> Callable:
    """Returns the `count` of an evaluator under a sampler: (nats_BL, passes) of a batch.

    Equal samplers give equal functions, so that each compiles once.
    """
    return _Replay(sampler)


def replayed(net: Net, sampler: Sampler, process, visibility, batch, key):
    """Returns (−log p(x_i | z) of each token when its position is revealed, passes).

    Args:
        net: the network
        sampler: a deterministic one
        process: whose masks are revealed
        visibility: of the canvas
        batch: the text
        key: of samplers that need one for other things than positions
    """
    hidden_BL = jnp.where(batch.noisable_BL, process.vocab.mask, batch.tokens_BL)
    t_BL = jnp.ones(hidden_BL.shape)
    canvas = Canvas.of(batch, hidden_BL, t_BL, visibility, target_BL=batch.tokens_BL)
    # The rule sees untempered confidences, as in sampling; only scores are tempered.
    replaying = replace(
        sampler,
        rule=_TrueTokens(sampler.rule),
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        cache=Cache("none"),
    )

    def scored(canvas: Canvas) -> Output:
        output = net(canvas)
        prediction = _TemperedScores(output.prediction, _sharpness(sampler))
        return replace(output, prediction=prediction)

    key_B = keys.per_sample(key, batch.index_B)
    done = generator.generate(scored, replaying, process, canvas, key_B)
    nats_BL = -batch.weights_BL * done.log_prob_BL
    # Padding may have a log-probability of −∞.
    return jnp.where(batch.weights_BL > 0, nats_BL, 0.0), done.nfe


@dataclass(frozen=True)
class _TrueTokens(Rule):
    """A rule that chooses positions as another one does, and writes the true tokens there."""

    rule: Any

    def init(self, canvas):
        return self.rule.init(canvas)

    def step(self, key_B, output, view, state):
        chosen_BR = self.rule.choose(output.prediction, view)
        canvas = view.canvas
        return jnp.where(chosen_BR, canvas.target_BL, canvas.z_BL), state


@dataclass(frozen=True)
class _TemperedScores:
    """A prediction that scores tokens at a sampler's sharpness; all else is the network's own."""

    base: Prediction
    sharpness: Sharpness

    def log_prob(self, ids_BL):
        return self.base.tempered(*self.sharpness).log_prob(ids_BL)

    def gather(self, position_BR):
        return _TemperedScores(self.base.gather(position_BR), self.sharpness)

    def probs(self):
        return self.base.probs()

    def confidence(self, kind="top"):
        return self.base.confidence(kind)

    def argmax(self):
        return self.base.argmax()

    def sample(self, key_B, *sharpness):
        return self.base.sample(key_B, *sharpness)

    def tempered(self, *sharpness):
        return self.base.tempered(*sharpness)
