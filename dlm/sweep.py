"""Run every point of a sweep: train, then evaluate.

Finished runs are skipped, stopped ones continue, and a run that fails stops no other.

python -m dlm.sweep --config=configs/sweeps/x.py --workdir=runs/x [--parallel=2] \\
    [--config.steps=100] [--dry_run | --print=slurm]
"""

import argparse
import functools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import files
from dlm.core.config import to_plain
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run
from dlm.reports import scores
from dlm.runs import logs
from dlm.sweeps import grid

if TYPE_CHECKING:
    from dlm.sweeps.worker_pool import Job, Outcome

Settings = dict[
    str, dict
]  # {evaluator: its settings}, as a row of evals.jsonl has them
Values = dict[str, float | None]  # {run or trial: its score}
Stop = Callable[[], bool]

FLAGS = [
    Flag(
        "config",
        "recipe file with a sweep() beside its get_config(), with its arguments after a colon",
        required=True,
        type=Place,
    ),
    Flag("workdir", "folder of the run directories, one for each point", type=Place),
    Flag(
        "parallel",
        "runs at a time (in a search: seeds of a trial); they share cores and CUDA_VISIBLE_DEVICES",
        default=1,
        type=int,
    ),
    Flag(
        "evals",
        "evaluators after the training, separated by commas, or none (default: the recipe's)",
    ),
    Flag(
        "search",
        "let Optuna choose this many trials instead of running all",
        default=0,
        type=int,
    ),
    Flag("metric", "the score that a search optimises", default="bits_per_byte"),
    Flag("maximize", "a search is for the largest score, not the smallest", type=bool),
    Flag(
        "print",
        "print commands, or a script for SLURM, instead of running",
        choices=("commands", "slurm"),
    ),
    Flag(
        "dry_run", "check every run, print their names and sizes, and stop", type=bool
    ),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]


def main(argv: list[str] | None = None) -> int | None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config", "evals"))
    if args.parallel < 1 or args.search < 0:
        raise UserError("--parallel must be at least 1 and --search not negative")
    if args.search and args.evals == "none":
        raise UserError("--search needs a score to go by: leave out --evals=none")

    # Overrides of the config make the runs; those of evaluators are passed to dlm.evaluate.
    config = [each for each in overrides if each[0].startswith("config.")]
    sweep = grid.load(args.config, config)
    check_samplers(sweep)
    if args.dry_run:
        print_sizes(sweep, args.json)
        return None
    if not args.workdir:
        raise UserError(
            "--workdir is missing: where shall the runs be kept? For instance --workdir=runs/sweep"
        )
    args.flags = []
    for dotted, text in overrides:
        if dotted.startswith("evals."):
            args.flags.append(f"--{dotted}={text}")
    work = jobs(sweep, Path(args.workdir), args.evals, args.flags)
    if args.print:
        print(commands_text(work, args.print, args.parallel), end="")
        return None
    return carry_out(sweep, work, args)


def check_samplers(sweep: grid.Sweep) -> None:
    """Raises UserError for a run whose sampler cannot draw from its model."""
    from dlm.app import experiment

    for name, run in sweep.runs.items():
        try:
            experiment.check_sampler(run)
        except UserError as error:
            raise UserError(f"run {name!r}: {error}") from None


def print_sizes(sweep: grid.Sweep, as_json: bool) -> None:
    """Prints the names and sizes of all runs."""
    # Sizes are of the configs alone: nothing is read.
    rows = []
    width = max(map(len, sweep.runs))
    for name, run in sweep.runs.items():
        tokens = run.steps * run.data.batch * run.data.length
        parameters = run.nn.parameters
        rows.append(
            dict(name=name, updates=run.steps, parameters=parameters, tokens=tokens)
        )
        say(
            f"{name:<{width}}  {run.steps:>9,} updates  {tokens:>15,} tokens  "
            f"{parameters:>13,} parameters"
        )
    if as_json:
        cli.emit(dict(runs=rows))


