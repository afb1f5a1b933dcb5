"""How much a training loss and its gradient scatter, for each way to draw times and masks and to weigh them, at equal forward passes.

python -m dlm.bench variance --workdir=RUN [--draws=64] [--all] [--json]

One batch of the run's training data and its parameters stay fixed; only the noise is drawn anew. Where losses have the same mean (a law
test: all with the bound's weights), the one with the smallest variance learns most from a pass. Other weights have other means, so
gradients are compared by noise over signal. A complementary pair takes two passes and counts twice; importance has measured its
costs beforehand.

    Var g = E‖g‖² − ‖E g‖²      over all parameters, without the bias of the estimated mean;      noise = √(Var g) / ‖E g‖
"""

import itertools
import typing
from dataclasses import replace
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.intervals import half
from dlm.core.named import Place

FLAGS = [
    Flag(
        "workdir", "a run of objectives.masked with the linear schedule", required=True, type=Place
    ),
    Flag("draws", "of the noise, for each way", default=64, type=int),
    Flag(
        "all",
        "every combination, not only those that differ from the plain one in one choice or are made of the best",
        type=bool,
    ),
    Flag("json", "print one JSON object on stdout", type=bool),
]
AXES = ("times", "pattern", "coupling", "weights")
PLAIN = dict(times="iid", pattern="bernoulli", coupling="single", weights="bound")
GOOD = dict(
    times="stratified", pattern="count", coupling="complementary", weights="bound"
)  # the best of each in the literature


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if args.draws < 2:
        raise UserError(f"--draws={args.draws} must be at least 2")
    rows = measure(Path(args.workdir), args.draws, args.all)
    plain = rows[0]
    say(
        f"{args.workdir}: variance at equal passes, as a multiple of the plain way's ({args.draws} draws; ± half of the 95 % interval)"
    )
    head = f"  {'times':<11} {'pattern':<10} {'coupling':<14} {'weights':<8}"
    say(f"{head} {'loss':>7} {'gradient':>9} {'noise':>7}   {'nats per token':>18}")
    for row in rows:
        ratios = (
            row["loss_variance"] / plain["loss_variance"],
            row["gradient_variance"] / plain["gradient_variance"],
        )
        line = (
            f"  {row['times']:<11} {row['pattern']:<10} {row['coupling']:<14} {row['weights']:<8}"
        )
        mean = f"{row['loss']:.3f} ± {half(row['loss'], row['loss_se']):.3f}"
        say(
            f"{line} {ratios[0]:>7.2f} {ratios[1]:>9.2f} {row['gradient_noise']:>7.2f}   {mean:>18}"
        )
    if args.json:
        cli.emit(dict(workdir=args.workdir, draws=args.draws, rows=rows))


def ways(every: bool) -> list[dict]:
    """The plain way first; then those that change one choice of it or of the good one, or all combinations."""
    from dlm.objectives.masked import Masked

    hints = typing.get_type_hints(Masked)
    results = [
        dict(zip(AXES, v, strict=True))
        for v in itertools.product(*(typing.get_args(hints[a]) for a in AXES))
    ]
    near = [
        w
        for w in results
        if every or min(sum(w[a] != base[a] for a in AXES) for base in (PLAIN, GOOD)) <= 1
    ]
    return sorted(
        near, key=lambda way: (way != PLAIN, *(way[a] != PLAIN[a] for a in reversed(AXES)))
    )


def measure(workdir: Path, draws: int, every: bool = False) -> list[dict]:
    """A row for each way: mean loss with its standard error, and both variances times the passes that a draw takes."""
    from dlm.app.open_run import reopen
    from dlm.noise.schedules.linear import Linear
    from dlm.objectives.masked import Masked

    experiment, state = reopen(workdir)
    objective = experiment.objective
    if type(objective) is not Masked or objective.process.schedule != Linear() or objective.steps:
        raise UserError(
            f"{workdir} is no run of objectives.masked with the linear schedule in continuous time"
        )
    batch = next(experiment.batches(0))
    return [
        _scatter(experiment, state.params, batch, replace(objective, **way), draws) | way
        for way in ways(every)
    ]


def _scatter(experiment, params, batch, objective, draws: int) -> dict:

    import jax
    import jax.numpy as jnp
    import numpy as np

    from dlm.core import keys

    statistics = None
    key_S = jax.random.split(keys.key(experiment.root, "noise"), draws)
    if objective.times == "importance":
        statistics = _measured(objective, experiment.models(params), batch, key_S)

    def nats(params, key):
        loss = objective.loss(experiment.models(params, statistics), batch, key)
        return loss.nats_sum / loss.weight_sum

    def draw(total, key):
        value, grads = jax.value_and_grad(nats)(params, key)
        square = sum(jnp.square(g).sum() for g in jax.tree.leaves(grads))
        return jax.tree.map(jnp.add, total, grads), (value, square)

    zero = jax.tree.map(jnp.zeros_like, params)
    total, (loss_S, square_S) = jax.jit(lambda key_S: jax.lax.scan(draw, zero, key_S))(key_S)
    mean_square = sum(float(jnp.square(g / draws).sum()) for g in jax.tree.leaves(total))
    passes, loss_S = 1 + (objective.coupling == "complementary"), np.asarray(loss_S, np.float64)
    variance = (float(square_S.mean()) - mean_square) * draws / (draws - 1)
    signal = max(mean_square - variance / draws, 1e-30)
    return dict(
        loss=float(loss_S.mean()),
        loss_se=float(loss_S.std(ddof=1) / draws**0.5),
        loss_variance=float(loss_S.var(ddof=1) * passes),
        gradient_variance=variance * passes,
        gradient_noise=(variance * passes / signal) ** 0.5,
    )


def _measured(objective, models, batch, key_S):
    """Returns the mean squares of the costs at each time, as training measures them."""
    import jax

    from dlm.noise import time_sampling

    def cost(key):
        return objective.loss(models, batch, key).statistics

    sums = jax.jit(lambda key_S: jax.lax.map(cost, key_S).sum(0))(
        jax.vmap(lambda k: jax.random.fold_in(k, 1))(key_S)
    )
    return time_sampling.updated_costs(objective.statistics(), sums)
