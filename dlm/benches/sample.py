"""Measures tokens per second of ways to sample, side by side, and their cost in quality.

python -m dlm.bench sample --workdir=RUN [--ar=AR_RUN] [--block=BLOCK_RUN]
                     [--only=dual,threshold-dual] [--length=256] [--rows=8] [--steps=8]
                     [--quality=1000] [--repeats=3] [--json]

    plain    the usual loop (`benches.sampling.plain`): the most confident first in blocks of 32,
             --steps passes for each
    ARM      ours: the same rule without a cache and with each; ancestral; threshold with each
             cache; the autoregressive run with its cache (--ar); speculation on a block run
             (--block)

Reports tokens/s as multiples of plain's (`dual`, `refreshed`: at least 5), and the whole loop's
seconds over those of as many bare forward passes (without a cache: at most 1.15). With --quality=N
also the likelihood of N samples under the autoregressive run and their entropy, for plain, `dual`
and `refreshed` (dual, with the whole canvas computed in every second pass): within 2 % of plain's.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.intervals import half
from dlm.core.named import Place
from dlm.samplers.plan import Cache, Sampler

if TYPE_CHECKING:  # these load JAX, which --help need not
    from dlm.app.experiment import Experiment
    from dlm.benches.sampling.arm import Arm
    from dlm.benches.sampling.plain import Plain

_AR_HELP = "autoregressive run: one more arm, and the judge of quality"
FLAGS = [
    Flag("workdir", "run of a masked model", required=True, type=Place),
    Flag("ar", _AR_HELP, default="", type=Place),
    Flag("block", "block-diffusion run, to speculate with", default="", type=Place),
    Flag("only", "arms, by name (default: all)", default=""),
    Flag("length", "tokens of a sample", default=256, type=int),
    Flag("rows", "samples drawn at once", default=8, type=int),
    Flag("steps", "passes for each block of 32", default=8, type=int),
    Flag("quality", "samples whose quality is compared; 0: none", default=0, type=int),
    Flag("repeats", "rounds", default=3, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
BLOCK, DRAFT = 32, 4  # positions decided together; tokens of a draft
LIMITS = dict(loop=1.15, speed=5.0, quality=0.02)
ARMS: dict[str, dict[str, Any]] = {
    "none": dict(rule="confident", cache="none"),
    "dual": dict(rule="confident", cache="dual"),
    "refreshed": dict(rule="confident", cache="dual", refresh=2),
    "prefix": dict(rule="confident", cache="prefix"),
    "delayed": dict(rule="confident", cache="delayed"),
    "ancestral": dict(rule="ancestral", cache="none", block=0, steps=64),
    "threshold-none": dict(rule="threshold", cache="none", steps=BLOCK),
    "threshold-prefix": dict(rule="threshold", cache="prefix", steps=BLOCK),
    "threshold-dual": dict(rule="threshold", cache="dual", steps=BLOCK),
    "threshold-delayed": dict(rule="threshold", cache="delayed", steps=BLOCK),
}
JUDGED = ("dual", "refreshed")
UNCACHED = ("none", "ancestral", "threshold-none")
OTHERS = dict(
    ar="ar", speculative="block"
)  # arms of other runs, and the flags that name these

Results = dict[str, Any]  # as --json prints them


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    least = min(args.length, args.rows, args.steps, args.repeats)
    if least < 1 or args.quality < 0:
        raise UserError(
            "--length, --rows, --steps and --repeats must be at least 1, and --quality not negative"
        )
    if args.quality and not args.ar:
        raise UserError(
            "--quality needs a judge: --ar=RUN, the directory of an autoregressive run"
        )
    results = measure(args, _names(args))
    for line in table(results):
        say(line)
    if args.json:
        cli.emit(results)


def _names(args: argparse.Namespace) -> list[str]:
    """Returns the arms that --only names, by default all for which there is a run."""
    runs = dict(ar=args.ar, speculative=args.block)
    # Arms of other runs exist only with the flag that names the run.
    known = [*ARMS, *(name for name, workdir in runs.items() if workdir)]
    if not args.only:
        return known
    for name in args.only.split(","):
        if name not in known:
            missing = f": it needs --{OTHERS[name]}=RUN" if name in OTHERS else ""
            raise UserError(
                f"--only: no arm {name!r}{missing}; there are {', '.join(known)}"
            )
    return args.only.split(",")


def measure(args: argparse.Namespace, names: list[str]) -> Results:
    """Returns all numbers, as --json prints them."""
    from dlm.app.open_run import reopen
    from dlm.benches.sampling.plain import Plain
    from dlm.nn.visibility import sees_all

    experiment, state = reopen(Path(args.workdir))
    if not sees_all(experiment.objective.visibility):
        text = "is no masked model: its network must see the whole canvas"
        raise UserError(f"--workdir={args.workdir} {text}")
    params = state.averaged
    # The unit of all speeds.
    plain = Plain(experiment, params, args)
    arms = _arms(experiment, params, args, names)
    say(f"compiling plain, {', '.join(arms)}; then {args.repeats} rounds")
    measures = dict(plain=plain.seconds)
    measures |= {name: arm.seconds for name, arm in arms.items()}
    measures["forward"] = plain.forward_seconds
    raw = benches.in_turns(measures, args.repeats)

    # Ends of text do not shorten samples.
    tokens = args.length * args.rows
    speed = {name: [tokens / seconds for seconds in raw[name]] for name in raw}
    results: Results = dict(
        workdir=str(args.workdir),
        length=args.length,
        rows=args.rows,
        steps=args.steps,
        limits=LIMITS,
        plain=dict(tokens_per_s=benches.spread(speed["plain"]), nfe=plain.nfe),
        forward_seconds=benches.spread(raw["forward"]),
        arms={},
    )
    for name, arm in arms.items():
        # The loop's overhead: its time over that of its passes alone.
        bare = [arm.nfe * seconds for seconds in raw["forward"]]
        results["arms"][name] = dict(
            tokens_per_s=benches.spread(speed[name]),
            ratio=benches.ratio(raw["plain"], raw[name]),
            nfe=arm.nfe,
            loop=benches.ratio(raw[name], bare),
        )
    if args.quality:
        judged: dict[str, Arm | Plain] = {}
        judged["plain"] = Plain(experiment, params, args, judged=True)
        judged |= {name: arm for name, arm in arms.items() if name in JUDGED}
        results["quality"] = _qualities(experiment, params, args, judged)
    return results


# -------------------------------------------------------------------------------------------- arms


def _arms(
    experiment: "Experiment",
    params: Any,
    args: argparse.Namespace,
    names: list[str],
) -> dict[str, "Arm"]:
    from dlm.benches.sampling.arm import Arm

    arms = {}
    for name in names:
        if name in ARMS:
            arms[name] = Arm(experiment, params, args, _sampler(args, **ARMS[name]))
    # Those of other runs come last.
    for name in names:
        if name in OTHERS:
            arms[name] = _other(name, args)
    return arms


def _sampler(
    args: argparse.Namespace,
    rule: str,
    cache: Any,
    block: int = BLOCK,
    steps: int = 0,
    refresh: int = 0,
) -> Sampler:
    return Sampler(
        rule=rule,
        steps=steps or args.steps,
        block=block,
        cache=Cache(cache, refresh),
    )


def _other(name: str, args: argparse.Namespace) -> "Arm":
    """Returns an arm of another run, whose network has another order."""
    from dlm.app.open_run import reopen
    from dlm.benches.sampling.arm import Arm
    from dlm.nn.visibility import is_autoregressive

    workdir = args.ar if name == "ar" else args.block
    experiment, state = reopen(Path(workdir))
    visibility = experiment.objective.visibility
    if name == "ar":
        fits = is_autoregressive(visibility)
        sampler = Sampler(steps=1, block=1)
    else:
        fits = visibility.block is not None and visibility.streams == 2
        sampler = Sampler(driver="speculative", steps=1, block=DRAFT)
    if not fits:
        kind = type(visibility).__module__.rpartition(".")[2]
        text = f"is not such a run: its network's attention is {kind!r}"
        raise UserError(f"--{OTHERS[name]}={workdir} {text}")
    return Arm(experiment, state.averaged, args, sampler)


# ----------------------------------------------------------------------------------------- quality


def _qualities(
    experiment: "Experiment",
    params: Any,
    args: argparse.Namespace,
    arms: "dict[str, Arm | Plain]",
) -> dict[str, Results]:
    """Returns the likelihood and entropy of each arm's samples, with their standard errors."""
    from dlm.app.context import RunContext

    # The judge is opened once for all arms.
    context = RunContext(experiment, params, experiment.run.data.source)
    judge = context.open_run(args.ar)
    tokenizer = context.tokenizer
    qualities = {}
    for name, arm in arms.items():
        begin = time.perf_counter()
        ids_N = _samples(name, arm, args)
        quality = _quality(judge, ids_N, tokenizer)
        quality["seconds"] = time.perf_counter() - begin
        qualities[name] = quality
        say(
            _quality_line(name, quality)
        )  # at once: it may have taken a quarter of an hour
    return qualities