def jobs(
    sweep: grid.Sweep, workdir: Path, evals: str | None, flags: list[str]
) -> list["Job"]:
    """Returns the commands of each point, each with a test of whether it is done."""
    from dlm.runs import directory
    from dlm.sweeps import worker_pool

    if workdir.exists() and not workdir.is_dir():
        raise UserError(
            f"--workdir={workdir} is a file: name a folder that may hold many runs"
        )
    if (workdir / "config.json").exists():
        raise UserError(
            f"--workdir={workdir} is a run directory: name a folder that may hold many runs"
        )

    # A mistake in the flags, or a run of another config, is found before anything runs.
    if evals != "none":
        settings(next(iter(sweep.runs.values())), evals, flags)
    for name, run in sweep.runs.items():
        directory.belongs(workdir / name, run)

    # The tests of being done look at the disk, so a sweep continues wherever it was stopped.
    work = []
    for name, words in sweep.flags.items():
        run, folder = sweep.runs[name], workdir / name
        training = ("dlm.train", *words, f"--workdir={folder}")
        commands = [(training, functools.partial(_is_trained, folder, run))]
        if evals != "none":
            chosen = [f"--evals={evals}"] if evals else []
            evaluation = ("dlm.evaluate", f"--workdir={folder}", *chosen, *flags)
            is_scored = functools.partial(_is_scored, folder, run, evals, flags)
            commands.append((evaluation, is_scored))
        work.append(worker_pool.Job(name, folder, tuple(commands)))
    return work


def _is_trained(workdir: Path, run: Run) -> bool:
    from dlm.runs import checkpoint

    return run.steps in checkpoint.steps(workdir)


def _is_scored(workdir: Path, run: Run, evals: str | None, flags: list[str]) -> bool:
    """Whether every evaluator has a score at the last update, with these settings."""
    from dlm.runs import directory

    evaluators = settings(directory.as_begun(workdir, run), evals, flags)
    # A row without settings, of an earlier version, does not say how it was measured.
    scored = set()
    for row in matching(workdir, evaluators):
        if row.get("step") == run.steps and "eval" in row and "settings" in row:
            scored.add(row["eval"])
    return scored == evaluators.keys()


def settings(run: Run, evals: str | None, flags: list[str]) -> Settings:
    """Returns the settings of the evaluators that a run of the sweep gets.

    Args:
        run: of the sweep
        evals: the names on the command line, None for those of the config
        flags: `--evals.NAME.FIELD=VALUE`
    """
    from dlm.app import context

    config = to_plain(run)["evals"]
    if evals == "none":
        return files.finite(config)
    # The flags of the command line apply to every run.
    overrides = []
    for flag in flags:
        dotted, _, text = flag.removeprefix("--").partition("=")
        overrides.append((dotted, text))
    chosen = context.build_evaluators(config, evals, overrides)
    return {
        name: files.finite(to_plain(evaluator)) for name, evaluator in chosen.items()
    }


def matching(workdir: Path, evaluators: Settings) -> list[dict]:
    """Returns the scores that these evaluators gave a run, with all else as in its config.

    A row of an earlier version has no settings, and matches.
    """
    # A score of another text or sampler says nothing of the sweep's own.
    matches = []
    for row in logs.rows(workdir / "evals.jsonl", logs.SCORE):
        fields = scores.differs(row, {})
        if not all(field.startswith("evals.") for field in fields):
            continue
        if "settings" in row and row["settings"] != evaluators.get(row.get("eval", "")):
            continue
        matches.append(row)
    return matches


def latest(workdir: Path, metric: str, evaluators: Settings) -> dict | None:
    """Returns the last row of that name from these evaluators; None before there is one."""
    rows = matching(workdir, evaluators)
    return scores.newest(rows).get(metric)


def commands_text(work: Sequence["Job"], kind: str, parallel: int) -> str:
    """Returns the commands, a line for each run, or an sbatch script."""
    from dlm.sweeps import worker_pool

    if kind == "slurm":
        return worker_pool.slurm(work, parallel)
    # An evaluation follows only a training that succeeded.
    lines = []
    for job in work:
        commands = [shlex.join(("python", "-m", *words)) for words, _ in job.commands]
        lines.append(" && ".join(commands) + "\n")
    return "".join(lines)


