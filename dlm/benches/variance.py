"""Measures the variance of a training loss and its gradient for each way to draw times and masks.

python -m dlm.bench variance --workdir=RUN [--draws=64] [--all] [--json]

One batch of the run's training data and its parameters are fixed; only the noise is drawn. Ways are
compared at equal forward passes: a complementary pair takes two passes and counts twice. Where
losses have the same mean (a law test: all with the bound's weights), the one with the smallest
variance learns most from a pass. Other weights have other means, so gradients are compared by noise
over signal. Importance has measured its costs beforehand.

    Var g = E‖g‖² − ‖E g‖²      over all parameters, without the bias of the estimated mean
    noise = √(Var g) / ‖E g‖
"""

import itertools
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.intervals import half
from dlm.core.named import Place

if TYPE_CHECKING:  # it loads JAX, which --help need not
    from dlm.core.contracts import Models

_WORKDIR_HELP = "a run of objectives.masked with the linear schedule"
_ALL_HELP = (
    "every combination, not only those that differ from the plain one in one choice "
    "or are made of the best"
)
FLAGS = [
    Flag("workdir", _WORKDIR_HELP, required=True, type=Place),
    Flag("draws", "of the noise, for each way", default=64, type=int),
    Flag("all", _ALL_HELP, type=bool),
    Flag("json", "print one JSON object on stdout", type=bool),
]
AXES = ("times", "pattern", "coupling", "weights")
PLAIN = dict(
    times="iid",
    pattern="bernoulli",
    coupling="single",
    weights="bound",
)
# The best choice of each in the literature.
GOOD = dict(
    times="stratified",
    pattern="count",
    coupling="complementary",
    weights="bound",
)

Way = dict[str, str]


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if args.draws < 2:
        raise UserError(f"--draws={args.draws} must be at least 2")
    rows = measure(Path(args.workdir), args.draws, args.all)
    unit = "as a multiple of the plain way's"
    error = f"({args.draws} draws; ± half of the 95 % interval)"
    say(f"{args.workdir}: variance at equal passes, {unit} {error}")
    head = f"  {'times':<11} {'pattern':<10} {'coupling':<14} {'weights':<8}"
    say(f"{head} {'loss':>7} {'gradient':>9} {'noise':>7}   {'nats per token':>18}")
    for row in rows:
        say(_line(row, rows[0]))
    if args.json:
        cli.emit(dict(workdir=args.workdir, draws=args.draws, rows=rows))


def _line(row: dict[str, Any], plain: dict[str, Any]) -> str:
    loss = row["loss_variance"] / plain["loss_variance"]
    gradient = row["gradient_variance"] / plain["gradient_variance"]
    way = f"{row['times']:<11} {row['pattern']:<10} {row['coupling']:<14} {row['weights']:<8}"
    mean = f"{row['loss']:.3f} ± {half(row['loss'], row['loss_se']):.3f}"
    return f"  {way} {loss:>7.2f} {gradient:>9.2f} {row['gradient_noise']:>7.2f}   {mean:>18}"


def ways(every: bool) -> list[Way]:
    """Returns the plain way, then others.

    The others are all combinations or, unless `every`, those with one change to the plain or the
    good way.
    """
    from dlm.objectives.masked import Masked

    # The choices are those of the objective's fields.
    hints = typing.get_type_hints(Masked)
    choices = [typing.get_args(hints[axis]) for axis in AXES]
    ways = []
    for values in itertools.product(*choices):
        way = dict(zip(AXES, values, strict=True))
        changes = min(_changes(way, PLAIN), _changes(way, GOOD))
        if every or changes <= 1:
            ways.append(way)
    return sorted(ways, key=_rank)


def _changes(way: Way, other: Way) -> int:
    return sum(way[axis] != other[axis] for axis in AXES)


def _rank(way: Way) -> tuple[bool, ...]:
    """The plain way is first; then changes of the first axes."""
    changed = [way[axis] != PLAIN[axis] for axis in reversed(AXES)]
    return any(changed), *changed


