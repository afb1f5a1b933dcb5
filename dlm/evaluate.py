"""Evaluate a trained run from its directory alone; scores are appended to its evals.jsonl.

python -m dlm.evaluate --workdir=runs/x [--step=N] [--evals=bound,infill] [--sampler.steps=16] [--data=FILE|NAME] [--seed=0] [--json]
python -m dlm.evaluate --workdir=runs/x --harness=TASK,… --harness_dir=FOLDER [--harness_limit=N] [--harness_fewshot=K] …
"""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.config import build_member, override, to_plain
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.intervals import half
from dlm.core.named import Place, Seed
from dlm.data.base import describe_dropped, digest
from dlm.reports.scores import changed, shown
from dlm.runs import directory, logs

FLAGS = [
    Flag("workdir", "run directory", required=True, type=Place),
    Flag("step", "checkpoint to evaluate (default: the newest)", type=int),
    Flag("evals", "evaluators, separated by commas (default: those of the run's config)"),
    Flag(
        "data",
        "another text to score instead of the run's held-out split: a file, or embedded | tfds:NAME",
        type=Place,
    ),
    Flag(
        "seed",
        "seed of the noise drawn (default: the run's own, so that the spread over seeds shows this noise too)",
        type=Seed,
    ),
    Flag(
        "accept_data", "go on although the run's text has changed since it was trained", type=bool
    ),
    Flag(
        "harness",
        "tasks of lm-evaluation-harness, separated by commas; --harness_X is short for --evals.harness.X",
    ),
    Flag("harness_dir", "folder with the tasks' YAML files", type=Place),
    Flag("harness_data", "folder with the files that they name (default: their own)", type=Place),
    Flag("harness_limit", "documents of each task (default: all)"),
    Flag("harness_fewshot", "examples in each prompt (default: as the task says)"),
    Flag("harness_samples", "noise draws of a bound"),
    Flag("harness_code", "run what the model writes, in a jail", type=bool),
    Flag(
        "out",
        "file that the scores are appended to (default: evals.jsonl of the run directory)",
        type=Place,
    ),
    Flag("json", "print one JSON object on stdout", type=bool),
]
SCORES = "evals.jsonl"
LEGEND = "± is half of the 95 % interval: 1.96 standard errors, or of a share of answers the farther end of Wilson's"


@dataclass(frozen=True)
class Asked:
    """What all records of one call keep of what was asked for, and what of it the run's config does otherwise, by what it matters to."""

    data: str  # what the text is called
    text: Callable[[], dict]  # what it is (`data.base.digest`)
    own: dict  # {name: the evaluator as the run's config has it}
    accepted: str  # which text of the run has changed since it was trained
    read: dict  # matters to evaluators that read held-out text
    sampler: dict  # to those that draw samples
    drawn: dict  # to scores that have an error

    @classmethod
    def of(cls, context, own: dict, other: dict[str, str], accepted: str) -> "Asked":
        """`other` says how another text is called and read: {"data": FILE, "data.unit": "line"}; {} for the run's own."""
        run, text = (
            context.experiment.run,
            functools.cache(lambda: digest(context.held_out_documents)),
        )
        edited = dict(text="changed since the training") if "held-out" in accepted else {}
        sampler = (
            changed(to_plain(run.sampler), to_plain(context.sampler), "sampler")
            if context.sampler
            else {}
        )
        seed = dict(seed=context.seed) if context.seed != run.seed else {}
        return cls(
            other.get("data", "held_out"),
            text,
            own,
            accepted,
            read=other or edited,
            sampler=sampler,
            drawn=seed,
        )


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("evals", "sampler", "data"))
    workdir = Path(args.workdir)
    from dlm.app.context import RunContext, build_evaluators
    from dlm.app.open_run import build_sampler, reopen

    configured, (named, short) = directory.read_config(workdir).get("evals", {}), harness(args)
    chosen = build_evaluators(
        configured, named, short + [o for o in overrides if o[0].startswith("evals.")]
    )
    read = [o for o in overrides if o[0].startswith("data.")]
    source = other(args.data, read)
    dropped = describe_dropped(source.dropped if source else {})
    if dropped:
        say(f"{args.data}: dropped {dropped}")
    flags = [o for o in overrides if o[0].startswith("sampler.")]
    drawn = build_sampler(workdir, flags) if flags else None
    kept = logs.Added(Path(args.out or workdir / SCORES), "name another file by --out=FILE")
    experiment, state = reopen(workdir, args.step)
    step, seed = int(state.step), experiment.run.seed if args.seed is None else args.seed
    context = RunContext(
        experiment,
        state.averaged,
        source or experiment.run.data.source,
        seed,
        sampler=drawn,
        folder=workdir,
    )
    reads = any(getattr(one, "reads", True) for one in chosen.values())
    accepted = changed_text(context, args.accept_data) if reads and not args.data else ""
    asked = Asked.of(
        context,
        build_evaluators(configured, named, []),
        dict(data=str(args.data), **dict(read)) if args.data else {},
        accepted,
    )
    records = []
    with kept:
        for (
            name,
            one,
        ) in chosen.items():  # each is told and kept as it comes: the next may take hours, and fail
            records_of_one = scored(context, step, name, one, asked)
            if not args.json:
                say(
                    ""
                    if records
                    else f"{workdir}, update {step}, {args.data or 'held-out text'}, seed {seed}"
                )
                say(table(records_of_one))
            kept(records_of_one)
            records += records_of_one
        if args.json:
            cli.emit(dict(workdir=str(workdir), step=step, seed=seed, scores=records))


