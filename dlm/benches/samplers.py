"""Quality against steps: every sampling rule in worlds whose law is known, beside what no sampler can beat, and on a trained run.

python -m dlm.bench samplers --out=FOLDER [--rules=ancestral,confident:confidence=margin,ancestral+rescale:eta=0.1] [--steps=4,8,16,32,64]
                             [--noise=0.5] [--workdir=RUN --judge=AR_RUN] [--sampler.top_p=0.9 …] [--json]

    table    V = 3, L = 4     total variation between what is drawn and p, and the entropy of what is drawn
    chain    V = 16, L = 64   bigrams that cannot be, total variation of the bigrams, and their conditional entropy, nats a token
    run      samples under a judge with their variety, exact likelihood where the rule has one (DUEL), passes, tokens/s, FLOPs

In both worlds the network is the exact posterior (with --noise its logits err), and two lines stand above the rules. `floor` is the law of
ancestral sampling with the exact posterior, calculated and not drawn (`oracle.enumeration`,
`oracle.factorization_gap`): what drawing several tokens at once
costs. `p itself` are as many draws from p: what so few draws make of any law. Of a token that stands the network tells p(x_i | all others),
for the rules that judge tokens. Rules are the files of dlm/samplers/rules and remask, and the driver `speculative`; without --rules each with its defaults,
remasking under ancestral sampling. Written to FOLDER: samplers.csv, a line for each rule and number of steps, and samplers.html, the plots.
"""

import copy
import csv
import html
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import files
from dlm.core.builder import build_section
from dlm.core.config import override
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed, nearest
from dlm.samplers.plan import Sampler

FLAGS = [
    Flag("out", "folder for samplers.csv and samplers.html", required=True, type=Place),
    Flag(
        "rules",
        "which, as RULE[:field=value…][+REMASK[:field=value…]], with commas between",
        default="",
    ),
    Flag("steps", "numbers of steps, with commas between", default="4,8,16,32,64"),
    Flag("worlds", "which of table and chain; none with --worlds=", default="table,chain"),
    Flag("num", "draws from the chain, and 64 times as many from the table", default=256, type=int),
    Flag(
        "noise",
        "standard deviation of the network's error in the worlds, nats",
        default=0.0,
        type=float,
    ),
    Flag("workdir", "run directory to sample from", default="", type=Place),
    Flag(
        "judge",
        "run directory of an autoregressive model that scores the samples",
        default="",
        type=Place,
    ),
    Flag("samples", "of the run, for each rule and number of steps", default=32, type=int),
    Flag("seed", "of all draws", default=0, type=Seed),
    Flag("json", "print one JSON object on stdout", type=bool),
]
FOLDER = Path(__file__).parents[1] / "samplers"
BESIDE = (
    "confident:confidence=margin",
)  # rules with other choices than their defaults, since these differ most
BATCH = 16  # samples that a run draws at a time
MORE = dict(table=64, chain=1)  # draws of a world, times --num
_ENUMERABLE = 8  # positions of which each may have a view of its own
MEASURES = dict(  # of a part: column, what it is, digits
    table=(("tv", "total variation from p", 4), ("entropy", "entropy, nats a token", 3)),
    chain=(
        ("invalid", "share of impossible bigrams", 4),
        ("tv", "total variation of the bigrams from p's", 4),
        ("entropy", "conditional entropy of the bigrams, nats", 3),
    ),
    run=(
        ("gen_ppl", "perplexity of samples under the judge", 1),
        ("entropy", "entropy of samples, nats", 3),
        ("distinct_2", "distinct pairs of tokens", 3),
        ("exact_bits_per_byte", "exact bits/byte under the sampler", 3),
        ("nfe", "passes", 0),
        ("tokens_per_s", "tokens/s", 0),
    ),
)
KNOWN = ("floor", "p itself")  # what the rules are compared with
LEAST = dict(invalid=1e-4, tv=1e-3)  # on logarithmic axes
COLUMNS = ("part", "rule", "steps", "nfe", "tv", "invalid", "invalid_se", "entropy", "entropy_se")
COLUMNS += (
    "gen_bits_per_byte",
    "gen_bits_per_byte_se",
    "gen_ppl",
    "gen_ppl_se",
    "gen_cut",
    "gen_lost",
)
COLUMNS += ("distinct_1", "distinct_2", "distinct_3")
COLUMNS += ("exact_bits_per_byte", "gap_bits_per_byte", "tokens_per_s", "flops_per_sample")


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("sampler",))
    steps, wanted = _numbers(args.steps), [w for w in args.worlds.split(",") if w]
    if bad := [w for w in wanted if w not in MORE]:
        raise UserError(
            f"--worlds={args.worlds}: no world {bad[0]!r}{nearest(bad[0], MORE)}; there are {', '.join(MORE)}"
        )
    if min(args.num, args.samples) < 2 or not 0 <= args.noise <= 1e3:
        raise UserError(
            f"--num={args.num} and --samples={args.samples} must be at least 2, --noise={args.noise} not negative"
        )
    if bool(args.workdir) != bool(args.judge):
        raise UserError(
            "--workdir=RUN and --judge=AR_RUN go together: samples are worth what another model makes of them"
        )
    if not wanted and not args.workdir:
        raise UserError("nothing to measure: name --worlds, or a run with --workdir and --judge")
    names = args.rules.split(",") if args.rules else everything()
    plain: dict = {}
    for dotted, text in overrides:
        override(plain, dotted.removeprefix("sampler."), text)
    samplers = {name: built(name, plain) for name in names}
    out = Path(args.out)
    for name in ("samplers.csv", "samplers.html"):
        files.try_writing(out / name, "name another folder by --out=FOLDER")
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(samplers, steps, args.seed)
    for world in wanted:
        bench.world(world, args.num, args.noise)
    if args.workdir:
        bench.run(Path(args.workdir), args.judge, args.samples)
    _written(out, bench.rows)
    for text in tables(bench.rows, steps):
        say(text)
    for part, name, reason in bench.left_out:
        say(f"left out of {part}: {name}: {reason}")
    if args.json:
        results = dict(
            rows=bench.rows, left_out=[dict(part=p, rule=n, reason=r) for p, n, r in bench.left_out]
        )
        cli.emit(
            results
            | dict(
                steps=steps,
                noise=args.noise,
                seed=args.seed,
                csv=str(out / "samplers.csv"),
                html=str(out / "samplers.html"),
            )
        )