def _samples(
    name: str,
    arm: "Arm | Plain",
    args: argparse.Namespace,
) -> list[np.ndarray]:
    begin = time.perf_counter()
    ids_N: list[np.ndarray] = []
    for seed in range(-(-args.quality // args.rows)):
        ids_N += arm.draw(seed)
        # About every hundredth sample is reported.
        if len(ids_N) % 100 < args.rows:
            seconds = time.perf_counter() - begin
            say(f"{name}: {len(ids_N)} of {args.quality} samples, {seconds:.0f} s")
    return ids_N[: args.quality]


def _quality(judge: Any, ids_N: list[np.ndarray], tokenizer: Any) -> Results:
    from dlm.core.intervals import jackknife
    from dlm.evals import gen_ppl, samples

    def nats_per_token(rows_N6: np.ndarray) -> float:
        return rows_N6[:, 0].sum() / rows_N6[:, 2].sum()

    rows_N6 = gen_ppl.judged(judge, ids_N, tokenizer)
    nll, nll_se = jackknife(nats_per_token, list(rows_N6))
    # The other scores of variety are not compared.
    scores = {name: score for name, *score in samples.variety(ids_N, tokenizer.vocab)}
    entropy, entropy_se = scores["entropy"]
    return dict(nll=nll, nll_se=nll_se, entropy=entropy, entropy_se=entropy_se)


def _quality_line(name: str, quality: Results) -> str:
    texts = []
    for score in ("nll", "entropy"):
        value = quality[score]
        texts.append(f"{value:.4f} ± {half(value, quality[f'{score}_se']):.4f}")
    nll, entropy = texts
    scores = f"{nll} nats/token, entropy {entropy}"
    return f"  quality of {name:<9} {scores} (± half of the 95 % interval)"


# ------------------------------------------------------------------------------------------- table


def table(results: Results) -> list[str]:
    """Formats the numbers for people."""
    shape = f"{results['rows']} samples of {results['length']} tokens at once"
    forward = benches.formatted(results["forward_seconds"], 1e3, 1)
    lines = [
        f"\n{results['workdir']}: {shape}",
        f"  forward            {forward} ms, one bare pass",
        _speed_line("plain", results["plain"]),
    ]
    for name, arm in results["arms"].items():
        # The requirement is printed beside the number.
        ratio = f"{benches.formatted(arm['ratio'], 1, 1)} × plain"
        if name in JUDGED:
            ratio += f" (at least {LIMITS['speed']:g})"
        loop = f"{benches.formatted(arm['loop'])} × its bare passes"
        if name in UNCACHED:
            loop += f" (at most {LIMITS['loop']})"
        lines.append(f"{_speed_line(name, arm)}   {ratio}, {loop}")
    for name, quality in results.get("quality", {}).items():
        lines.append(_quality_line(name, quality))
    return lines


def _speed_line(name: str, arm: Results) -> str:
    speed = benches.formatted(arm["tokens_per_s"], 1, 0)
    return f"  {name:<18} {speed:<22} tokens/s   {arm['nfe']:>4} passes"


if __name__ == "__main__":
    cli.main(main)
