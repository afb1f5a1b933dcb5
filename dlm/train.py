"""Train a model from a recipe; a run directory in use goes on where it stopped.

python -m dlm.train --config=configs/masked.py:size=tiny --workdir=runs/x [--config.optim.lr=3e-4 …]
"""

import time
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
    Flag("workdir", "run directory; one in use is resumed, never overwritten", type=Place),
    Flag(
        "accept_data",
        "go on although the training data have changed since the run began",
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
        result = describe(run)
    elif args.workdir:
        result = train(run, Path(args.workdir), args.accept_data)
    else:
        raise UserError(
            "--workdir is missing: where shall the run be kept? For instance --workdir=runs/first"
        )
    if args.json and result is not None:
        cli.emit(result)
    elif args.dry_run:
        say("\n".join(f"{k}: {v:,}" for k, v in result.items()))


def describe(run: Run) -> dict:
    """What a run would be: shapes are traced, nothing is allocated, and a mesh for more devices than are here is not made."""
    import jax

    from dlm.app.experiment import Experiment, check_sampler
    from dlm.machine import mesh

    check_sampler(run)
    state = Experiment(run, tokenizer=None, on=mesh.abstract_mesh(run.mesh)).abstract_state()
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
    """Brings the run in `workdir` to `run.steps` updates; its last metrics, in the process that writes them.

    Bad data is noticed before anything is written.
    """
    from dlm.data.base import describe_dropped
    from dlm.machine import hosts, interrupts, mesh
    from dlm.runs import checkpoint, directory, warm_start

    run = directory.as_begun(workdir, run)
    with interrupts.Watch() as stop_requested, ExitStack() as held:

        def locate_run() -> tuple[bool, int]:
            ours = directory.belongs(workdir, run)
            if ours:
                held.enter_context(directory.locked(workdir))
            return ours, checkpoint.intact(workdir, say) or 0

        def begun() -> None:
            if not ours:
                held.enter_context(directory.locked(workdir))
                directory.create(workdir, run, tokenizer, dropped=run.data.dropped)
                if run.data.dropped:
                    say(f"dropped from the data: {describe_dropped(run.data.dropped)}")
            directory.check_places(workdir, run, accept_data)
            accepted = directory.check_data(workdir, fingerprint, held_out, accept_data)
            directory.go_on(workdir, run, done, accepted)
            checkpoint.set_aside(workdir, after=done)

        if hosts.join(say, lambda: mesh.devices(run.mesh)):
            stop_requested.agree()
        ours, done = hosts.together(locate_run)
        if done >= run.steps:
            say(f"{workdir} is finished: {done} updates")
            return result(workdir, run, done) if hosts.first() else None

        from dlm.app.experiment import Experiment, check_sampler

        if not ours:  # an earlier version did not look
            check_sampler(run)
        tokenizer = _tokenizer(run, workdir if ours else None)
        if (
            0 < run.intervals.eval <= run.steps
        ):  # else they are for `evaluate`, which may give them what they lack
            for evaluator in run.evals.values():
                if hasattr(evaluator, "check"):
                    evaluator.check(run, tokenizer)
        experiment = Experiment(run, tokenizer)
        if run.start is not None and not ours:
            warm_start.check(run.start, experiment.abstract_state().params)
        batches, fingerprint, held_out = (
            experiment.batches(done),
            run.data.fingerprint(tokenizer),
            run.data.held_out_fingerprint(),
        )
        hosts.alike(f"{fingerprint} {held_out}", "training or held-out data")
        hosts.together(begun)
        _updates(experiment, workdir, batches, done, stop_requested)
    return result(workdir, run, run.steps) if hosts.first() else None


def _tokenizer(run: Run, workdir: Path | None):
    """That of the run in `workdir`; for a new run that of the one it begins with, or one learned from its text."""
    from dlm.runs import warm_start

    if workdir is not None:
        return run.text.restore(workdir)
    return (
        run.text.fit(run.data.source.documents("train"))
        if run.start is None
        else warm_start.tokenizer(run.start, run.text)
    )


def _updates(experiment, workdir: Path, batches, done: int, stop_requested) -> None:
    """The updates after `done`, with everything they leave in `workdir`."""
    from dlm.data import packing
    from dlm.machine import hosts, peak_flops
    from dlm.runs import checkpoint
    from dlm.runs.logs import Logs, clock
    from dlm.training import loop, metrics, skipped_update

    run = experiment.run
    logs = Logs(workdir, done, run.steps, writes=hosts.first())
    store = checkpoint.Store(workdir, run.intervals.keep, run.intervals.on_save_failure, logs.say)
    with closing(logs), closing(store):
        state = store.restore(experiment.abstract_state(), done) if done else experiment.new_state()
        sizes = f"{run.nn.parameters / 1e6:.2f}M parameters, {run.data.batch} × {run.data.length} tokens per update"
        logs.say(f"{workdir}: {sizes}; {packing.POLICY}")
        if run.data.prompt:
            logs.say(run.data.about(experiment.windows))
        if done:
            logs.say(f"going on after update {done}")
        options = dict(
            start=done,
            steps=run.steps,
            intervals=run.intervals,
            logs=logs,
            flops_per_token=run.flops_per_token,
            peak=peak_flops.measure(run.nn.compute.dtype),
            evaluate=lambda state, step: scores(
                experiment, state, step, lambda: step < run.steps and stop_requested()
            ),
            save=store.save,
            check=store.check,
            stop=stop_requested,
            skips=run.optim.skip.limit,
        )
        try:
            _, phases = loop.train(state, _announced(experiment.update, logs), batches, **options)
        except metrics.Diverged as diverged:
            raise UserError(skipped_update.describe(workdir, experiment, diverged)) from None
        store.wait()
        if not hosts.together(lambda: run.steps in checkpoint.steps(workdir)):
            raise UserError(
                f"{workdir} made all {run.steps} updates, but the last is in no checkpoint: make room and start again"
            )
        seconds = {k: round(v, 2) for k, v in phases.seconds.items()}
        logs.write(
            {"step": run.steps, "phases": seconds, "seconds": round(time.time() - cli.BEGIN, 2)}
        )
        logs.say(
            f"{workdir}: finished in {clock(time.time() - cli.BEGIN)} ({', '.join(f'{k} {clock(v)}' for k, v in seconds.items())})"
        )


def scores(experiment, state, step: int, stop=lambda: False) -> dict:
    """The run's evaluators on the averaged parameters, as one flat row; cut short by Preempted once `stop()` says so."""
    from dlm.app.context import RunContext

    subject = RunContext(
        experiment, state.averaged, experiment.run.data.source, experiment.run.seed, stop
    )
    row = {}
    for name, evaluator in experiment.run.evals.items():
        for score, value, error in evaluator.run(subject, step):
            row |= {f"{name}.{score}": value, f"{name}.{score}_se": error}
    return row


def result(workdir: Path, run: Run, step: int) -> dict:
    """The last metrics of a run, as --json prints them."""
    from dlm.runs import logs

    rows = [row for row in logs.rows(workdir / logs.METRICS) if "loss" in row]
    return dict(
        workdir=str(workdir),
        updates=step,
        parameters=run.nn.parameters,
        **(rows[-1] if rows else {}),
    )


def _announced(update, logs):
    """`update`, saying once how long it took until the first one was done."""
    import jax

    waiting = True

    def step(state, batch):
        nonlocal waiting
        out = update(state, batch)
        if waiting:
            waiting = False
            jax.block_until_ready(out)
            logs.say(f"first update done {time.time() - cli.BEGIN:.1f} s after the start")
        return out

    return step


if __name__ == "__main__":
    cli.main(main)