def _numbers(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise UserError(
            f"--steps={text} must be positive numbers with commas between, such as 4,8,16"
        )
    return sorted({int(n) for n in numbers})


# ----------------------------------------------------------------------------------------------------------------- the rules


def members(family: str) -> list[str]:
    """The names of all members of a family in dlm/samplers."""
    files = (FOLDER / family).glob("*.py")
    return sorted(p.stem for p in files if p.stem not in ("__init__", "base"))


def everything() -> list[str]:
    """Every rule with its defaults, then every remasking rule under ancestral sampling."""
    rules = sorted(
        [*members("rules"), "speculative", *BESIDE], key=lambda name: (name != "ancestral", name)
    )
    return [*rules, *(f"ancestral+{name}" for name in members("remask"))]


def built(name: str, plain: dict) -> Sampler:
    """The Sampler that a name such as 'confident:confidence=margin+cap:eta=0.1' stands for, on top of other settings."""
    rule, *remask = (_member(part) for part in name.split("+"))
    if len(remask) > 1:
        raise UserError(f"--rules: {name!r} names more than one remasking rule")
    settings = dict(plain)
    settings["driver" if rule["name"] in members("drivers") else "rule"] = rule
    if remask:
        settings["remask"] = remask[0]
    return build_section(Sampler, settings, "sampler", None)


def _member(text: str) -> dict:
    stem, *fields = text.split(":")
    config: dict[str, Any] = dict(name=stem)
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise UserError(f"--rules: {field!r} in {text!r} should be field=value")
        override(config, key, value)
    return config


# ---------------------------------------------------------------------------------------------------------------- measuring


class Bench:
    """All rows and what was left out, for some samplers and numbers of steps."""

    def __init__(self, samplers: dict, steps: list[int], seed: int):
        self.samplers, self.steps, self.seed = samplers, steps, seed
        self.rows: list[dict] = []
        self.left_out: list[tuple[str, str, str]] = []

    def world(self, part: str, num: int, noise: float) -> None:
        """Rows of one world: the floor, p itself, then the rules."""
        from dlm.oracle import sampler_worlds

        scene = (
            sampler_worlds.Table(noise, self.seed)
            if part == "table"
            else sampler_worlds.Chain(noise, self.seed)
        )
        draws = num * MORE[part]
        say(
            f"{part}: the exact floor, then {len(self.samplers)} rules in {', '.join(map(str, self.steps))} steps"
        )
        for steps, results in zip(self.steps, scene.floor(self.steps), strict=True):
            self.rows.append(dict(part=part, rule="floor", steps=steps, nfe=steps) | results)
        draw = Drawn(scene, draws, self.seed)
        own = scene.measured(scene.own(draws))
        self.rows += [
            dict(part=part, rule="p itself", steps=steps, nfe=None) | own for steps in self.steps
        ]
        self._each(part, draw.row)

    def run(self, workdir: Path, judge: str, samples: int) -> None:
        """Rows of a trained run."""
        trained = Trained(workdir, judge, samples, self.seed)
        say(
            f"{workdir}: {samples} samples for each of {len(self.samplers)} rules, judged by {judge}"
        )
        self._each("run", trained.row)

    def _each(self, part: str, row) -> None:
        for name, sampler in self.samplers.items():
            try:
                for steps in self.steps:
                    self.rows.append(dict(part=part, rule=name, steps=steps) | row(sampler, steps))
            except UserError as reason:
                self.left_out.append((part, name, str(reason)))


class Drawn:
    """What a world's network draws. One program serves all numbers of steps, since compiling takes longer than drawing."""

    def __init__(self, scene, draws: int, seed: int):
        import jax
        import jax.numpy as jnp

        from dlm.core import keys
        from dlm.core.contracts import Canvas
        from dlm.nn.visibility.full import Full

        self.scene = scene
        z_BL = jnp.full((draws, scene.law.length), scene.law.vocab.mask, jnp.int32)
        self.canvas = Canvas(z_BL, jnp.ones(z_BL.shape), z_BL < 0, Full())
        self.key_B = keys.per_sample(keys.key(keys.root(seed), "sample"), jnp.arange(draws))
        self._run = jax.jit(self._generated, static_argnums=(0, 1))

    def row(self, sampler, steps: int) -> dict:
        """How far the law is from p after so many steps, and the passes that they took."""
        from dlm.nn.visibility.block import Block
        from dlm.nn.visibility.full import Full
        from dlm.samplers import plan

        law = self.scene.law
        visibility = Block(size=1) if drafts(sampler) else Full()
        if drafts(sampler) and law.length > _ENUMERABLE:
            raise UserError(
                f"it reads each token from those before it, one posterior for each of {law.length} positions"
            )
        sampler = plan.resolve(stepping(sampler, steps, law.length), self.scene.process, visibility)
        done = (
            self._run(sampler, visibility, 1)
            if drafts(sampler)
            else self._run(replace(sampler, steps=1), visibility, steps)
        )
        return dict(nfe=int(done.nfe)) | self.scene.measured(done.canvas.z_BL)

    def _generated(self, sampler, visibility, steps):
        from dlm.samplers import generator

        counted = copy.copy(sampler)
        object.__setattr__(
            counted, "steps", sampler.steps if drafts(sampler) else steps
        )  # traced: it only enters sums
        canvas = replace(self.canvas, visibility=visibility)
        return generator.generate(self.scene.net, counted, self.scene.process, canvas, self.key_B)


def drafts(sampler) -> bool:
    """Whether its steps are those of a draft."""
    return sampler.driver.drafts


def stepping(sampler, steps: int, length: int):
    """The sampler in so many steps; one that drafts gets drafts so long that it takes as many passes if all of them are accepted."""
    if drafts(sampler):
        return replace(sampler, steps=1, block=min(max(-(-2 * length // steps), 2), length))
    return replace(sampler, steps=steps)


class Trained:
    """A run directory, and the judge of what it draws."""

    def __init__(self, workdir: Path, judge: str, samples: int, seed: int):
        from dlm.app.context import RunContext
        from dlm.app.open_run import reopen
        from dlm.evals import gen_ppl

        experiment, state = reopen(workdir)
        self.subject = RunContext(experiment, state.averaged, experiment.run.data.source, seed)
        self.judge = gen_ppl.trusted(self.subject, judge, "--judge")
        self.samples = samples
        self.process = experiment.process_of(state.averaged)

    def row(self, sampler, steps: int) -> dict:
        """Scores of the samples, and what they cost; timed are calls after the first, which compiles."""
        from dlm.evals import gen_ppl, samples
        from dlm.evals.exact import Exact
        from dlm.samplers import plan

        run, tokenizer = self.subject.experiment.run, self.subject.tokenizer
        sampler = stepping(sampler, steps, run.data.length)
        subject = replace(self.subject, sampler=sampler)
        replies = subject.draw(self.samples)
        timed = replies[BATCH:] or subject.draw(self.samples)
        seconds = sum(reply.seconds for reply in timed[::BATCH])
        tokens = sum(len(samples.before(tokenizer.vocab, reply.ids)) for reply in timed)
        results = [*gen_ppl.perplexity("gen", self.judge, [r.ids for r in replies], tokenizer)]
        results += samples.variety([r.ids for r in replies], tokenizer.vocab)
        nfe = subject.details["nfe"]
        read = positions(
            plan.resolve(sampler, self.process, run.objective.visibility),
            run.objective.visibility,
            run.data.length,
            nfe,
        )
        row: dict = dict(
            nfe=nfe,
            tokens_per_s=tokens / seconds,
            flops_per_sample=read * run.nn.flops_per_token(run.data.length) / 3,
        )
        for name, value, error in results:
            row |= {name: value} | ({f"{name}_se": error} if f"{name}_se" in COLUMNS else {})
        if not sampler.rule.order_randomness and not sampler.remask and not sampler.next_pass:
            row |= {name: value for name, value, _ in Exact(windows=16, samples=2).run(subject, 0)}
        return row


def positions(sampler, visibility, length: int, passes: float) -> float:
    """Positions that the network reads for a sample. With an exact cache these are the block's, and each block once more when it is done;
    a draft is verified in two streams. Caches that approximate are counted as if every pass read the whole canvas, which is too much."""
    from dlm.samplers import plan

    if plan.cache_kind(sampler, visibility) != "exact":
        return passes * length
    if drafts(sampler):
        return passes * sampler.block * (sampler.steps + 2) / (sampler.steps + 1)
    # Each block is computed once more when it is decided, if clean tokens are a stream of their own.
    again = length if visibility.streams == 2 else 0
    return passes * sampler.block + again


# ------------------------------------------------------------------------------------------------------------------ telling


def tables(rows: list[dict], steps: list[int]):
    """A grid of rules × steps for each part and measure, line by line."""
    for part, measures in MEASURES.items():
        mine = {(row["rule"], row["steps"]): row for row in rows if row["part"] == part}
        names = list(dict.fromkeys(rule for rule, _ in mine))
        for column, title, digits in measures:
            if all(row.get(column) is None for row in mine.values()):
                continue
            yield f"{part}: {title}"
            yield f"  {'steps':<34}" + "".join(f"{n:>10,}" for n in steps)
            for name in names:
                results = [mine.get((name, n), {}).get(column) for n in steps]
                if any(v is not None for v in results):
                    yield f"  {name:<34}" + "".join(
                        f"{'':>10}" if v is None else f"{v:>10,.{digits}f}" for v in results
                    )
            yield ""


def _written(out: Path, rows: list[dict]) -> None:
    from dlm.reports import plots

    with open(out / "samplers.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    figures = []
    for part, measures in MEASURES.items():
        for column, title, _ in measures:
            results: dict[str, list] = {}
            for row in rows:
                if row["part"] == part and column != "nfe" and row.get(column) is not None:
                    results.setdefault(row["rule"], []).append(
                        (row["nfe"] or row["steps"], row[column])
                    )
            for kind, points in _kinds(results).items():
                drawing = plots.lines(
                    points, "forward passes", title, least=LEAST.get(column, 0.0), beside=KNOWN
                )
                figures += (
                    [f"<h2>{html.escape(f'{part}, {kind}: {title}')}</h2>{drawing}"]
                    if drawing
                    else []
                )
    style = "body{font:16px/1.5 system-ui;max-width:44rem;margin:2rem auto;padding:0 1rem}svg{width:100%;height:auto}"
    head = f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><style>{style}</style>"
    page = f"{head}<title>Samplers</title><h1>Quality against steps</h1>{''.join(figures)}</html>"
    (out / "samplers.html").write_text(page, encoding="utf-8")


def _kinds(points: dict[str, list]) -> dict[str, dict[str, list]]:
    """A drawing of the rules and one of remasking, where there is something to compare."""
    remasking = {
        name: p for name, p in points.items() if name in ("ancestral", *KNOWN) or "+" in name
    }
    kinds = dict(
        rules={name: p for name, p in points.items() if "+" not in name}, remasking=remasking
    )
    alone = {*KNOWN, "ancestral"} if any("+" in name for name in points) else {*KNOWN}
    if "+" not in "".join(remasking):
        del kinds["remasking"]
    return {kind: results for kind, results in kinds.items() if set(results) - alone}


if __name__ == "__main__":
    cli.main(main)