def carry_out(sweep: grid.Sweep, work: list["Job"], args: argparse.Namespace) -> int:
    """Runs the jobs, all or those that a search chooses; returns the exit code."""
    from dlm.machine import interrupts
    from dlm.runs import directory
    from dlm.sweeps import worker_pool

    # A run that has begun may have an older default in its config, which its scores go by.
    workdir = Path(args.workdir)
    evaluators = {}
    for name, run in sweep.runs.items():
        begun = directory.as_begun(workdir / name, run)
        evaluators[name] = settings(begun, args.evals, args.flags)
    outcomes: list[Outcome] = []
    values: Values = {}
    with interrupts.Watch() as request:

        def stop() -> bool:
            return request.here

        if args.search:
            values = _search(sweep, work, args, outcomes, stop, evaluators)
        else:
            outcomes += worker_pool.Fleet(work, args.parallel, workdir / grid.LOGS)(
                stop
            )
        stopped = request.here

    # A search that was stopped in its first trial has no scores; its runs may have.
    if not values:
        for outcome in outcomes:
            row = latest(workdir / outcome.name, args.metric, evaluators[outcome.name])
            if row:
                values[outcome.name] = scores.value(row)
    _print_results(args, outcomes, values)
    if stopped:
        raise interrupts.Preempted(what=f"stopped {workdir}, whose runs are saved")
    say(f"compare them: python -m dlm.report {workdir}")
    return int(any(outcome.kind == "failed" for outcome in outcomes))


def _print_results(
    args: argparse.Namespace, outcomes: list["Outcome"], values: Values
) -> None:
    """Prints the scores, the number of runs of each kind, and the errors."""
    workdir = Path(args.workdir)
    known = {name: value for name, value in values.items() if value is not None}
    if args.json:
        runs = [asdict(outcome) for outcome in outcomes]
        cli.emit(
            dict(workdir=str(workdir), runs=runs, metric=args.metric, scores=known)
        )
    width = max(map(len, known), default=0)
    for name, value in known.items():
        say(
            f"  {name:<{width}}  {args.metric} {scores.shown('{:.4f}'.format, value, None)}"
        )
    # Kinds that no run has are not printed.
    counts = []
    for kind in ("finished", "skipped", "stopped", "waiting", "failed"):
        number = sum(outcome.kind == kind for outcome in outcomes)
        if number:
            counts.append(f"{number} {kind}")
    say(f"{workdir}: " + ", ".join(counts))
    for outcome in outcomes:
        if outcome.kind == "failed":
            say(f"  {outcome.name} failed: {outcome.error} (log: {outcome.log})")


def _search(
    sweep: grid.Sweep,
    work: list["Job"],
    args: argparse.Namespace,
    outcomes: list["Outcome"],
    stop: Stop,
    evaluators: dict[str, Settings],
) -> Values:
    """Runs a search: the scores of its trials, each the mean over its seeds.

    The outcomes of its runs are added to `outcomes`.
    """
    from dlm.sweeps import optuna_search, worker_pool

    workdir = Path(args.workdir)
    by_name = {job.name: job for job in work}

    def score(points: list[grid.Point]) -> float | None:
        if stop():
            return None
        # The seeds of a trial run side by side, and the trials one after the other.
        seeds = [by_name[point.name] for point in points]
        ended = worker_pool.Fleet(seeds, args.parallel, workdir / grid.LOGS)(stop)
        outcomes.extend(ended)
        if not all(outcome.kind in ("finished", "skipped") for outcome in ended):
            return None
        rows = []
        for point in points:
            row = latest(workdir / point.name, args.metric, evaluators[point.name])
            if row is None:
                raise UserError(
                    f"no evaluator of the sweep gives a score named {args.metric!r}: "
                    "see --metric and --evals"
                )
            rows.append(row)
        return _mean(points, rows)

    return optuna_search.search(sweep.points, args.search, score, args.maximize)


def _mean(points: list[grid.Point], rows: list[dict]) -> float:
    """The mean over seeds; a seed that was measured otherwise is excluded with a warning."""
    indices, excluded = scores.alike(rows)
    for i, facets in excluded.items():
        listed = ", ".join(facets)
        say(
            f"warning: {points[i].name} is not in the mean of its seeds, "
            f"it was measured otherwise ({listed})"
        )
    mean, _ = scores.combined([rows[i] for i in indices])
    return mean


if __name__ == "__main__":
    cli.main(main)
