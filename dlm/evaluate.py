"""Evaluate a trained run from its directory alone; scores are appended to its evals.jsonl.

python -m dlm.evaluate --workdir=runs/x [--step=N] [--evals=bound,infill] [--sampler.steps=16] [--data=FILE|NAME] [--seed=0] [--json]
python -m dlm.evaluate --workdir=runs/x --harness=TASK,… --harness_dir=FOLDER [--harness_limit=N] [--harness_fewshot=K] …
"""

import datetime
import time
from dataclasses import replace
from pathlib import Path

from dlm import data
from dlm.run import cli, logs, rundir, spec
from dlm.run.cli import Flag, say
from dlm.run.spec import Place, Seed, UserError

FLAGS = [
    Flag("workdir", "run directory", required=True, type=Place),
    Flag("step", "checkpoint to evaluate (default: the newest)", type=int),
    Flag("evals", "evaluators, separated by commas (default: those of the run's config)"),
    Flag("data", "another text to score instead of the run's held-out split: a file, or embedded | tfds:NAME", type=Place),
    Flag("seed", "seed of the noise drawn", default=0, type=Seed),
    Flag("harness", "tasks of lm-evaluation-harness, separated by commas; --harness_X is short for --evals.harness.X"),
    Flag("harness_dir", "folder with the tasks' YAML files", type=Place),
    Flag("harness_data", "folder with the files that they name (default: their own)", type=Place),
    Flag("harness_limit", "documents of each task (default: all)"),
    Flag("harness_fewshot", "examples in each prompt (default: as the task says)"),
    Flag("harness_samples", "noise draws of a bound"),
    Flag("harness_code", "run what the model writes, in a jail", type=bool),
    Flag("json", "print one JSON object on stdout", type=bool),
]
SCORES = "evals.jsonl"


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("evals", "sampler", "data"))
    workdir = Path(args.workdir)
    from dlm.run.assemble import Subject, evaluators, reopen, sampler

    named, short = harness(args)
    chosen = evaluators(rundir.read_config(workdir).get("evals", {}), named, short + [o for o in overrides if o[0].startswith("evals.")])
    source = other(args.data, [o for o in overrides if o[0].startswith("data.")])
    dropped = data.told(getattr(source, "dropped", {}))
    if dropped:
        say(f"{args.data}: dropped {dropped}")
    flags = [o for o in overrides if o[0].startswith("sampler.")]
    drawn = sampler(workdir, flags) if flags else None
    experiment, state = reopen(workdir, args.step)
    subject = Subject(experiment, state.averaged, source or experiment.run.data.source, args.seed, sampler=drawn, folder=workdir)
    records = [record for name, one in chosen.items() for record in scored(subject, int(state.step), name, one, args.data)]
    append(workdir / SCORES, records)
    if args.json:
        cli.emit(dict(workdir=str(workdir), step=int(state.step), seed=args.seed, scores=records))
        return
    say(f"{workdir}, update {int(state.step)}, {args.data or 'held-out text'}, seed {args.seed}")
    say(table(records))


def harness(args) -> tuple[str | None, list[tuple[str, str]]]:
    """The names of the evaluators, and what `--harness…` sets of one of them."""
    given = dict(tasks=args.harness, dir=args.harness_dir, data=args.harness_data)
    short = {name: repr(value) for name, value in given.items() if value}  # as a string, whatever it spells
    plain = dict(limit=args.harness_limit, fewshot=args.harness_fewshot, samples=args.harness_samples)
    short |= {name: value for name, value in plain.items() if value} | (dict(code="jail") if args.harness_code else {})
    if short and not args.harness and "harness" not in (args.evals or ""):
        raise UserError(f"--harness_{next(iter(short))} is for --harness=TASK,…: name the tasks")
    named = ",".join(filter(None, (args.evals, "harness"))) if args.harness else args.evals
    return named, [(f"evals.harness.{name}", value) for name, value in short.items()]


def scored(subject, step: int, name: str, evaluator, data: str | None) -> list[dict]:
    """The records of one evaluator: each score with its error, seed, settings, and the sampler and passes that it took, if any."""
    begin, subject = time.perf_counter(), replace(subject, facts={})
    found = [(score, dict(subject.facts)) for score in evaluator.run(subject, step)]  # the sampler and passes of each score, not the last's
    seconds = round(time.perf_counter() - begin, 2)
    common = dict(step=step, seed=subject.seed, data=data or "held_out", eval=name, seconds=seconds)
    settings = dict(
        claims=evaluator.claims or subject.objective.claims, settings=spec.plain(evaluator)
    )  # facts may say what one score claims
    return [dict(common, **(settings | facts), name=score, value=value, se=error) for (score, value, error), facts in found]


def table(records: list[dict]) -> str:
    """A line for each score, for a terminal."""
    names = [f"{r['eval']}.{r['name']}" for r in records]
    lines = [f"  {'score':<{max(map(len, names))}}  {'value':>10}  {'± error':<9}  {'claim':<8}  {'passes':>6}  {'seconds':>7}"]
    for name, r in zip(names, records, strict=True):
        error = f"± {r['se']:.4f}" if r["se"] else ""
        passes = f"{r['nfe']:.0f}" if "nfe" in r else ""
        lines.append(
            f"  {name:<{max(map(len, names))}}  {r['value']:10.4f}  {error:<9}  {r['claims']:<8}  {passes:>6}  {r['seconds']:7.1f}"
        )
    return "\n".join(lines)


def other(name: str | None, overrides: list[tuple[str, str]]):
    """A source whose held-out split is the whole of a file, or that of a named data set, with `data.FIELD=VALUE` applied; None for None."""
    if not name:
        if overrides:
            raise UserError(f"--{overrides[0][0]} says how another text is read: name it with --data=FILE")
        return None
    config = dict(name="data.local", paths=(name,), held_out=1.0)
    if name == "embedded":
        config = dict(name="data.embedded")
    elif name.startswith("tfds:"):
        config = dict(name="data.tfds", dataset=name.removeprefix("tfds:"))
    for dotted, text in overrides:
        spec.override(config, dotted.removeprefix("data."), text)
    return spec.build(config, "data", where="data")


def append(path: Path, records: list[dict]) -> None:
    """One line per record, each with the time of writing, in one write."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    logs.append(path, [dict(time=now, **r) for r in records])


if __name__ == "__main__":
    cli.main(main)
