"""Evaluate a trained run from its directory alone; scores are appended to its evals.jsonl.

python -m dlm.evaluate --workdir=runs/x [--step=N] [--evals=bound,compression] [--data=FILE|NAME] [--seed=0] [--json]
"""

import datetime
import json
import time
from pathlib import Path

from dlm.run import cli, spec
from dlm.run.cli import Flag, say

FLAGS = [
    Flag("workdir", "run directory", required=True),
    Flag("step", "checkpoint to evaluate (default: the newest)", type=int),
    Flag("evals", "evaluators, separated by commas (default: those of the run's config)"),
    Flag("data", "another text to score instead of the run's held-out split: a file, or embedded | tfds:NAME"),
    Flag("seed", "seed of the noise drawn", default=0, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
SCORES = "evals.jsonl"


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("evals",))
    workdir = Path(args.workdir)
    evaluators = chosen(workdir, args.evals, overrides)
    source = other(args.data) if args.data else None

    from dlm.run.assemble import Subject, reopen

    experiment, state = reopen(workdir, args.step)
    subject = Subject(experiment, state.averaged, source or experiment.run.data.source, args.seed)
    records = []
    for name, evaluator in evaluators.items():
        begin = time.perf_counter()
        found = list(evaluator.run(subject, int(state.step)))
        seconds = round(time.perf_counter() - begin, 2)
        common = dict(step=int(state.step), seed=args.seed, data=args.data or "held_out", eval=name, seconds=seconds)
        common |= dict(claims=evaluator.claims or subject.objective.claims, settings=spec.plain(evaluator))
        records += [dict(common, name=score, value=value, se=error) for score, value, error in found]
    append(workdir / SCORES, records)
    if args.json:
        print(json.dumps(dict(workdir=str(workdir), step=int(state.step), seed=args.seed, scores=records)))
        return
    say(f"{workdir}, update {int(state.step)}, {args.data or 'held-out text'}, seed {args.seed}")
    for r in records:
        error = f" ± {r['se']:.4f}" if r["se"] else ""
        say(f"  {r['eval']}.{r['name']:<24} {r['value']:10.4f}{error:<10}  {r['claims']}, {r['seconds']:.1f} s")


def chosen(workdir: Path, names: str | None, overrides: list[tuple[str, str]]) -> dict:
    """The evaluators to run: those of the config or the named ones, with `--evals.NAME.FIELD=VALUE` applied."""
    from dlm.run import rundir

    configured = rundir.read_config(workdir).get("evals", {})
    wanted = {name: dict(configured.get(name, {})) for name in (names.split(",") if names else configured)}
    for dotted, text in overrides:
        name, _, field = dotted.removeprefix("evals.").partition(".")
        if name not in wanted or not field:
            raise spec.UserError(
                f"--{dotted}: expected --evals.NAME.FIELD with NAME one of {', '.join(wanted)}{spec.nearest(name, wanted)}"
            )
        spec.override(wanted[name], field, text)
    return {name: spec.build({**settings, "name": f"evals.{name}"}, "evals", where=f"evals.{name}") for name, settings in wanted.items()}


def other(data: str):
    """A source whose held-out split is the whole of a file, or that of a named data set."""
    if data == "embedded":
        return spec.build("embedded", "data")
    if data.startswith("tfds:"):
        return spec.build(dict(name="data.tfds", dataset=data.removeprefix("tfds:")), "data")
    return spec.build(dict(name="data.local", paths=(data,), held_out=1.0), "data")


def append(path: Path, records: list[dict]) -> None:
    """One line per record, each with the time of writing, in one write."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(dict(time=now, **r), ensure_ascii=False) + "\n" for r in records))


if __name__ == "__main__":
    cli.main(main)
