"""What an update costs under each objective, as a multiple of plain masked diffusion's, and how fast a bound is evaluated.

python -m dlm.bench objectives [--config=configs/masked.py:size=tiny] [--only=block,hybrid] [--repeats=4] [--json] [--config.nn.layers=2 …]

    update       the jitted update on one batch, with the same backbone, batch and length; block: at most 2.2 (it has twice the positions)
    evaluation   the bare forward passes of held-out text over the bound's evaluator, data and all: at least 0.8

All are measured in turns, again and again; told is the median of the ratios within a round, with their range.
"""

import dataclasses
import functools
import time

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import build_run

FLAGS = [
    Flag("config", "recipe of a masked model", default="configs/masked.py:size=tiny", type=Place),
    Flag("only", "objectives beside masked, by name; block:16 has blocks of 16", default=""),
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
    results = measure(config, args.only.split(",") if args.only else ALL, args.repeats)
    for name, ratio in results["updates"].items():
        limit = f"   (at most {LIMITS['block']})" if name.startswith("block") else ""
        say(f"  update       {name:<12} {benches.formatted(ratio)} × masked{limit}")
    seconds = benches.formatted(results["masked_seconds"], 1e3, 0)
    say(
        f"  evaluation   {benches.formatted(results['evaluation'])} of the bare forward passes' speed (at least {LIMITS['evaluation']})"
    )
    say(f"  masked       {seconds} ms an update of {results['batch']} × {results['length']} tokens")
    if args.json:
        cli.emit(results | dict(config=args.config, limits=LIMITS))


def measure(config: dict, names, rounds: int) -> dict:
    """All numbers, as --json prints them."""
    config = dict(
        config, data=dict(config["data"], marked_characters=".")
    )  # so that `priority` has something to prefer
    say(f"building and compiling masked, {', '.join(names)}; then {rounds} rounds")
    masked = _Arm(config, "masked", None)
    arms = {name: _Arm(config, name, masked.tokenizer) for name in names}
    measures = {"masked": masked.update, **{name: arm.update for name, arm in arms.items()}}
    raw = benches.in_turns(measures | dict(passes=masked.passes, bound=masked.bound), rounds)
    return dict(
        batch=masked.run.data.batch,
        length=masked.run.data.length,
        masked_seconds=benches.spread(raw["masked"]),
        updates={name: benches.ratio(raw[name], raw["masked"]) for name in arms},
        evaluation=benches.ratio(raw["passes"], raw["bound"]),
    )


class _Arm:
    """One objective, ready to be timed."""

    def __init__(self, config: dict, name: str, tokenizer):
        from dlm.app.experiment import Experiment

        stem, _, size = name.partition(":")
        objective = dict(name=f"objectives.{stem}") | (dict(size=int(size)) if size else {})
        sampler = (
            dict(rule="ancestral", steps=1, block=1) if stem == "ar" else config.get("sampler", {})
        )
        self.run = build_run(dict(config, objective=objective, sampler=sampler))
        self.tokenizer = tokenizer or self.run.text.fit(self.run.data.source.documents("train"))
        self.experiment = Experiment(self.run, self.tokenizer)
        self.state, self.batch = self.experiment.new_state(), next(self.experiment.batches(0))

    def update(self) -> float:
        """Seconds of an update, the better of two."""
        import jax

        def once():
            self.state, sums = self.experiment.update(self.state, self.batch)
            jax.block_until_ready(sums)

        return min(benches.seconds_each(once, 2))

    @functools.cached_property
    def _forward(self):
        import jax

        def predict(params, canvas):
            return self.experiment.net(params)(canvas).prediction

        return jax.jit(predict)

    def passes(self) -> float:
        """Seconds of the forward passes that an evaluation takes, on a batch that is on the device."""
        import jax

        from dlm.core.contracts import Canvas

        batch, visibility = self.batch, self.experiment.objective.visibility
        canvas = Canvas.of(batch, batch.tokens_BL, 0 * batch.weights_BL, visibility)
        times = SAMPLES * -(-WINDOWS // self.run.data.batch)
        return sum(
            benches.seconds_each(
                lambda: jax.block_until_ready(self._forward(self.state.averaged, canvas)), times
            )
        )

    def bound(self) -> float:
        """Seconds of the bound's evaluator over as many windows, data and all."""
        from dlm.app.context import RunContext
        from dlm.evals.bound import HeldOut

        subject = RunContext(self.experiment, self.state.averaged, self.run.data.source)
        begin = time.perf_counter()
        list(dataclasses.replace(HeldOut(), samples=SAMPLES, windows=WINDOWS).run(subject, 0))
        return time.perf_counter() - begin


if __name__ == "__main__":
    cli.main(main)
