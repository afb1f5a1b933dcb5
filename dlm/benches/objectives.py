"""Measures the cost of an update under each objective, and the speed of evaluating a bound.

python -m dlm.bench objectives [--config=configs/masked.py:size=tiny] [--only=block,hybrid]
                           [--repeats=4] [--json] [--config.nn.layers=2 …]

    update       the jitted update on one batch, as a multiple of masked diffusion's, with the same
                 backbone, batch and length; block: at most 2.2 (it has twice the positions)
    evaluation   the bare forward passes of held-out text over the bound's evaluator, reading of
                 data included: at least 0.8

All are measured in turns; reports the median and range of the ratios within a round.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import build_run

RECIPE = "configs/masked.py:size=tiny"
FLAGS = [
    Flag("config", "recipe of a masked model", default=RECIPE, type=Place),
    Flag(
        "only",
        "objectives beside masked, by name; block:16 has blocks of 16",
        default="",
    ),
    Flag("repeats", "rounds", default=4, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
ALL = (
    "ar",
    "block:4",
    "block:16",
    "any_order",
    "partition",
    "hybrid",
    "learned",
    "proseco",
    "priority",
    "span",
)
LIMITS = dict(block=2.2, evaluation=0.8)
WINDOWS, SAMPLES = 64, 2  # of an evaluation


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} must be at least 1")
    config = cli.load_config(args.config, overrides)
    names = args.only.split(",") if args.only else ALL
    results = measure(config, names, args.repeats)
    for name, ratio in results["updates"].items():
        limit = f"   (at most {LIMITS['block']})" if name.startswith("block") else ""
        say(f"  update       {name:<12} {benches.formatted(ratio)} × masked{limit}")
    speed = benches.formatted(results["evaluation"])
    limit = f"(at least {LIMITS['evaluation']})"
    say(f"  evaluation   {speed} of the bare forward passes' speed {limit}")
    seconds = benches.formatted(results["masked_seconds"], 1e3, 0)
    shape = f"{results['batch']} × {results['length']} tokens"
    say(f"  masked       {seconds} ms an update of {shape}")
    if args.json:
        cli.emit(results | dict(config=args.config, limits=LIMITS))


def measure(
    config: dict,
    names: Sequence[str],
    rounds: int,
) -> dict[str, Any]:
    """Returns all numbers, as --json prints them."""
    # Marked characters, so that `priority` has something to prefer.
    data = dict(config["data"], marked_characters=".")
    config = dict(config, data=data)
    say(f"building and compiling masked, {', '.join(names)}; then {rounds} rounds")
    # The first arm is the unit of all ratios.
    masked = _Arm(config, "masked", None)
    measures: dict[str, Callable[[], float]] = dict(masked=masked.update)
    for name in names:
        measures[name] = _Arm(config, name, masked.tokenizer).update
    measures |= dict(passes=masked.passes, bound=masked.bound)
    raw = benches.in_turns(measures, rounds)
    # Within a round, since the machine's speed changes between rounds.
    updates = {name: benches.ratio(raw[name], raw["masked"]) for name in names}
    return dict(
        batch=masked.run.data.batch,
        length=masked.run.data.length,
        masked_seconds=benches.spread(raw["masked"]),
        updates=updates,
        evaluation=benches.ratio(raw["passes"], raw["bound"]),
    )


class _Arm:
    """One objective, ready to be timed."""

    def __init__(self, config: dict, name: str, tokenizer: Any):
        from dlm.app.experiment import Experiment

        stem, _, size = name.partition(":")
        objective: dict[str, Any] = dict(name=f"objectives.{stem}")
        if size:
            objective["size"] = int(size)
        sampler = config.get("sampler", {})
        # The recipe's sampler is one for a whole canvas.
        if stem == "ar":
            sampler = dict(rule="ancestral", steps=1, block=1)
        self.run = build_run(dict(config, objective=objective, sampler=sampler))
        self.source = self.run.data.source
        # All arms have the same one, which is fitted once.
        self.tokenizer = tokenizer
        if tokenizer is None:
            self.tokenizer = self.run.text.fit(self.source.documents("train"))
        self.experiment = Experiment(self.run, self.tokenizer)
        self.state = self.experiment.new_state()
        self.batch = next(self.experiment.batches(0))

    def update(self) -> float:
        """Returns the seconds of an update, the better of two."""
        import jax

        def once() -> None:
            self.state, sums = self.experiment.update(self.state, self.batch)
            jax.block_until_ready(sums)

        return min(benches.seconds_each(once, 2))

    @functools.cached_property
    def _forward(self) -> Callable:
        import jax

        @jax.jit
        def forward(params, canvas):
            net = self.experiment.net(params)
            return net(canvas).prediction

        return forward

    def passes(self) -> float:
        """Returns the seconds of an evaluation's passes, on a batch that is on the device."""
        import jax

        from dlm.core.contracts import Canvas

        batch = self.batch
        visibility = self.experiment.objective.visibility
        canvas = Canvas.of(batch, batch.tokens_BL, 0 * batch.weights_BL, visibility)

        def once() -> None:
            jax.block_until_ready(self._forward(self.state.averaged, canvas))

        # As many passes as the evaluator makes.
        batches = -(-WINDOWS // self.run.data.batch)
        return sum(benches.seconds_each(once, SAMPLES * batches))

    def bound(self) -> float:
        """Returns the seconds of the bound's evaluator over as many windows, data and all."""
        from dlm.app.context import RunContext
        from dlm.evals.bound import HeldOut

        # Reading and packing of the data is part of the evaluation.
        context = RunContext(self.experiment, self.state.averaged, self.source)
        evaluator = HeldOut(samples=SAMPLES, windows=WINDOWS)
        begin = time.perf_counter()
        list(evaluator.run(context, 0))
        return time.perf_counter() - begin


if __name__ == "__main__":
    cli.main(main)