def changed_text(context, accept: bool) -> str:
    """Which text of the run has changed since it was trained: refused, unless the user accepts it."""
    loader, tokenizer = context.experiment.run.data, context.tokenizer
    changed = directory.changed_text(
        context.folder, lambda: loader.fingerprint(tokenizer), loader.held_out_fingerprint
    )
    if changed:
        told = f"the {changed} text of {context.folder} has changed since it was trained"
        if not accept:
            raise UserError(f"{told}: restore it, or score what is there now by --accept_data")
        say(told)
    return changed


def harness(args) -> tuple[str | None, list[tuple[str, str]]]:
    """The names of the evaluators, and what `--harness…` sets of one of them."""
    given = dict(tasks=args.harness, dir=args.harness_dir, data=args.harness_data)
    short = {
        name: repr(value) for name, value in given.items() if value
    }  # as a string, whatever it spells
    plain = dict(
        limit=args.harness_limit, fewshot=args.harness_fewshot, samples=args.harness_samples
    )
    short |= {name: value for name, value in plain.items() if value} | (
        dict(code="jail") if args.harness_code else {}
    )
    if short and not args.harness and "harness" not in (args.evals or ""):
        raise UserError(f"--harness_{next(iter(short))} is for --harness=TASK,…: name the tasks")
    named = ",".join(filter(None, (args.evals, "harness"))) if args.harness else args.evals
    return named, [(f"evals.harness.{name}", value) for name, value in short.items()]


def scored(context, step: int, name: str, evaluator, asked: Asked) -> list[dict]:
    """The records of one evaluator: each score with its error and interval, and all that it was measured with and on."""
    begin, context = time.perf_counter(), replace(context, details={})
    with_details = [
        (score, dict(context.details)) for score in evaluator.run(context, step)
    ]  # the details of each score, not the last's
    common = dict(
        step=step,
        seed=context.seed,
        data=asked.data,
        eval=name,
        seconds=round(time.perf_counter() - begin, 2),
    )
    common |= dict(
        claims=evaluator.claims or context.objective.claims,
        settings=to_plain(evaluator),
        over=evaluator.over,
    )
    common |= dict(
        commit=directory.commit(), text=asked.text() if getattr(evaluator, "reads", True) else None
    )
    common |= dict(accepted_data=asked.accepted) if asked.accepted and common["text"] else {}
    return [  # details may say what one score alone claims
        common
        | details
        | dict(name=score, value=value, differs=differs(asked, name, evaluator, details))
        | error(value, se, details)
        for (score, value, se), details in with_details
    ]


def differs(asked: Asked, name: str, evaluator, details: dict) -> dict:
    """{'evals.bound.windows': 2}: what the run's config does otherwise, of all that a score depends on."""
    otherwise = changed(to_plain(asked.own[name]), to_plain(evaluator), f"evals.{name}")
    otherwise = {
        dotted: value
        for dotted, value in otherwise.items()
        if dotted.rpartition(".")[2] not in getattr(evaluator, "places", ())
    }
    reads, draws, errs = (
        getattr(evaluator, "reads", True),
        "sampler" in details,
        evaluator.over is not None,
    )
    return (
        otherwise
        | (asked.read if reads else {})
        | (asked.sampler if draws else {})
        | (asked.drawn if errs else {})
    )


def error(value: float, se: float, details: dict) -> dict:
    """The standard error and half of the 95 % interval, None where they are not known."""
    interval = half(value, se, details.get("trials", 0))
    return dict(
        se=None if math.isnan(se) else se, interval=None if math.isnan(interval) else interval
    )


def table(records: list[dict]) -> str:
    """A line for each score, for a terminal."""
    names = [f"{r['eval']}.{r['name']}" for r in records]
    width = max(map(len, names))
    lines = [
        f"  {'score':<{width}}  {'value':>10}  {'':<9}  {'claim':<8}  {'passes':>6}  {'seconds':>7}"
    ]
    for name, r in zip(names, records, strict=True):
        value, sign, interval = shown(
            "{:.4f}".format, r["value"], math.nan if r["interval"] is None else r["interval"]
        ).partition("± ")
        passes = f"{r['nfe']:.0f}" if "nfe" in r else ""
        lines.append(
            f"  {name:<{width}}  {value.strip():>10}  {sign + interval:<9}  {r['claims']:<8}  {passes:>6}  {r['seconds']:7.1f}"
        )
    return "\n".join([*lines, f"  {LEGEND}"])


def other(name: str | None, overrides: list[tuple[str, str]]):
    """A source whose held-out split is the whole of a file, or that of a named data set, with `data.FIELD=VALUE` applied; None for None."""
    if not name:
        if overrides:
            raise UserError(
                f"--{overrides[0][0]} says how another text is read: name it with --data=FILE"
            )
        return None
    config = dict(name="data.local", paths=(name,), held_out=1.0)
    if name == "embedded":
        config = dict(name="data.embedded")
    elif name.startswith("tfds:"):
        config = dict(name="data.tfds", dataset=name.removeprefix("tfds:"))
    for dotted, text in overrides:
        override(config, dotted.removeprefix("data."), text)
    return build_member(config, "data", where="data")


if __name__ == "__main__":
    cli.main(main)
