"""Run every point of a sweep: train, then evaluate; what is finished is skipped, what was killed goes on, a failure stops nobody else.

python -m dlm.sweep --config=configs/sweeps/x.py --workdir=runs/x [--parallel=2] [--config.steps=100] [--dry_run | --print=slurm]
"""

import shlex
from dataclasses import asdict
from pathlib import Path

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
        "runs at a time (in a search: seeds of a try); they share the cores, and CUDA_VISIBLE_DEVICES",
        default=1,
        type=int,
    ),
    Flag(
        "evals",
        "evaluators after the training, separated by commas, or none (default: those of the recipe)",
    ),
    Flag("search", "let Optuna choose this many tries instead of running all", default=0, type=int),
    Flag("metric", "the score that a search is for", default="bits_per_byte"),
    Flag("maximize", "a search is for the largest, not the smallest", type=bool),
    Flag(
        "print",
        "print commands, or a script for SLURM, instead of running",
        choices=("commands", "slurm"),
    ),
    Flag("dry_run", "check every run, print their names and sizes, and stop", type=bool),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]


def main(argv: list[str] | None = None) -> int | None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config", "evals"))
    if args.parallel < 1 or args.search < 0:
        raise UserError("--parallel must be at least 1 and --search not negative")
    if args.search and args.evals == "none":
        raise UserError("--search needs a score to go by: leave out --evals=none")
    changes = [o for o in overrides if o[0].startswith("config.")]
    sweep = grid.load(args.config, changes)
    check_samplers(sweep)
    if args.dry_run:
        return listed(sweep, args.json)
    if not args.workdir:
        raise UserError(
            "--workdir is missing: where shall the runs be kept? For instance --workdir=runs/sweep"
        )
    args.flags = [f"--{dotted}={text}" for dotted, text in overrides if dotted.startswith("evals.")]
    work = jobs(sweep, Path(args.workdir), args.evals, args.flags)
    if args.print:
        print(printed(work, args.print, args.parallel), end="")
        return None
    return carried_out(sweep, work, args)


def check_samplers(sweep: grid.Sweep) -> None:
    from dlm.app import experiment

    for name, run in sweep.runs.items():
        try:
            experiment.check_sampler(run)
        except UserError as error:
            raise UserError(f"run {name!r}: {error}") from None


def listed(sweep: grid.Sweep, as_json: bool) -> None:
    """The names and sizes of all runs."""
    rows = [
        dict(
            name=name,
            updates=run.steps,
            parameters=run.nn.parameters,
            tokens=run.steps * run.data.batch * run.data.length,
        )
        for name, run in sweep.runs.items()
    ]
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(
            f"{row['name']:<{width}}  {row['updates']:>9,} updates  {row['tokens']:>15,} tokens  {row['parameters']:>13,} parameters"
        )
    if as_json:
        cli.emit(dict(runs=rows))


def jobs(sweep: grid.Sweep, workdir: Path, evals: str | None, flags: list[str]) -> list:
    """What is to be done for each point, and how it is known to be done."""
    from dlm.runs import checkpoint, directory
    from dlm.sweeps import worker_pool

    if (workdir / "config.json").exists() or (workdir.exists() and not workdir.is_dir()):
        raise UserError(
            f"--workdir={workdir} is a {'run directory' if workdir.is_dir() else 'file'}: name a folder that may hold many runs"
        )

    if evals != "none":
        settings(
            next(iter(sweep.runs.values())), evals, flags
        )  # a mistake in the flags is told before anything runs
    for name, run in sweep.runs.items():  # a run of another config must not count as done
        directory.belongs(workdir / name, run)

    def trained(name: str) -> bool:
        return sweep.runs[name].steps in checkpoint.steps(workdir / name)

    def scored(name: str) -> bool:
        wanted = settings(directory.as_begun(workdir / name, sweep.runs[name]), evals, flags)
        rows = [
            row
            for row in answering(workdir / name, wanted)
            if row.get("step") == sweep.runs[name].steps
        ]
        return {row["eval"] for row in rows if "eval" in row and "settings" in row} == wanted.keys()

    planned = []
    for name, words in sweep.flags.items():
        commands = [
            (("dlm.train", *words, f"--workdir={workdir / name}"), lambda name=name: trained(name))
        ]
        if evals != "none":
            chosen = [f"--evals={evals}"] if evals else []
            commands.append(
                (
                    ("dlm.evaluate", f"--workdir={workdir / name}", *chosen, *flags),
                    lambda name=name: scored(name),
                )
            )
        planned.append(worker_pool.Job(name, workdir / name, tuple(commands)))
    return planned


