"""Sample from a trained run: freely, after a prompt, or into the holes of a template; samples are appended to its samples.jsonl.

python -m dlm.sample --workdir=runs/x [--prompt=TEXT | --chat=FILE | --infill='def ___(x): return ___'] [--num=4] [--length=256]
                     [--steps=64] [--sampler.rule=confident …] [--trace=out.html] [--animate] [--json]
"""

import json
import sys
from pathlib import Path

import numpy as np

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import files
from dlm.core.config import to_plain
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed
from dlm.runs import logs

FLAGS = [
    Flag("workdir", "run directory", required=True, type=Place),
    Flag("step", "checkpoint to sample from (default: the newest)", type=int),
    Flag(
        "prompt",
        "text that every sample begins with; the name of a special token is text in it",
        default="",
    ),
    Flag(
        "chat",
        "JSON file of a chat that is to be answered, [{role, content}, …] or {messages, tools}; the run keeps its template",
        type=Place,
    ),
    Flag(
        "cut",
        "cut from the left of a prompt what does not fit into the training length; half of it may go to the answer",
        type=bool,
    ),
    Flag("infill", "template whose every ___ is a hole to fill; \\n is a line break"),
    Flag(
        "problems", "answer and grade so many held-out problems of the run's evals.tasks", type=int
    ),
    Flag("num", "samples", default=4, type=int),
    Flag(
        "length",
        "tokens to generate after the prompt, or per hole (default: the training length in all, or 8 per hole)",
        type=int,
    ),
    Flag("steps", "denoising steps, short for --sampler.steps", type=int),
    Flag("seed", "seed of the draws", default=0, type=Seed),
    Flag("grid", "columns of the square in which the replay draws a puzzle", default=0, type=int),
    Flag("trace", "write a page that replays the denoising to this .html file", type=Place),
    Flag(
        "out",
        "file that the samples are appended to (default: samples.jsonl of the run directory)",
        type=Place,
    ),
    Flag("animate", "replay the denoising in the terminal", type=bool),
    Flag("json", "print one JSON object on stdout", type=bool),
]
SAMPLES = "samples.jsonl"


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("sampler",))
    if sum(map(bool, (args.prompt, args.chat, args.infill, args.problems))) > 1:
        raise UserError(
            "--prompt, --chat, --infill and --problems exclude each other: "
            "a prompt is a template with its hole at the end"
        )
    if args.cut and args.infill:
        raise UserError("--cut is for --prompt and --chat: a template is filled in as a whole")
    if any(n is not None and n < 1 for n in (args.num, args.length, args.problems)):
        raise UserError("--num, --length and --problems must be at least 1")
    workdir = Path(args.workdir)
    steps = [("sampler.steps", str(args.steps))] if args.steps is not None else []

    from dlm.app.open_run import build_sampler, reopen

    sampler = build_sampler(workdir, [*steps, *overrides])
    kept = logs.Added(Path(args.out or workdir / SAMPLES), "name another file by --out=FILE")
    if args.trace:
        files.try_writing(Path(args.trace), "name another file by --trace=FILE")
    experiment, state = reopen(workdir, args.step)
    generator = experiment.generator(
        state.averaged, sampler, seed=args.seed, trace=bool(args.trace or args.animate)
    )
    tasks, problems = held_out_problems(args, experiment)
    requests = [tasks.request(problem, experiment.tokenizer) for problem in problems]
    replies = generator(requests or [request(args, experiment)] * args.num)
    records = [record(args, sampler, experiment.tokenizer, reply) for reply in replies]
    for i, problem in enumerate(problems):
        solved = tasks.solves(problem, replies[i], experiment.tokenizer)
        records[i].update(kind="problem", solved=bool(solved))
    with kept:
        traces = traced(args, experiment, sampler, replies, records)
        show(args, traces, replies, records)
        kept(records)
        if args.trace:
            write_page(args, traces)


def held_out_problems(args, experiment):
    """Return the run's evaluator of generated problems and the problems that --problems requests.

    Without --problems there is neither.
    """
    if not args.problems:
        return None, []
    tasks = experiment.run.evals.get("tasks")
    if tasks is None:
        raise UserError(
            f"--problems={args.problems}: the config of {args.workdir} has no evals.tasks, "
            "which names the problems"
        )
    return tasks, tasks.problems(experiment.tokenizer, args.problems)


def request(args, experiment):
    """The template of every sample; what is not as one might think is said."""
    from dlm.samplers.requests import Request

    tokenizer, most = experiment.tokenizer, experiment.run.data.length
    spelled = tokenizer.named(args.infill or args.prompt)
    if spelled:
        say(
            f"{', '.join(spelled)}: text here, not special tokens; those are written by the run's template, with --chat=FILE"
        )
    if args.infill:
        asked = Request.infill(args.infill.replace("\\n", "\n"), args.length or 8)
    else:
        asked = continued(args, experiment)
    size = positions(experiment, asked.parts)
    if size > most:
        cut = (
            ""
            if args.cut or not (args.prompt or args.chat)
            else "; --cut cuts the prompt from the left"
        )
        say(
            f"{size} tokens, {size - most} more than in training: nothing was trained on what comes after the first {most}{cut}"
        )
    return asked