def measure(workdir: Path, draws: int, every: bool = False) -> list[dict]:
    """Returns a row for each way: mean loss, its standard error, and both variances."""
    from dlm.app.open_run import reopen
    from dlm.noise.schedules.linear import Linear
    from dlm.objectives.masked import Masked

    experiment, state = reopen(workdir)
    objective = experiment.objective
    # A subclass of Masked has choices of its own.
    linear = type(objective) is Masked and objective.process.schedule == Linear()
    if not linear or objective.steps:
        text = (
            "is no run of objectives.masked with the linear schedule in continuous time"
        )
        raise UserError(f"{workdir} {text}")
    batch = next(experiment.batches(0))
    rows = []
    for way in ways(every):
        # The same batch and the same keys for every way.
        changed = replace(objective, **way)
        row = _scatter(experiment, state.params, batch, changed, draws)
        rows.append(row | way)
    return rows


def _scatter(
    experiment: Any,
    params: Any,
    batch: Any,
    objective: Any,
    draws: int,
) -> dict[str, float]:
    import jax
    import numpy as np

    from dlm.core import keys

    key_S = jax.random.split(keys.key(experiment.root, "noise"), draws)
    statistics = None
    if objective.times == "importance":
        statistics = _measured(objective, experiment.models(params), batch, key_S)

    def nats(params, key):
        models = experiment.models(params, statistics)
        loss = objective.loss(models, batch, key)
        return loss.nats_sum / loss.weight_sum

    mean_grads, losses, squares_S = _gradients(nats, params, key_S)
    loss_S = np.asarray(losses, np.float64)
    passes = 2 if objective.coupling == "complementary" else 1
    # ‖mean of g‖² is too large by the variance of the mean.
    square_of_mean = sum(float(square) for square in _squares(mean_grads))
    mean_of_square = float(squares_S.mean())
    variance = (mean_of_square - square_of_mean) * draws / (draws - 1)
    # Below zero only by chance.
    signal = max(square_of_mean - variance / draws, 1e-30)
    return dict(
        loss=float(loss_S.mean()),
        loss_se=float(loss_S.std(ddof=1) / draws**0.5),
        loss_variance=float(loss_S.var(ddof=1) * passes),
        gradient_variance=variance * passes,
        gradient_noise=(variance * passes / signal) ** 0.5,
    )


def _squares(tree: Any) -> list:
    """Returns the squared norm of each array of a tree."""
    import jax

    leaves = jax.tree.leaves(tree)
    return [jax.numpy.square(x).sum() for x in leaves]


def _gradients(loss: Callable, params: Any, key_S: Any) -> tuple:
    """Returns (the mean gradient, the losses, the squared norms of the gradients)."""
    import jax
    import jax.numpy as jnp

    def draw(total, key):
        value, grads = jax.value_and_grad(loss)(params, key)
        total = jax.tree.map(jnp.add, total, grads)
        return total, (value, sum(_squares(grads)))

    @jax.jit
    def draws(key_S):
        # One after another: all gradients at once would not fit into the memory.
        zero = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(draw, zero, key_S)

    # The mean gradient is needed for the variance without bias.
    total, (losses, squares) = draws(key_S)
    mean = jax.tree.map(lambda g: g / len(key_S), total)
    return mean, losses, squares


def _measured(objective: Any, models: "Models", batch: Any, key_S: Any) -> Any:
    """Returns the mean squares of the costs at each time, as training measures them."""
    import jax

    from dlm.noise import time_sampling

    def cost(key):
        return objective.loss(models, batch, key).statistics

    @jax.jit
    def total_cost(key_S):
        return jax.lax.map(cost, key_S).sum(0)

    # Other draws than those whose variance is measured.
    other_S = jax.vmap(lambda key: jax.random.fold_in(key, 1))(key_S)
    before = objective.statistics()
    return time_sampling.updated_costs(before, total_cost(other_S))
