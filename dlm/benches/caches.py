"""Measures how approximate caches change samples and what they save.

python -m dlm.bench caches --workdir=RUN [--blocks=16,32,64] [--refresh=0,8,4,2] [--steps=0]
                     [--length=0] [--temperature=0] [--rows=8] [--repeats=3] [--json]

The most confident first (confidence=top), after the first quarter of a held-out text: the cache is
all that differs. Reports the share of tokens that equal those of no cache, the same up to the first
difference of a row, and seconds as a multiple of no cache's. A model that has learnt little writes
one token again and again at temperature 0, with any cache: at --temperature=1 the random numbers
are the same for all. `refresh` is the number of passes from one computation of the whole canvas to
the next; 0: one for each block.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.samplers.plan import Cache, Sampler

if TYPE_CHECKING:  # these load JAX, which --help need not
    from dlm.app.experiment import Experiment
    from dlm.core.contracts import Canvas

_TEMPERATURE_HELP = "of what is drawn; at 0 each token is the likeliest"
FLAGS = [
    Flag("workdir", "run of a masked model", required=True, type=Place),
    Flag("blocks", "positions decided together", default="16,32,64"),
    Flag(
        "refresh", "passes between computations of the whole canvas", default="0,8,4,2"
    ),
    Flag(
        "steps",
        "passes for each block; 0: half as many as positions",
        default=0,
        type=int,
    ),
    Flag("length", "tokens of a sample; 0: as in training", default=0, type=int),
    Flag("temperature", _TEMPERATURE_HELP, default=0.0, type=float),
    Flag("rows", "samples drawn at once", default=8, type=int),
    Flag("repeats", "rounds", default=3, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
Kind = Literal["prefix", "dual", "delayed"]
KINDS: tuple[Kind, ...] = ("prefix", "dual", "delayed")

Results = dict[str, Any]  # as --json prints them


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    too_few = min(args.rows, args.repeats) < 1
    if too_few or min(args.length, args.steps) < 0:
        raise UserError(
            "--rows and --repeats must be at least 1, --length and --steps not negative"
        )
    if not 0 <= args.temperature <= 1e6:
        raise UserError(f"--temperature={args.temperature} must not be negative")
    # Every combination of a block length and a refresh interval is an arm.
    blocks = _numbers("blocks", args.blocks, 1)
    refreshes = _numbers("refresh", args.refresh, 0)
    results = measure(args, blocks, refreshes)
    for line in table(results):
        say(line)
    if args.json:
        cli.emit(results)


def _numbers(flag: str, text: str, least: int) -> list[int]:
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        must = f"must be whole numbers from {least} on, with commas between them"
        raise UserError(f"--{flag}={text} {must}")
    return values


def measure(
    args: argparse.Namespace,
    blocks: list[int],
    refreshes: list[int],
) -> Results:
    """Returns all numbers, as --json prints them."""
    from dlm.app.open_run import reopen
    from dlm.nn.visibility import sees_all

    experiment, state = reopen(Path(args.workdir))
    if not sees_all(experiment.objective.visibility):
        raise UserError(
            f"--workdir={args.workdir} is no masked model: caches of others are exact"
        )
    # The parameters that evaluation uses.
    params = state.averaged
    arms: dict[tuple, _Arm] = {}
    for block in blocks:
        # The one without a cache comes first: others are compared with it.
        arms[block, "none", 0] = _Arm(experiment, params, args, block, Cache("none"))
        for kind in KINDS:
            for refresh in refreshes:
                cache = Cache(kind, refresh)
                arms[block, kind, refresh] = _Arm(
                    experiment, params, args, block, cache
                )
    say(f"compiling {len(arms)} samplers; then {args.repeats} rounds")
    measures = {str(key): arm.seconds for key, arm in arms.items()}
    raw = benches.in_turns(measures, args.repeats)

    rows = []
    for key, arm in arms.items():
        block, kind, refresh = key
        if kind == "none":
            continue
        # Compared with no cache, at the same block length.
        without = block, "none", 0
        seconds = benches.ratio(raw[str(key)], raw[str(without)])
        row = dict(block=block, kind=kind, refresh=refresh)
        row |= arm.agreement(arms[without])
        rows.append(row | dict(seconds=seconds, nfe=arm.nfe))
    return dict(
        workdir=str(args.workdir),
        length=args.length or experiment.run.data.length,
        rows=args.rows,
        temperature=args.temperature,
        caches=rows,
    )


class _Arm:
    """One sampler, with what it wrote."""

    def __init__(
        self,
        experiment: "Experiment",
        params: Any,
        args: argparse.Namespace,
        block: int,
        cache: Cache,
    ):
        from dlm.samplers.rules.confident import Confident

        self.sampler = Sampler(
            rule=Confident(confidence="top"),
            steps=args.steps or max(block // 2, 1),
            block=block,
            temperature=args.temperature,
            cache=cache,
        )
        self.experiment = experiment
        self.params = params
        self.rows = args.rows
        self.length = args.length or experiment.run.data.length
        self.begin = self.length // 4  # tokens of the prompt
        # The last samples, and their passes.
        self.ids_BL = np.zeros((0, 0), np.int32)
        self.nfe = 0

    def seconds(self) -> float:
        import jax

        def once() -> None:
            sampled = jax.block_until_ready(self._generate(self.params, self._canvas))
            self.ids_BL = np.asarray(sampled.canvas.z_BL)
            self.nfe = int(sampled.nfe)

        return sum(benches.seconds_each(once, 1))

    def agreement(self, other: "_Arm") -> dict[str, float]:
        """Returns the share of equal tokens, and of those up to a row's first difference."""
        same_BL = (self.ids_BL == other.ids_BL)[:, self.begin :]
        # 1 up to the first difference of a row, 0 from there on.
        until_BL = np.cumprod(same_BL, 1)
        return dict(
            agree=float(same_BL.mean()),
            until=float(until_BL.mean()),
        )

    @functools.cached_property
    def _canvas(self) -> "Canvas":
        """Held-out texts, all but their first quarter masked."""
        import jax.numpy as jnp

        from dlm.core.contracts import Canvas

        run, begin = self.experiment.run, self.begin
        documents = run.data.source.documents("held_out")
        texts: list[np.ndarray] = []
        for ids in self.experiment.tokenizer.encode_all(documents):
            # A shorter text would end before the prompt does.
            if len(ids) >= begin and len(texts) < self.rows:
                texts.append(ids[:begin])
        if len(texts) < self.rows:
            text = f"only {len(texts)} held-out texts have {begin} tokens to begin with"
            raise UserError(f"--rows={self.rows}: {text}")
        # The rest of the canvas is to be written.
        z_BL = np.full((self.rows, self.length), run.nn.vocab.mask, np.int32)
        z_BL[:, :begin] = texts
        prompt_L = jnp.arange(self.length) < begin
        frozen_BL = jnp.broadcast_to(prompt_L, z_BL.shape)
        t_BL = jnp.ones(z_BL.shape)
        visibility = self.experiment.objective.visibility
        return Canvas(jnp.asarray(z_BL), t_BL, frozen_BL, visibility)

    @functools.cached_property
    def _generate(self) -> Callable:
        import jax

        from dlm.core import keys
        from dlm.samplers import generator

        experiment, process = self.experiment, self.experiment.objective.process
        rows, length = self.rows, self.length
        # A cache of the canvas' size is made in every call.
        cached = self.sampler.cache.kind != "none"

        @jax.jit
        def generate(params, canvas):
            net = experiment.net(params)
            key_B = keys.per_sample(keys.root(0), jax.numpy.arange(rows))
            if cached:
                cache = experiment.empty_cache(rows, length)
                canvas = replace(canvas, cache=cache)
            return generator.generate(net, self.sampler, process, canvas, key_B)

        return generate


def table(results: Results) -> list[str]:
    """Formats the numbers for people."""
    shape = f"{results['rows']} samples of {results['length']} tokens at once"
    columns = "tokens as without   up to the first other   seconds as a share   passes"
    lines = [
        f"\n{results['workdir']}: {shape}, temperature {results['temperature']:g}",
        f"  block  cache     refresh    {columns}",
    ]
    for row in results["caches"]:
        name = f"  {row['block']:>5}  {row['kind']:<8} {row['refresh']:>8}"
        # Shares in per cent, and seconds as a ratio with its range.
        agree, until = (
            f"{100 * row['agree']:>18.1f} %",
            f"{100 * row['until']:>20.1f} %",
        )
        seconds = f"{benches.formatted(row['seconds']):<20} {row['nfe']:>6}"
        lines.append(f"{name} {agree} {until}   {seconds}")
    return lines


if __name__ == "__main__":
    cli.main(main)
