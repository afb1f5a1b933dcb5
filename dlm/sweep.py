"""Run every point of a sweep: train, then evaluate; what is finished is skipped, what was killed goes on, a failure stops nobody else.

python -m dlm.sweep --config=configs/sweeps/x.py --workdir=runs/x [--parallel=2] [--config.steps=100] [--dry_run | --print=slurm]
"""

import shlex
from dataclasses import asdict
from pathlib import Path

from dlm.run import cli, files, logs, spec
from dlm.run.cli import Flag, say
from dlm.run.spec import Place, UserError
from dlm.sweeps import grid

FLAGS = [
    Flag("config", "recipe file with a sweep() beside its get_config(), with its arguments after a colon", required=True, type=Place),
    Flag("workdir", "folder of the run directories, one for each point", type=Place),
    Flag("parallel", "runs at a time (in a search: seeds of a try); they share the cores, and CUDA_VISIBLE_DEVICES", default=1, type=int),
    Flag("evals", "evaluators after the training, separated by commas, or none (default: those of the recipe)"),
    Flag("search", "let Optuna choose this many tries instead of running all", default=0, type=int),
    Flag("metric", "the score that a search is for", default="bits_per_byte"),
    Flag("maximize", "a search is for the largest, not the smallest", type=bool),
    Flag("print", "print commands, or a script for SLURM, instead of running", choices=("commands", "slurm")),
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
    if args.dry_run:
        return listed(sweep, args.json)
    if not args.workdir:
        raise UserError("--workdir is missing: where shall the runs be kept? For instance --workdir=runs/sweep")
    wanted = [f"--{dotted}={text}" for dotted, text in overrides if dotted.startswith("evals.")]
    work = jobs(sweep, Path(args.workdir), args.evals, wanted)
    if args.print:
        print(printed(work, args.print, args.parallel), end="")
        return None
    return carried_out(sweep, work, args)


def listed(sweep: grid.Sweep, as_json: bool) -> None:
    """The names and sizes of all runs."""
    rows = [
        dict(name=name, updates=run.steps, parameters=run.nn.parameters, tokens=run.steps * run.data.batch * run.data.length)
        for name, run in sweep.runs.items()
    ]
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['name']:<{width}}  {row['updates']:>9,} updates  {row['tokens']:>15,} tokens  {row['parameters']:>13,} parameters")
    if as_json:
        cli.emit(dict(runs=rows))


def jobs(sweep: grid.Sweep, workdir: Path, evals: str | None, flags: list[str]) -> list:
    """What is to be done for each point, and how it is known to be done."""
    from dlm.run import assemble, checkpoint, rundir
    from dlm.sweeps import fleet

    configs = {name: spec.plain(run)["evals"] for name, run in sweep.runs.items()}
    asked = [tuple(flag.removeprefix("--").split("=", 1)) for flag in flags]
    if (workdir / "config.json").exists() or (workdir.exists() and not workdir.is_dir()):
        raise UserError(
            f"--workdir={workdir} is a {'run directory' if workdir.is_dir() else 'file'}: name a folder that may hold many runs"
        )

    if evals != "none":
        assemble.evaluators(next(iter(configs.values())), evals, asked)  # a mistake in the flags is told before anything runs
    for name, run in sweep.runs.items():  # a run of another config must not count as done
        rundir.belongs(workdir / name, run)

    def trained(name: str) -> bool:
        return sweep.runs[name].steps in checkpoint.steps(workdir / name)

    def scored(name: str) -> bool:
        wanted = assemble.evaluators(configs[name], evals, asked)
        rows = [row for row in logs.rows(workdir / name / "evals.jsonl", logs.SCORE) if row.get("step") == sweep.runs[name].steps]
        have = [(row.get("eval"), row.get("settings")) for row in rows]
        return all((key, files.finite(spec.plain(one))) in have for key, one in wanted.items())

    found = []
    for name, words in sweep.flags.items():
        commands = [(("dlm.train", *words, f"--workdir={workdir / name}"), lambda name=name: trained(name))]
        if evals != "none":
            chosen = [f"--evals={evals}"] if evals else []
            commands.append((("dlm.evaluate", f"--workdir={workdir / name}", *chosen, *flags), lambda name=name: scored(name)))
        found.append(fleet.Job(name, workdir / name, tuple(commands)))
    return found


def printed(work: list, kind: str, parallel: int) -> str:
    """Commands, a line for each run, or an sbatch script."""
    from dlm.sweeps import fleet

    if kind == "slurm":
        return fleet.slurm(work, parallel)
    lines = (" && ".join(shlex.join(("python", "-m", *words)) for words, _ in job.commands) for job in work)
    return "".join(f"{line}\n" for line in lines)


def carried_out(sweep: grid.Sweep, work: list, args) -> int:
    """Runs the jobs, all or those that a search asks for; the exit code."""
    from dlm.run import preempt
    from dlm.sweeps import fleet

    workdir, outcomes, found = Path(args.workdir), [], None
    with preempt.Watch() as told:
        if args.search:
            found = _searched(sweep, work, args, outcomes, told)
        else:
            outcomes += fleet.Fleet(work, args.parallel, workdir / grid.LOGS)(lambda: told.here)
        stopped = told.here
    scores = {o.name: latest(workdir / o.name, args.metric) for o in outcomes}
    scores = {name: value for name, value in (found or scores).items() if value is not None}
    if args.json:
        cli.emit(dict(workdir=str(workdir), runs=[asdict(o) for o in outcomes], metric=args.metric, scores=scores))
    failed = [o for o in outcomes if o.kind == "failed"]
    counts = {kind: sum(o.kind == kind for o in outcomes) for kind in ("finished", "skipped", "stopped", "waiting", "failed")}
    for name, value in scores.items():
        say(f"  {name:<{max(map(len, scores))}}  {args.metric} {value:.4f}")
    say(f"{workdir}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items() if n))
    for o in failed:
        say(f"  {o.name} failed: {o.error} (log: {o.log})")
    if stopped:
        raise preempt.Preempted(what=f"stopped {workdir}, whose runs are saved")
    say(f"compare them: python -m dlm.report {workdir}")
    return int(bool(failed))


def latest(run: Path, metric: str) -> float | None:
    """The score of that name that a report would show of a run directory; None before there is one."""
    from dlm.reports import record

    return record.scores(logs.rows(run / "evals.jsonl")).get(metric, {}).get("value")


def _searched(sweep: grid.Sweep, work: list, args, outcomes: list, told) -> dict:
    """The tries of a search and their scores, each the mean over its seeds; their outcomes are added to `outcomes`."""
    from dlm.sweeps import fleet, search

    by_name, workdir = {job.name: job for job in work}, Path(args.workdir)

    def score(points: list[grid.Point]) -> float | None:
        if told.here:
            return None
        new = fleet.Fleet([by_name[p.name] for p in points], args.parallel, workdir / grid.LOGS)(lambda: told.here)
        outcomes.extend(new)
        if not all(o.kind in ("finished", "skipped") for o in new):
            return None
        values = [latest(workdir / p.name, args.metric) for p in points]
        if None in values:
            raise UserError(f"no evaluator of the sweep gives a score named {args.metric!r}: see --metric and --evals")
        return sum(values) / len(values)

    return search.search(sweep.points, args.search, score, args.maximize)


if __name__ == "__main__":
    cli.main(main)
