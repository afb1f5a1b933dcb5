"""How much a training loss and its gradient scatter, for each way to draw times and masks, at equal forward passes.

python -m dlm.bench variance --workdir=RUN [--draws=64] [--json]

One batch of the run's training data and its parameters stay fixed; only the noise is drawn anew. All estimators have the same mean (a law
test), so the one with the smallest variance learns most from a pass. A complementary pair takes two passes and counts twice.

    Var g = E‖g‖² − ‖E g‖²      over all parameters, without the bias of the estimated mean
"""

import itertools
import typing
from dataclasses import replace
from pathlib import Path

from dlm.run import cli
from dlm.run.cli import Flag, say
from dlm.run.spec import UserError

FLAGS = [
    Flag("workdir", "a run of objectives.masked with the linear schedule", required=True),
    Flag("draws", "of the noise, for each way", default=64, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if args.draws < 2:
        raise UserError(f"--draws={args.draws} must be at least 2")
    rows = measure(Path(args.workdir), args.draws)
    plain = rows[0]
    say(f"{args.workdir}: variance at equal passes, as a multiple of {plain['times']}, {plain['coupling']} ({args.draws} draws)")
    say(f"  {'times':<11} {'coupling':<14} {'loss':>8} {'gradient':>9}   {'mean loss, nats per token':>26}")
    for row in rows:
        ratios = row["loss_variance"] / plain["loss_variance"], row["gradient_variance"] / plain["gradient_variance"]
        mean = f"{row['loss']:.3f} ± {row['loss_se']:.3f}"
        say(f"  {row['times']:<11} {row['coupling']:<14} {ratios[0]:>8.2f} {ratios[1]:>9.2f}   {mean:>26}")
    if args.json:
        cli.emit(dict(workdir=args.workdir, draws=args.draws, rows=rows))


def measure(workdir: Path, draws: int) -> list[dict]:
    """A row for each way: mean loss with its standard error, and both variances times the passes that a draw takes."""
    from dlm.noise import times
    from dlm.objectives.masked import Masked
    from dlm.run.assemble import reopen

    experiment, state = reopen(workdir)
    objective = experiment.objective
    if type(objective) is not Masked or objective.process.schedule != "linear" or objective.steps:
        raise UserError(f"{workdir} is no run of objectives.masked with the linear schedule in continuous time")
    batch = next(experiment.batches(0))
    kinds = sorted(typing.get_args(times.Kind), key=lambda kind: kind != "iid")  # iid, single is the plain one
    ways = itertools.product(("single", "complementary"), kinds)
    return [_scatter(experiment, state.params, batch, replace(objective, times=kind, coupling=c), draws) for c, kind in ways]


def _scatter(experiment, params, batch, objective, draws: int) -> dict:
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np

    from dlm.run import keys

    def nats(params, key):
        loss = objective.loss(functools.partial(experiment.denoise, params), batch, key)
        return loss.nats_sum / loss.weight_sum

    def draw(total, key):
        value, grads = jax.value_and_grad(nats)(params, key)
        square = sum(jnp.square(g).sum() for g in jax.tree.leaves(grads))
        return jax.tree.map(jnp.add, total, grads), (value, square)

    zero = jax.tree.map(jnp.zeros_like, params)
    key_S = jax.random.split(keys.key(experiment.root, "noise"), draws)
    total, (loss_S, square_S) = jax.jit(lambda key_S: jax.lax.scan(draw, zero, key_S))(key_S)
    mean_square = sum(float(jnp.square(g / draws).sum()) for g in jax.tree.leaves(total))
    passes, loss_S = 1 + (objective.coupling == "complementary"), np.asarray(loss_S, np.float64)
    return dict(
        times=objective.times,
        coupling=objective.coupling,
        loss=float(loss_S.mean()),
        loss_se=float(loss_S.std(ddof=1) / draws**0.5),
        loss_variance=float(loss_S.var(ddof=1) * passes),
        gradient_variance=(float(square_S.mean()) - mean_square) * draws / (draws - 1) * passes,
    )