def continued(args, experiment):
    """A prompt or a chat, and what follows it; with --cut as `evals.harness` does it, so that both fit into the training length."""
    from dlm.samplers.requests import Request

    tokenizer, most = experiment.tokenizer, experiment.run.data.length
    prompt = (
        chat(args, tokenizer)
        if args.chat
        else tokenizer.encode_prompt(args.prompt)
        if args.prompt
        else np.zeros(0, np.int32)
    )
    known = positions(experiment, (prompt,))
    tokens = args.length or max(most - known, 1)
    if args.cut and known + tokens > most:
        tokens = min(args.length or most, max(most - known, most // 2))
        left = known + tokens - most
        say(
            f"cut to the {most} positions of training: {left} of the prompt's {len(prompt)} tokens from its left; {tokens} are written"
        )
        reads = int(experiment.objective.visibility.shift == "input")
        prompt = tokenizer.fronted(prompt, reads)[
            len(tokenizer.front(reads)) + left :
        ]  # what precedes a text still does
    return Request((prompt, tokens)) if len(prompt) else Request((tokens,))


def positions(experiment, parts) -> int:
    """How many the model is given: those of the parts, with what it takes to have before them."""
    tokenizer = experiment.tokenizer
    reads = int(experiment.objective.visibility.shift == "input")
    lead, rest = (
        (np.zeros(0, np.int32), parts) if isinstance(parts[0], int) else (parts[0], parts[1:])
    )
    begun = len(tokenizer.opening(lead, reads)[0])
    return begun + sum(
        part if isinstance(part, int) else len(tokenizer.encode(part)) for part in rest
    )


def chat(args, tokenizer):
    """The ids of --chat, up to where the assistant is to speak."""
    from dlm.text.chat import Chat

    try:
        given = json.loads(Path(args.chat).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"--chat={args.chat} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    given = given if isinstance(given, dict) else dict(messages=given)
    messages, tools = given.pop("messages", None), given.pop("tools", None)
    for name in {"names", "generation"} & given.keys():
        raise UserError(
            f"--chat={args.chat}: {name!r} is none of messages, tools and the variables that a template reads"
        )
    told = Chat.of(args.workdir).render(messages, tools=tools, names=tokenizer.names, **given)
    spelled = [told[begin:end] for begin, end in tokenizer.spelled(told)]
    if spelled:
        say(
            f"--chat={args.chat} spells {len(spelled)} special tokens, which are text: {', '.join(dict.fromkeys(spelled))[:100]}"
        )
    return tokenizer.encode_marked(told)


def record(args, sampler, tokenizer, reply) -> dict:
    """A sample as it is kept: its text in pieces, each generated or an anchor."""
    pieces: list[list] = []
    for run in spans(reply.frozen):
        pieces.append([tokenizer.decode(reply.ids[run]), bool(reply.frozen[run.start])])
    kind = (
        "infill" if args.infill else "prompt" if args.prompt else "chat" if args.chat else "sample"
    )
    shared = dict(
        seed=args.seed,
        nfe=reply.nfe,
        seconds=round(reply.seconds, 3),
        logprob=round(reply.logprob, 4),
    )
    return dict(
        kind=kind,
        text=reply.text,
        pieces=pieces,
        sampler=to_plain(sampler),
        trace=args.trace,
        **shared,
    )


def spans(frozen) -> list[slice]:
    """Runs of equal values."""
    edges = [i for i in range(1, len(frozen)) if frozen[i] != frozen[i - 1]]
    return [slice(a, b) for a, b in zip([0, *edges], [*edges, len(frozen)], strict=True)]


def traced(args, experiment, sampler, replies, records) -> list:
    """The traces of all replies, where one is asked for."""
    from dlm.samplers.plan import described

    if not (args.trace or args.animate):
        return []
    caption = described(to_plain(sampler)) | dict(nfe=str(replies[0].nfe), seed=str(args.seed))
    names = [f"{record['kind']} {i}{_verdict(record)}" for i, record in enumerate(records, 1)]
    return [
        trace(name, reply, experiment.tokenizer, caption, args.grid)
        for name, reply in zip(names, replies, strict=True)
    ]


def _verdict(record: dict) -> str:
    if "solved" not in record:
        return ""
    return ": solved" if record["solved"] else ": not solved"


def write_page(args, traces: list) -> None:
    """The page that replays the denoising."""
    from dlm.reports import replay

    path = Path(args.trace)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, replay.page(traces, f"{args.workdir}: denoising"))
    say(f"replay of the denoising: {path}")


def show(args, traces: list, replies, records) -> None:
    """The terminal replay; text for people, or the JSON object."""
    from dlm.reports import replay, terminal

    if args.animate:
        terminal.animate(traces[0], sys.stderr)
    if args.json:
        cli.emit(dict(workdir=args.workdir, samples=records))
        return
    for i, reply in enumerate(replies):
        say(
            f"\n── {records[i]['kind']} {i + 1} of {len(replies)}{_verdict(records[i])}: {reply.nfe} passes, {reply.seconds:.2f} s with compilation ──"
        )
        say(replay.printable(reply.text))


def trace(name: str, reply, tokenizer, caption: dict, columns: int = 0):
    """A reply's trace as the replay shows it."""
    from dlm.reports.replay import Trace

    ids = {int(i) for row in reply.trace["states"] for i in row}
    pieces = {i: tokenizer.piece(i) for i in ids}
    return Trace(
        name,
        frozen=reply.frozen,
        pieces=pieces,
        mask=tokenizer.mask,
        caption=caption,
        columns=columns,
        **reply.trace,
    )


if __name__ == "__main__":
    cli.main(main)
