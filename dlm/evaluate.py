"""Evaluate a trained run from its directory alone; scores are appended to its evals.jsonl.

python -m dlm.evaluate --workdir=runs/x [--step=N] [--evals=bound,infill] [--sampler.steps=16] \\
    [--data=FILE|NAME] [--seed=0] [--json]
python -m dlm.evaluate --workdir=runs/x --harness=TASK,… --harness_dir=FOLDER \\
    [--harness_limit=N] [--harness_fewshot=K] …
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.config import build_member, override, to_plain
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.intervals import half
from dlm.core.named import Place, Seed
from dlm.data.base import Source, describe_dropped, digest
from dlm.reports.scores import changed, shown
from dlm.runs import directory, logs

if TYPE_CHECKING:
    from dlm.app.context import RunContext
    from dlm.core.contracts.evaluation import Evaluator

Overrides = list[tuple[str, str]]
Fields = dict[str, Any]  # by dotted name: {'evals.bound.windows': 2}
Record = dict[str, Any]  # a row of evals.jsonl

FLAGS = [
    Flag("workdir", "run directory", required=True, type=Place),
    Flag("step", "checkpoint to evaluate (default: the newest)", type=int),
    Flag(
        "evals", "evaluators, separated by commas (default: those of the run's config)"
    ),
    Flag(
        "data",
        "another text to score instead of the held-out split: a file, or embedded | tfds:NAME",
        type=Place,
    ),
    Flag(
        "seed",
        "seed of the noise drawn (default: the run's own, so that the spread over seeds "
        "shows this noise too)",
        type=Seed,
    ),
    Flag(
        "accept_data",
        "continue although the run's text has changed since training",
        type=bool,
    ),
    Flag(
        "harness",
        "tasks of lm-evaluation-harness, separated by commas; "
        "--harness_X is short for --evals.harness.X",
    ),
    Flag("harness_dir", "folder with the tasks' YAML files", type=Place),
    Flag(
        "harness_data",
        "folder with the files that they name (default: their own)",
        type=Place,
    ),
    Flag("harness_limit", "documents of each task (default: all)"),
    Flag("harness_fewshot", "examples in each prompt (default: as the task says)"),
    Flag("harness_samples", "noise draws of a bound"),
    Flag("harness_code", "run the code that the model writes, in a jail", type=bool),
    Flag(
        "out",
        "file that the scores are appended to (default: evals.jsonl of the run directory)",
        type=Place,
    ),
    Flag("json", "print one JSON object on stdout", type=bool),
]
SCORES = "evals.jsonl"
LEGEND = (
    "± is half of the 95 % interval: 1.96 standard errors, or of a share of answers "
    "the farther end of Wilson's"
)


@dataclass(frozen=True)
class Call:
    """What all records of one call say of it: the text, and how it differs from the run's config.

    A difference is recorded with the scores that it matters to.
    """

    data: str  # the name of the text
    text: Callable[[], dict]  # its identity (`data.base.digest`)
    own: Mapping[str, "Evaluator"]  # the evaluators as the run's config has them
    accepted: str  # which text of the run has changed since training
    read: Fields  # matters to evaluators that read held-out text
    sampler: Fields  # to those that sample
    noise: Fields  # to scores that have an error

    @classmethod
    def of(
        cls, context: "RunContext", own: Mapping, other: dict[str, str], accepted: str
    ) -> "Call":
        """`other` says how another text is named and read: {"data": FILE, "data.unit": "line"}.

        {} for the run's own text.
        """
        # The text is read only by evaluators that need it, and hashed once.
        run = context.experiment.run

        @functools.cache
        def text() -> dict:
            return digest(context.held_out_documents)

        read: Fields = dict(other)
        if not other and "held-out" in accepted:
            read["text"] = "changed since the training"
        sampler: Fields = {}
        if context.sampler:
            sampler = changed(
                to_plain(run.sampler), to_plain(context.sampler), "sampler"
            )
        noise: Fields = {}
        if context.seed != run.seed:
            noise["seed"] = context.seed
        name = other.get("data", "held_out")
        return cls(name, text, own, accepted, read=read, sampler=sampler, noise=noise)


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("evals", "sampler", "data"))
    workdir = Path(args.workdir)
    from dlm.app.context import build_evaluators

    # A mistake in the flags is found before the checkpoint is read.
    configured = directory.read_config(workdir).get("evals", {})
    names, short = harness(args)
    flags = short + _of_section(overrides, "evals")
    evaluators = build_evaluators(configured, names, flags)
    reading = _of_section(overrides, "data")
    source = other_source(args.data, reading)
    dropped = describe_dropped(source.dropped if source else {})
    if dropped:
        say(f"{args.data}: dropped {dropped}")
    added = logs.Added(
        Path(args.out or workdir / SCORES), "name another file by --out=FILE"
    )
    context = open_context(args, source, _of_section(overrides, "sampler"))

    accepted = ""
    if not args.data and any(evaluator.reads for evaluator in evaluators.values()):
        accepted = changed_text(context, workdir, args.accept_data)
    other = dict(data=str(args.data), **dict(reading)) if args.data else {}
    own = build_evaluators(configured, names, [])
    call = Call.of(context, own, other, accepted)
    step = context.step or 0

    # Each is printed and stored as soon as it is there: the next may take hours, and fail.
    records: list[Record] = []
    with added:
        for name, evaluator in evaluators.items():
            new = scored(context, step, name, evaluator, call)
            if not args.json:
                text = args.data or "held-out text"
                head = f"{workdir}, update {step}, {text}, seed {context.seed}"
                say("" if records else head)
                say(table(new))
            added(new)
            records += new
        if args.json:
            result = dict(workdir=str(workdir), step=step, seed=context.seed)
            cli.emit(dict(result, scores=records))


def open_context(
    args: argparse.Namespace, source: Source | None, sampler_flags: Overrides
) -> "RunContext":
    """Opens the run with the text, the seed and the sampler of the command line."""
    from dlm.app.context import RunContext
    from dlm.app.open_run import build_sampler, reopen

    workdir = Path(args.workdir)
    sampler = None
    if sampler_flags:
        sampler = build_sampler(workdir, sampler_flags)
    experiment, state = reopen(workdir, args.step)
    run = experiment.run
    return RunContext(
        experiment,
        state.averaged,
        source or run.data.source,
        run.seed if args.seed is None else args.seed,
        sampler=sampler,
        folder=workdir,
        step=int(state.step),
    )


def _of_section(overrides: Overrides, section: str) -> Overrides:
    return [override for override in overrides if override[0].startswith(f"{section}.")]


def changed_text(context: "RunContext", workdir: Path, accept: bool) -> str:
    """Returns which text of the run has changed since training, '' where none has.

    Raises UserError for a change that the user does not accept.
    """
    loader = context.experiment.run.data

    def fingerprint() -> str:
        return loader.fingerprint(context.tokenizer)

    changed = directory.changed_text(workdir, fingerprint, loader.held_out_fingerprint)
    if changed:
        warning = f"the {changed} text of {workdir} has changed since it was trained"
        if not accept:
            raise UserError(
                f"{warning}: restore it, or score what is there now by --accept_data"
            )
        say(warning)
    return changed


def harness(args: argparse.Namespace) -> tuple[str | None, Overrides]:
    """Returns the names of the evaluators, and the fields that `--harness…` sets of one of them."""
    # Short flags are overrides of evals.harness.
    fields = {}
    texts = dict(tasks=args.harness, dir=args.harness_dir, data=args.harness_data)
    for name, value in texts.items():
        # Quoted, so that a folder named 1 stays a string.
        if value:
            fields[name] = repr(value)
    numbers = dict(limit=args.harness_limit, fewshot=args.harness_fewshot)
    numbers["samples"] = args.harness_samples
    for name, value in numbers.items():
        if value:
            fields[name] = value
    if args.harness_code:
        fields["code"] = "jail"
    if fields and not args.harness and "harness" not in (args.evals or ""):
        first = next(iter(fields))
        raise UserError(f"--harness_{first} is for --harness=TASK,…: name the tasks")
    names = args.evals
    if args.harness:
        names = ",".join(filter(None, (args.evals, "harness")))
    return names, [(f"evals.harness.{name}", value) for name, value in fields.items()]


def scored(
    context: "RunContext", step: int, name: str, evaluator: "Evaluator", call: Call
) -> list[Record]:
    """Runs an evaluator and returns its records: all that a score was measured with and on.

    Args:
        context: of the run
        step: the update of its checkpoint
        name: of the evaluator
        evaluator: to run
        call: what all records say of the call
    """
    begin = time.perf_counter()
    context = replace(context, details={})
    scores = []
    for score in evaluator.run(context, step):
        # Details are those of this score: the next one overwrites them.
        scores.append((score, dict(context.details)))
    common = dict(
        step=step,
        seed=context.seed,
        data=call.data,
        eval=name,
        seconds=round(time.perf_counter() - begin, 2),
        claims=evaluator.claims or context.objective.claims,
        settings=to_plain(evaluator),
        over=evaluator.over,
        commit=directory.commit(),
        text=call.text() if evaluator.reads else None,
    )
    if call.accepted and common["text"]:
        common["accepted_data"] = call.accepted

    # The details of a score may have claims of its own.
    records = []
    for (title, value, se), details in scores:
        number = dict(name=title, value=value)
        number["differs"] = differs(call, name, evaluator, details)
        error = _error(value, se, details)
        records.append(common | details | number | error)
    return records


def differs(call: Call, name: str, evaluator: "Evaluator", details: dict) -> Fields:
    """Returns how the call differs from the run's config, of all that a score depends on.

    {'evals.bound.windows': 2}
    """
    # A place where tasks are stored changes no score.
    fields: Fields = {}
    own, current = to_plain(call.own[name]), to_plain(evaluator)
    for dotted, value in changed(own, current, f"evals.{name}").items():
        _, _, leaf = dotted.rpartition(".")
        if leaf not in evaluator.places:
            fields[dotted] = value
    if evaluator.reads:
        fields |= call.read
    if "sampler" in details:
        fields |= call.sampler
    if evaluator.over is not None:
        fields |= call.noise
    return fields


def _error(value: float, se: float, details: dict) -> dict[str, float | None]:
    """The standard error and half of the 95 % interval; None where they are unknown."""
    interval = half(value, se, details.get("trials", 0))
    return dict(se=_known(se), interval=_known(interval))


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def table(records: list[Record]) -> str:
    """Returns a line for each score, for a terminal."""
    # Names as --evals.NAME.FIELD spells them.
    names = [f"{record['eval']}.{record['name']}" for record in records]
    width = max(map(len, names))
    head = f"  {'score':<{width}}  {'value':>10}  {'':<9}  {'claim':<8}  {'passes':>6}"
    lines = [f"{head}  {'seconds':>7}"]
    for name, record in zip(names, records, strict=True):
        interval = math.nan if record["interval"] is None else record["interval"]
        text = shown("{:.4f}".format, record["value"], interval)
        value, sign, error = text.partition("± ")
        passes = f"{record['nfe']:.0f}" if "nfe" in record else ""
        lines.append(
            f"  {name:<{width}}  {value.strip():>10}  {sign + error:<9}  "
            f"{record['claims']:<8}  {passes:>6}  {record['seconds']:7.1f}"
        )
    return "\n".join([*lines, f"  {LEGEND}"])


def other_source(name: str | None, overrides: Overrides) -> Source | None:
    """Returns a source whose held-out split is a whole file, or that of a named data set.

    `overrides` are (data.FIELD, VALUE). None without a name.
    """
    if not name:
        if overrides:
            flag, _ = overrides[0]
            raise UserError(
                f"--{flag} says how another text is read: name it with --data=FILE"
            )
        return None
    # All of the text is held out: none of it is training text.
    config: dict[str, Any] = dict(name="data.local", paths=(name,), held_out=1.0)
    if name == "embedded":
        config = dict(name="data.embedded")
    elif name.startswith("tfds:"):
        config = dict(name="data.tfds", dataset=name.removeprefix("tfds:"))
    for dotted, text in overrides:
        override(config, dotted.removeprefix("data."), text)
    return build_member(config, "data", where="data")


if __name__ == "__main__":
    cli.main(main)
