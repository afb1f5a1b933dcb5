"""Measures every sampling rule against steps, in worlds whose law is known and on a trained run.

python -m dlm.bench samplers --out=FOLDER [--steps=4,8,16,32,64] [--noise=0.5]
                       [--rules=ancestral,confident:confidence=margin,ancestral+rescale:eta=0.1]
                       [--workdir=RUN --judge=AR_RUN] [--sampler.top_p=0.9 …] [--json]

    table    V = 3, L = 4     total variation of the draws from p, and their entropy
    chain    V = 16, L = 64   impossible bigrams, total variation of the bigrams, and their
                              conditional entropy, nats a token
    run      samples under a judge with their variety, exact likelihood where the rule has one
             (DUEL), passes, tokens/s, FLOPs

In both worlds the network is the exact posterior (with --noise its logits have errors), and two
lines are above the rules. `floor` is the law of ancestral sampling with the exact posterior,
calculated and not drawn (`oracle.enumeration`, `oracle.factorization_gap`): the cost of drawing
several tokens at once. `p itself` are as many draws from p: the error of so few draws of any law.
For a decided token the network gives p(x_i | all others), for the rules that judge tokens.

Rules are the files of dlm/samplers/rules and remask, and the driver `speculative`; without --rules
each with its defaults, remasking under ancestral sampling. Writes to FOLDER: samplers.csv, a line
for each rule and number of steps, and samplers.html, the plots.
"""

import argparse
from collections.abc import Callable
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

_RULES_HELP = (
    "which, as RULE[:field=value…][+REMASK[:field=value…]], with commas between"
)
_NOISE_HELP = "standard deviation of the network's error in the worlds, nats"
_JUDGE_HELP = "run directory of an autoregressive model that scores the samples"
FLAGS = [
    Flag("out", "folder for samplers.csv and samplers.html", required=True, type=Place),
    Flag("rules", _RULES_HELP, default=""),
    Flag("steps", "numbers of steps, with commas between", default="4,8,16,32,64"),
    Flag(
        "worlds", "which of table and chain; none with --worlds=", default="table,chain"
    ),
    Flag(
        "num",
        "draws from the chain, and 64 times as many from the table",
        default=256,
        type=int,
    ),
    Flag("noise", _NOISE_HELP, default=0.0, type=float),
    Flag("workdir", "run directory to sample from", default="", type=Place),
    Flag("judge", _JUDGE_HELP, default="", type=Place),
    Flag(
        "samples", "of the run, for each rule and number of steps", default=32, type=int
    ),
    Flag("seed", "of all draws", default=0, type=Seed),
    Flag("json", "print one JSON object on stdout", type=bool),
]
FOLDER = Path(__file__).parents[1] / "samplers"
# Rules with other choices than their defaults, where these differ most.
BESIDE = ("confident:confidence=margin",)
MORE = dict(table=64, chain=1)  # draws of a world, times --num

Row = dict[str, Any]
Measure = Callable[[Sampler, int], Row]


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("sampler",))
    steps = _numbers(args.steps)
    worlds = args.worlds.split(",") if args.worlds else []
    _check(args, worlds)
    # Settings that all rules share.
    settings: dict = {}
    for dotted, text in overrides:
        override(settings, dotted.removeprefix("sampler."), text)
    names = args.rules.split(",") if args.rules else everything()
    samplers = {name: built(name, settings) for name in names}
    out = Path(args.out)
    paths = dict(csv=out / "samplers.csv", html=out / "samplers.html")
    for path in paths.values():
        files.try_writing(path, "name another folder by --out=FOLDER")
    out.mkdir(parents=True, exist_ok=True)

    # All rows are collected first: tables and plots need them all.
    bench = Bench(samplers, steps, args.seed)
    for world in worlds:
        bench.world(world, args.num, args.noise)
    if args.workdir:
        bench.run(Path(args.workdir), args.judge, args.samples)

    from dlm.benches.sampling import output

    output.write(out, bench.rows)
    for text in output.tables(bench.rows, steps):
        say(text)
    for part, name, reason in bench.left_out:
        say(f"left out of {part}: {name}: {reason}")
    if args.json:
        facts = dict(steps=steps, noise=args.noise, seed=args.seed)
        places = {kind: str(path) for kind, path in paths.items()}
        cli.emit(bench.results() | facts | places)