def settings(run: Run, evals: str | None, flags: list[str]) -> dict[str, dict]:
    """{evaluator: its settings} of a run of the sweep, as a row of evals.jsonl has them."""
    from dlm.app import context

    config, asked = (
        to_plain(run)["evals"],
        [tuple(flag.removeprefix("--").split("=", 1)) for flag in flags],
    )
    if evals == "none":
        return files.finite(config)
    return {
        name: files.finite(to_plain(one))
        for name, one in context.build_evaluators(config, evals, asked).items()
    }


def answering(workdir: Path, wanted: dict[str, dict]) -> list[dict]:
    """The rows of a run that were asked for with these settings, and with nothing else that its config does otherwise."""
    rows = logs.rows(workdir / "evals.jsonl", logs.SCORE)
    same = [
        row for row in rows if all(field.startswith("evals.") for field in scores.differs(row, {}))
    ]
    return [
        row
        for row in same
        if "settings" not in row or row["settings"] == wanted.get(row.get("eval"))
    ]


def printed(work: list, kind: str, parallel: int) -> str:
    """Commands, a line for each run, or an sbatch script."""
    from dlm.sweeps import worker_pool

    if kind == "slurm":
        return worker_pool.slurm(work, parallel)
    lines = (
        " && ".join(shlex.join(("python", "-m", *words)) for words, _ in job.commands)
        for job in work
    )
    return "".join(f"{line}\n" for line in lines)


def carried_out(sweep: grid.Sweep, work: list, args) -> int:
    """Runs the jobs, all or those that a search asks for; the exit code."""
    from dlm.machine import interrupts
    from dlm.runs import directory
    from dlm.sweeps import worker_pool

    workdir, outcomes, searched = Path(args.workdir), [], None
    wanted = {
        name: settings(directory.as_begun(workdir / name, run), args.evals, args.flags)
        for name, run in sweep.runs.items()
    }
    with interrupts.Watch() as report:
        if args.search:
            searched = _searched(sweep, work, args, outcomes, report, wanted)
        else:
            outcomes += worker_pool.Fleet(work, args.parallel, workdir / grid.LOGS)(
                lambda: report.here
            )
        stopped = report.here
    rows = {o.name: latest(workdir / o.name, args.metric, wanted[o.name]) for o in outcomes}
    searched = searched or {name: scores.value(row) for name, row in rows.items() if row}
    values = {name: value for name, value in searched.items() if value is not None}
    if args.json:
        cli.emit(
            dict(
                workdir=str(workdir),
                runs=[asdict(o) for o in outcomes],
                metric=args.metric,
                scores=values,
            )
        )
    failed = [o for o in outcomes if o.kind == "failed"]
    counts = {
        kind: sum(o.kind == kind for o in outcomes)
        for kind in ("finished", "skipped", "stopped", "waiting", "failed")
    }
    for name, value in values.items():
        say(
            f"  {name:<{max(map(len, values))}}  {args.metric} {scores.shown('{:.4f}'.format, value, None)}"
        )
    say(f"{workdir}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items() if n))
    for o in failed:
        say(f"  {o.name} failed: {o.error} (log: {o.log})")
    if stopped:
        raise interrupts.Preempted(what=f"stopped {workdir}, whose runs are saved")
    say(f"compare them: python -m dlm.report {workdir}")
    return int(bool(failed))


def latest(run: Path, metric: str, wanted: dict[str, dict]) -> dict | None:
    """The row of that name that the sweep's evaluators with these settings have left in a run directory; None before there is one."""
    return scores.newest(answering(run, wanted)).get(metric)


def _searched(sweep: grid.Sweep, work: list, args, outcomes: list, report, wanted: dict) -> dict:
    """The tries of a search and their scores, each the mean over its seeds; their outcomes are added to `outcomes`."""
    from dlm.sweeps import optuna_search, worker_pool

    by_name, workdir = {job.name: job for job in work}, Path(args.workdir)

    def score(points: list[grid.Point]) -> float | None:
        if report.here:
            return None
        new = worker_pool.Fleet(
            [by_name[p.name] for p in points], args.parallel, workdir / grid.LOGS
        )(lambda: report.here)
        outcomes.extend(new)
        if not all(o.kind in ("finished", "skipped") for o in new):
            return None
        rows = [latest(workdir / p.name, args.metric, wanted[p.name]) for p in points]
        if None in rows:
            raise UserError(
                f"no evaluator of the sweep gives a score named {args.metric!r}: see --metric and --evals"
            )
        kept, apart = scores.alike(rows)
        for i, facets in apart.items():
            say(
                f"warning: {points[i].name} is not in the mean of its seeds, it was measured otherwise ({', '.join(facets)})"
            )
        return scores.combined([rows[i] for i in kept])[0]

    return optuna_search.search(sweep.points, args.search, score, args.maximize)


if __name__ == "__main__":
    cli.main(main)
