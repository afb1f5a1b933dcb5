"""Train a model from a recipe; a run directory in use continues where it stopped.

python -m dlm.train --config=configs/masked.py:size=tiny --workdir=runs/x [--config.optim.lr=3e-4 …]
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

FLAGS = [
    Flag(
        "config",
        "recipe file, with its arguments after a colon: configs/masked.py:size=tiny,data=embedded",
        required=True,
        type=Place,
    ),
    Flag(
        "workdir", "run directory; one in use is resumed, never overwritten", type=Place
    ),
    Flag(
        "accept_data",
        "continue although the training data have changed since the run began",
        type=bool,
    ),
    Flag("print_config", "print the recipe with the overrides, and stop", type=bool),
    Flag(
        "dry_run",
        "check the config, print sizes, and stop: nothing is read, written or computed",
        type=bool,
    ),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    config = cli.load_config(args.config, overrides)
    if args.print_config:
        cli.emit(config, indent=2)
        return
    run = build_run(config)
    if args.dry_run:
        sizes = describe(run)
        if args.json:
            cli.emit(sizes)
        else:
            say("\n".join(f"{name}: {size:,}" for name, size in sizes.items()))
        return
    if not args.workdir:
        question = "where shall the run be kept? For instance --workdir=runs/first"
        raise UserError(f"--workdir is missing: {question}")
    row = train(run, Path(args.workdir), args.accept_data)
    # Of several processes one has the result.
    if args.json and row is not None:
        cli.emit(row)


def describe(run: Run) -> dict:
    """Compute the sizes of a run: shapes are traced, nothing is allocated.

    The mesh may have more devices than this machine.
    """
    import jax

    from dlm.app.experiment import Experiment, check_sampler
    from dlm.machine import mesh

    check_sampler(run)
    state = Experiment(
        run, tokenizer=None, on=mesh.abstract_mesh(run.mesh)
    ).abstract_state()
    tokens = run.data.batch * run.data.length
    return dict(
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        active_parameters=run.nn.active_parameters,
        state_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        tokens_per_update=tokens,
        flops_per_update=int(run.flops_per_token * tokens),
        updates=run.steps,
    )


def train(run: Run, workdir: Path, accept_data: bool = False) -> dict | None:
    """Train the run in `workdir` up to `run.steps` updates; wrong data raise UserError.

    Returns its last metrics in the process that writes them.
    """
    from dlm.machine import hosts, interrupts, mesh
    from dlm.runs import checkpoint, directory, warm_start

    run = directory.as_begun(workdir, run)
    with interrupts.Watch() as stop_requested, ExitStack() as locks:

        def locate_run() -> tuple[bool, int]:
            is_ours = directory.belongs(workdir, run)
            if is_ours:
                locks.enter_context(directory.locked(workdir))
            return is_ours, checkpoint.intact(workdir, say) or 0

        def begin() -> None:
            if not is_ours:
                locks.enter_context(directory.locked(workdir))
                _create(workdir, run, tokenizer)
            directory.check_places(workdir, run, accept_data)
            accepted = directory.check_data(workdir, fingerprint, held_out, accept_data)
            directory.go_on(workdir, run, done, accepted)
            checkpoint.set_aside(workdir, after=done)

        if hosts.join(say, lambda: mesh.devices(run.mesh)):
            stop_requested.agree()
        is_ours, done = hosts.together(locate_run)
        # A finished run is not trained again, so nothing more is loaded.
        if done >= run.steps:
            say(f"{workdir} is finished: {done} updates")
            return result(workdir, run, done) if hosts.first() else None

        from dlm.app.experiment import Experiment

        tokenizer = _tokenizer(run, workdir if is_ours else None)
        _check(run, tokenizer, is_new=not is_ours)
        experiment = Experiment(run, tokenizer)
        if run.start is not None and not is_ours:
            warm_start.check(run.start, experiment.abstract_state().params)

        # All processes must read the same text before one of them writes.
        batches = experiment.batches(done)
        fingerprint = run.data.fingerprint(tokenizer)
        held_out = run.data.held_out_fingerprint()
        hosts.alike(f"{fingerprint} {held_out}", "training or held-out data")
        hosts.together(begin)
        _make_updates(experiment, workdir, batches, done, stop_requested)
    return result(workdir, run, run.steps) if hosts.first() else None


def _create(workdir: Path, run: Run, tokenizer) -> None:
    """Fill a new run directory, and report documents that were dropped from the data."""
    from dlm.data.base import describe_dropped
    from dlm.runs import directory

    directory.create(workdir, run, tokenizer, dropped=run.data.dropped)
    if run.data.dropped:
        say(f"dropped from the data: {describe_dropped(run.data.dropped)}")


def _tokenizer(run: Run, workdir: Path | None):
    """Restore the tokenizer of the run in `workdir`.

    A new run takes that of the run it begins with, or learns one from its text.
    """
    from dlm.runs import warm_start

    if workdir is not None:
        return run.text.restore(workdir)
    if run.start is not None:
        return warm_start.tokenizer(run.start, run.text)
    return run.text.fit(run.data.source.documents("train"))


def _check(run: Run, tokenizer, is_new: bool) -> None:
    """Raise UserError where a sampler or an evaluator of the run cannot work with its model."""
    from dlm.app.experiment import check_sampler

    # Earlier versions did not check the sampler, so their runs continue without.
    if is_new:
        check_sampler(run)
    # Evaluators that never run in training may get what they lack from `evaluate`.
    if not 0 < run.intervals.eval <= run.steps:
        return
    for evaluator in run.evals.values():
        evaluator.check(run, tokenizer)


def _make_updates(
    experiment, workdir: Path, batches, done: int, stop_requested
) -> None:
    """Make the updates after `done`, and write everything they leave in `workdir`."""
    from dlm.machine import hosts
    from dlm.runs import checkpoint
    from dlm.runs.logs import Logs
    from dlm.training import skipped_update
    from dlm.training.metrics import Diverged

    # One process writes the log and the checkpoints' manifests.
    run, intervals = experiment.run, experiment.run.intervals
    logs = Logs(workdir, done, run.steps, writes=hosts.first())
    store = checkpoint.Store(
        workdir, intervals.keep, intervals.on_save_failure, logs.say
    )
    with closing(logs), closing(store):
        if done:
            state = store.restore(experiment.abstract_state(), done)
        else:
            state = experiment.new_state()
        _announce(experiment, workdir, logs, done)
        loop = _loop(experiment, logs, store, stop_requested)
        try:
            loop.run(state, batches, done, run.steps)
        except Diverged as diverged:
            raise UserError(
                skipped_update.describe(workdir, experiment, diverged)
            ) from None
        store.wait()
        # Without the last checkpoint a finished run would have no result.
        if not hosts.together(lambda: run.steps in checkpoint.steps(workdir)):
            lost = f"made all {run.steps} updates, but the last is in no checkpoint"
            raise UserError(f"{workdir} {lost}: make room and start again")
        _finish(workdir, run, logs, loop.phases.seconds)


def _loop(experiment, logs, store, stop_requested):
    """Connect the update with the log, the evaluators and the checkpoints."""
    from dlm.machine import peak_flops
    from dlm.training.loop import Loop
    from dlm.training.metrics import MetricAverager

    run = experiment.run

    def evaluate(state, step: int) -> dict:
        # The last evaluation is the run's result, so it is not cut short.
        return scores(
            experiment, state, step, lambda: step < run.steps and stop_requested()
        )

    peak = peak_flops.measure(run.nn.compute.dtype)
    skips = run.optim.skip.limit
    averager = MetricAverager(logs, run.intervals.log, run.flops_per_token, peak, skips)
    update = _timed_first(experiment.update, logs)
    stages = (evaluate, store.save, store.check, stop_requested)
    return Loop(update, run.intervals, logs, averager, *stages)


def _announce(experiment, workdir: Path, logs, done: int) -> None:
    from dlm.data import packing

    run = experiment.run
    model = f"{run.nn.parameters / 1e6:.2f}M parameters"
    batch = f"{run.data.batch} × {run.data.length} tokens per update"
    logs.say(f"{workdir}: {model}, {batch}; {packing.POLICY}")
    if run.data.prompt:
        logs.say(run.data.about(experiment.windows))
    if done:
        logs.say(f"going on after update {done}")


def _finish(workdir: Path, run: Run, logs, phases: dict[str, float]) -> None:
    from dlm.runs.logs import clock

    # The seconds of the phases do not add up to the total, which includes the start.
    seconds = {name: round(value, 2) for name, value in phases.items()}
    total = time.time() - cli.BEGIN
    logs.write(dict(step=run.steps, phases=seconds, seconds=round(total, 2)))
    parts = ", ".join(f"{name} {clock(value)}" for name, value in seconds.items())
    logs.say(f"{workdir}: finished in {clock(total)} ({parts})")


def _never() -> bool:
    return False


def scores(experiment, state, step: int, stop: Callable[[], bool] = _never) -> dict:
    """Run the run's evaluators on the averaged parameters; the scores are one flat row.

    Raises Preempted once `stop()` returns True.
    """
    from dlm.app.context import RunContext

    run = experiment.run
    context = RunContext(experiment, state.averaged, run.data.source, run.seed, stop)
    row = {}
    for name, evaluator in run.evals.items():
        for score, value, error in evaluator.run(context, step):
            row[f"{name}.{score}"] = value
            row[f"{name}.{score}_se"] = error
    return row


def result(workdir: Path, run: Run, step: int) -> dict:
    """Collect the last metrics of a run, as --json prints them."""
    from dlm.runs import logs

    about = dict(workdir=str(workdir), updates=step, parameters=run.nn.parameters)
    # Rows without a loss are those of evaluations.
    rows = [row for row in logs.rows(workdir / logs.METRICS) if "loss" in row]
    return about | rows[-1] if rows else about


def _timed_first(update, logs):
    """Wrap `update` so that it prints once when the first update was done."""
    import jax

    waiting = True

    def step(state, batch):
        nonlocal waiting
        out = update(state, batch)
        if waiting:
            waiting = False
            # The update is asynchronous: without this it would seem to take no time.
            jax.block_until_ready(out)
            logs.say(
                f"first update done {time.time() - cli.BEGIN:.1f} s after the start"
            )
        return out

    return step


if __name__ == "__main__":
    cli.main(main)