def _check(args: argparse.Namespace, worlds: list[str]) -> None:
    """Raises UserError for flags that are wrong, or wrong together."""
    for world in worlds:
        if world not in MORE:
            near = nearest(world, MORE)
            known = f"no world {world!r}{near}; there are {', '.join(MORE)}"
            raise UserError(f"--worlds={args.worlds}: {known}")
    numbers = min(args.num, args.samples)
    if numbers < 2 or not 0 <= args.noise <= 1e3:
        raise UserError(
            f"--num={args.num} and --samples={args.samples} must be at least 2, "
            f"--noise={args.noise} not negative"
        )
    if bool(args.workdir) != bool(args.judge):
        raise UserError(
            "--workdir=RUN and --judge=AR_RUN go together: "
            "samples are worth what another model makes of them"
        )
    if not worlds and not args.workdir:
        raise UserError(
            "nothing to measure: name --worlds, or a run with --workdir and --judge"
        )


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    numbers = {int(word) for word in words if word.isdigit()}
    if not all(word.isdigit() for word in words) or min(numbers) < 1:
        must = "must be positive numbers with commas between, such as 4,8,16"
        raise UserError(f"--steps={text} {must}")
    return sorted(numbers)


# ------------------------------------------------------------------------------------------- rules


def members(family: str) -> list[str]:
    """Returns the names of all members of a family in dlm/samplers."""
    paths = (FOLDER / family).glob("*.py")
    names = {path.stem for path in paths}
    return sorted(names - {"__init__", "base"})


def everything() -> list[str]:
    """Returns every rule with its defaults, then every remasking rule under ancestral sampling."""
    # Ancestral sampling comes first: the others are compared with it.
    rules = sorted([*members("rules"), "speculative", *BESIDE])
    rules.remove("ancestral")
    remasking = [f"ancestral+{name}" for name in members("remask")]
    return ["ancestral", *rules, *remasking]


def built(name: str, settings: dict) -> Sampler:
    """Returns the Sampler of a name such as 'confident:confidence=margin+cap:eta=0.1'.

    `settings` are its other fields.
    """
    # At most one remasking rule, after a plus.
    rule, *remask = [_member(part) for part in name.split("+")]
    if len(remask) > 1:
        raise UserError(f"--rules: {name!r} names more than one remasking rule")
    config = dict(settings)
    if rule["name"] in members("drivers"):
        config["driver"] = rule
    else:
        config["rule"] = rule
    if remask:
        config["remask"] = remask[0]
    return build_section(Sampler, config, "sampler", None)


def _member(text: str) -> dict[str, Any]:
    # Fields follow the name, each after a colon.
    name, *fields = text.split(":")
    config: dict[str, Any] = dict(name=name)
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise UserError(f"--rules: {field!r} in {text!r} should be field=value")
        override(config, key, value)
    return config


# --------------------------------------------------------------------------------------- measuring


class Bench:
    """All rows, and the rules that were left out, for some samplers and numbers of steps."""

    def __init__(
        self,
        samplers: dict[str, Sampler],
        steps: list[int],
        seed: int,
    ):
        self.samplers = samplers
        self.steps = steps
        self.seed = seed
        self.rows: list[Row] = []
        self.left_out: list[tuple[str, str, str]] = []  # part, rule, reason

    def world(self, part: str, num: int, noise: float) -> None:
        """Adds the rows of one world: the floor, p itself, then the rules."""
        from dlm.benches.sampling.drawn import Drawn
        from dlm.oracle.sampler_worlds import Chain, Table

        kind = Table if part == "table" else Chain
        world = kind(noise, self.seed)
        draws = num * MORE[part]
        numbers = ", ".join(map(str, self.steps))
        say(
            f"{part}: the exact floor, then {len(self.samplers)} rules in {numbers} steps"
        )
        floor = zip(self.steps, world.floor(self.steps), strict=True)
        for steps, measures in floor:
            row = dict(part=part, rule="floor", steps=steps, nfe=steps)
            self.rows.append(row | measures)
        drawn = Drawn(world, draws, self.seed)
        # The same number of draws has the same error for every law.
        own = world.measured(world.own(draws))
        for steps in self.steps:
            row = dict(part=part, rule="p itself", steps=steps, nfe=None)
            self.rows.append(row | own)
        self._each(part, drawn.row)

    def run(self, workdir: Path, judge: str, samples: int) -> None:
        """Adds the rows of a trained run."""
        from dlm.benches.sampling.drawn import Trained

        trained = Trained(workdir, judge, samples, self.seed)
        rules = f"{len(self.samplers)} rules, judged by {judge}"
        say(f"{workdir}: {samples} samples for each of {rules}")
        self._each("run", trained.row)

    def _each(self, part: str, measure: Measure) -> None:
        for name, sampler in self.samplers.items():
            try:
                for steps in self.steps:
                    row = dict(part=part, rule=name, steps=steps)
                    self.rows.append(row | measure(sampler, steps))
            except UserError as reason:
                # A rule that this model does not support is no reason to lose the others.
                self.left_out.append((part, name, str(reason)))

    def results(self) -> dict[str, Any]:
        left_out = []
        for part, name, reason in self.left_out:
            left_out.append(dict(part=part, rule=name, reason=reason))
        return dict(rows=self.rows, left_out=left_out)


if __name__ == "__main__":
    cli.main(main)
