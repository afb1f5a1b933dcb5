"""Sample from a trained run: freely, after a prompt, or into the holes of a template.

python -m dlm.sample --workdir=runs/x [--prompt=TEXT | --chat=FILE | --infill='def ___(x): ___']
                     [--num=4] [--length=256] [--steps=64] [--sampler.rule=confident …]
                     [--trace=out.html] [--animate] [--json]

Samples are appended to the run's samples.jsonl.
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
        "text before every sample; names of special tokens in it are text",
        default="",
    ),
    Flag(
        "chat",
        "JSON file of a chat to answer, [{role, content}, …] or {messages, tools}; the run has its "
        "template",
        type=Place,
    ),
    Flag(
        "cut",
        "cut a prompt from the left until it fits into the training length; half of that may go to "
        "the answer",
        type=bool,
    ),
    Flag("infill", "template whose every ___ is a hole to fill; \\n is a line break"),
    Flag(
        "problems",
        "answer and grade so many held-out problems of the run's evals.tasks",
        type=int,
    ),
    Flag("num", "samples", default=4, type=int),
    Flag(
        "length",
        "tokens to generate after the prompt, or per hole (default: the training length in all, or "
        "8 per hole)",
        type=int,
    ),
    Flag("steps", "denoising steps, short for --sampler.steps", type=int),
    Flag("seed", "seed of the samples", default=0, type=Seed),
    Flag(
        "grid",
        "columns of the square in which the replay draws a puzzle",
        default=0,
        type=int,
    ),
    Flag(
        "trace",
        "write a page that replays the denoising to this .html file",
        type=Place,
    ),
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
    """Sample, and show and store the samples."""
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("sampler",))
    _check(args)
    workdir = Path(args.workdir)
    steps = [("sampler.steps", str(args.steps))] if args.steps is not None else []

    from dlm.app.open_run import build_sampler, reopen

    # JAX was not loaded before, so that --help is fast.
    sampler = build_sampler(workdir, [*steps, *overrides])
    # Places that cannot be written are refused before the run is opened.
    output = logs.Added(
        Path(args.out or workdir / SAMPLES), "name another file by --out=FILE"
    )
    if args.trace:
        files.try_writing(Path(args.trace), "name another file by --trace=FILE")
    experiment, state = reopen(workdir, args.step)
    recorded = bool(args.trace or args.animate)
    options = dict(seed=args.seed, trace=recorded)
    generator = experiment.generator(state.averaged, sampler, **options)
    tasks, problems = held_out_problems(args, experiment)
    requests = [tasks.request(problem, experiment.tokenizer) for problem in problems]
    replies = generator(requests or [request(args, experiment)] * args.num)
    records = [record(args, sampler, experiment.tokenizer, reply) for reply in replies]
    # A problem's answer has a verdict.
    for i, problem in enumerate(problems):
        solved = tasks.solves(problem, replies[i], experiment.tokenizer)
        records[i].update(kind="problem", solved=bool(solved))
    # What is printed is stored, too, unless it cannot be written.
    with output:
        traces = []
        if recorded:
            traces = replays(args, sampler, experiment.tokenizer, replies, records)
        show(args, traces, replies, records)
        output(records)
        if args.trace:
            write_page(args, traces)


def _check(args) -> None:
    kinds = [args.prompt, args.chat, args.infill, args.problems]
    if sum(map(bool, kinds)) > 1:
        raise UserError(
            "--prompt, --chat, --infill and --problems exclude each other: "
            "a prompt is a template with its hole at the end"
        )
    if args.cut and args.infill:
        raise UserError(
            "--cut is for --prompt and --chat: a template is filled in as a whole"
        )
    counts = [args.num, args.length, args.problems]
    if any(n is not None and n < 1 for n in counts):
        raise UserError("--num, --length and --problems must be at least 1")


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


# ---------------------------------------------------------------------------------------- requests


def request(args, experiment):
    """Returns the template of every sample; reports what may be unexpected about it."""
    from dlm.samplers.requests import Request

    tokenizer, most = experiment.tokenizer, experiment.run.data.length
    names = tokenizer.named(args.infill or args.prompt)
    if names:
        say(
            f"{', '.join(names)}: text here, not special tokens; those are written by the run's "
            "template, with --chat=FILE"
        )
    if args.infill:
        template = args.infill.replace("\\n", "\n")
        filled = Request.infill(template, args.length or 8)
    else:
        filled = continued(args, experiment)
    size = positions(experiment, filled.parts)
    if size > most:
        excess = f"{size} tokens, {size - most} more than in training"
        hint = ""
        if not args.cut and (args.prompt or args.chat):
            hint = "; --cut cuts the prompt from the left"
        say(f"{excess}: nothing was trained on positions after the first {most}{hint}")
    return filled


def continued(args, experiment):
    """Returns a request with a prompt or a chat, and a hole after it.

    With --cut both fit into the training length, as in `evals.harness`.
    """
    from dlm.samplers.requests import Request

    tokenizer, most = experiment.tokenizer, experiment.run.data.length
    prompt = _prompt(args, tokenizer)
    known = positions(experiment, (prompt,))
    tokens = args.length or max(most - known, 1)
    if args.cut and known + tokens > most:
        # The answer gets half of the length, or what the prompt leaves.
        tokens = min(args.length or most, max(most - known, most // 2))
        excess = known + tokens - most
        say(
            f"cut to the {most} positions of training: {excess} of the prompt's {len(prompt)} "
            f"tokens from its left; {tokens} are written"
        )
        # Ids that precede a text still precede it.
        reads = int(experiment.objective.visibility.shift == "input")
        front = len(tokenizer.front(reads))
        prompt = tokenizer.fronted(prompt, reads)[front + excess :]
    if not len(prompt):
        return Request((tokens,))
    return Request((prompt, tokens))


def _prompt(args, tokenizer) -> np.ndarray:
    if args.chat:
        return chat(args, tokenizer)
    if args.prompt:
        return tokenizer.encode_prompt(args.prompt)
    return np.zeros(0, np.int32)


def positions(experiment, parts) -> int:
    """Counts the tokens that the model is given: those of the parts, and those in front of them."""
    tokenizer = experiment.tokenizer
    reads = int(experiment.objective.visibility.shift == "input")
    lead, rest = np.zeros(0, np.int32), parts
    if not isinstance(parts[0], int):
        lead, rest = parts[0], parts[1:]
    count = len(tokenizer.opening(lead, reads)[0])
    for part in rest:
        count += part if isinstance(part, int) else len(tokenizer.encode(part))
    return count


def chat(args, tokenizer) -> np.ndarray:
    """Returns the ids of --chat, up to the assistant's answer."""
    from dlm.text.chat import Chat

    try:
        variables = json.loads(Path(args.chat).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--chat={args.chat} cannot be read: {error.strerror or error}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--chat={args.chat} cannot be read: {error}") from None
    if not isinstance(variables, dict):
        variables = dict(messages=variables)
    messages = variables.pop("messages", None)
    tools = variables.pop("tools", None)
    # These two are set by us.
    for name in {"names", "generation"} & variables.keys():
        raise UserError(
            f"--chat={args.chat}: {name!r} is none of messages, tools and the variables that a "
            "template reads"
        )
    template = Chat.of(args.workdir)
    text = template.render(messages, tools=tools, names=tokenizer.names, **variables)
    spelled = [text[begin:end] for begin, end in tokenizer.spelled(text)]
    if spelled:
        some = ", ".join(dict.fromkeys(spelled))[:100]
        say(
            f"--chat={args.chat} spells {len(spelled)} special tokens, which are text: {some}"
        )
    return tokenizer.encode_marked(text)


# ----------------------------------------------------------------------------------------- records


def record(args, sampler, tokenizer, reply) -> dict:
    """Returns a sample as it is stored: its text in pieces, each generated or an anchor."""
    pieces: list[list] = []
    for run in spans(reply.frozen):
        text = tokenizer.decode(reply.ids[run])
        pieces.append([text, bool(reply.frozen[run.start])])
    return dict(
        kind=_kind(args),
        text=reply.text,
        pieces=pieces,
        sampler=to_plain(sampler),
        trace=args.trace,
        seed=args.seed,
        nfe=reply.nfe,
        seconds=round(reply.seconds, 3),
        logprob=round(reply.logprob, 4),
    )


def _kind(args) -> str:
    for kind in ("infill", "prompt", "chat"):
        if vars(args)[kind]:
            return kind
    return "sample"


def spans(frozen) -> list[slice]:
    """Returns the runs of equal values."""
    begin, runs = 0, []
    for i in range(1, len(frozen)):
        if frozen[i] != frozen[i - 1]:
            runs.append(slice(begin, i))
            begin = i
    return [*runs, slice(begin, len(frozen))]


# ------------------------------------------------------------------------------------------ replay


def replays(args, sampler, tokenizer, replies, records) -> list:
    """Returns the traces of all replies.

    Args:
      args: the command's flags.
      sampler: the plan, for the caption.
      tokenizer: spells the tokens.
      replies: with their traces.
      records: of the replies.
    """
    from dlm.samplers.plan import described

    caption = described(to_plain(sampler))
    nfe = replies[0].nfe
    caption |= dict(nfe=str(nfe), seed=str(args.seed))
    traces = []
    for i, reply in enumerate(replies):
        name = f"{records[i]['kind']} {i + 1}{_verdict(records[i])}"
        traces.append(_trace(name, reply, tokenizer, caption, args.grid))
    return traces


def _verdict(record: dict) -> str:
    if "solved" not in record:
        return ""
    return ": solved" if record["solved"] else ": not solved"


def write_page(args, traces: list) -> None:
    """Writes the page that replays the denoising."""
    from dlm.reports import replay

    path = Path(args.trace)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, replay.page(traces, f"{args.workdir}: denoising"))
    say(f"replay of the denoising: {path}")


def show(args, traces: list, replies, records) -> None:
    """Prints the terminal replay, and the texts or the JSON object."""
    from dlm.reports import replay, terminal

    if args.animate:
        terminal.animate(traces[0], sys.stderr)
    if args.json:
        cli.emit(dict(workdir=args.workdir, samples=records))
        return
    for i, reply in enumerate(replies):
        name = f"{records[i]['kind']} {i + 1} of {len(replies)}{_verdict(records[i])}"
        seconds = f"{reply.seconds:.2f} s with compilation"
        say(f"\n── {name}: {reply.nfe} passes, {seconds} ──")
        say(replay.printable(reply.text))


def _trace(name: str, reply, tokenizer, caption: dict, columns: int = 0):
    """Returns a reply's trace in the form of the replay."""
    from dlm.reports.replay import Trace

    ids = {int(i) for row in reply.trace["states"] for i in row}
    pieces = {i: tokenizer.piece(i) for i in ids}
    options = dict(caption=caption, columns=columns, **reply.trace)
    return Trace(
        name, frozen=reply.frozen, pieces=pieces, mask=tokenizer.mask, **options
    )


if __name__ == "__main__":
    cli.main(main)
