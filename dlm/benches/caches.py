"""What approximate caches change and save: agreement with no cache and speed, against block length and refresh interval.

python -m dlm.bench caches --workdir=RUN [--blocks=16,32,64] [--refresh=0,8,4,2] [--steps=0] [--length=0] [--temperature=0]
                           [--rows=8] [--repeats=3] [--json]

Surest first (confidence=top), after the first quarter of a held-out text: the cache is all that differs. Told are the share of tokens that
are those of no cache, the same up to the first difference of a row, and seconds as a multiple of no cache's. A model that has learnt
little writes one token again and again at temperature 0, with any cache: at --temperature=1 the random numbers are the same for all.
`refresh` is the number of passes from one whole reading to the next; 0: one for each block.
"""

import functools
from pathlib import Path

import numpy as np

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place

FLAGS = [
    Flag("workdir", "run of a masked model", required=True, type=Place),
    Flag("blocks", "positions decided together", default="16,32,64"),
    Flag("refresh", "passes between whole readings", default="0,8,4,2"),
    Flag("steps", "passes for each block; 0: half as many as positions", default=0, type=int),
    Flag("length", "tokens of a sample; 0: as in training", default=0, type=int),
    Flag(
        "temperature", "of what is drawn; at 0 each token is the likeliest", default=0.0, type=float
    ),
    Flag("rows", "samples drawn at once", default=8, type=int),
    Flag("repeats", "rounds", default=3, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
KINDS = ("prefix", "dual", "delayed")


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if min(args.rows, args.repeats) < 1 or min(args.length, args.steps) < 0:
        raise UserError(
            "--rows and --repeats must be at least 1, --length and --steps not negative"
        )
    if not 0 <= args.temperature <= 1e6:
        raise UserError(f"--temperature={args.temperature} must not be negative")
    results = measure(
        args, _numbers("blocks", args.blocks, 1), _numbers("refresh", args.refresh, 0)
    )
    for line in table(results):
        say(line)
    if args.json:
        cli.emit(results)


def _numbers(flag: str, text: str, least: int) -> list[int]:
    try:
        values = [int(v) for v in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        raise UserError(
            f"--{flag}={text} must be whole numbers from {least} on, with commas between them"
        )
    return values


def measure(args, blocks: list[int], refreshes: list[int]) -> dict:
    """All numbers, as --json prints them."""
    from dlm.app.open_run import reopen
    from dlm.nn.visibility import sees_all

    experiment, state = reopen(Path(args.workdir))
    if not sees_all(experiment.objective.visibility):
        raise UserError(f"--workdir={args.workdir} is no masked model: caches of others are exact")
    arms = {}
    for block in blocks:
        for kind, refresh in [
            ("none", 0),
            *((kind, refresh) for kind in KINDS for refresh in refreshes),
        ]:
            arms[block, kind, refresh] = _Arm(
                experiment, state.averaged, args, block, kind, refresh
            )
    say(f"compiling {len(arms)} samplers; then {args.repeats} rounds")
    raw = benches.in_turns({str(key): arm.seconds for key, arm in arms.items()}, args.repeats)
    rows = []
    for (block, kind, refresh), arm in arms.items():
        if kind != "none":
            plain = arms[block, "none", 0]
            same_BL = (arm.ids == plain.ids)[:, plain.begin :]
            ratio = benches.ratio(raw[str((block, kind, refresh))], raw[str((block, "none", 0))])
            until = float(np.cumprod(same_BL, 1).mean())
            rows.append(
                dict(
                    block=block,
                    kind=kind,
                    refresh=refresh,
                    agree=float(same_BL.mean()),
                    until=until,
                    seconds=ratio,
                    nfe=arm.nfe,
                )
            )
    first = next(iter(arms.values()))
    return dict(
        workdir=str(args.workdir),
        length=first.length,
        rows=args.rows,
        temperature=args.temperature,
        caches=rows,
    )


class _Arm:
    """One sampler, with what it wrote."""

    def __init__(self, experiment, params, args, block: int, kind: str, refresh: int):
        from dlm.core.config import build_member
        from dlm.samplers.plan import Cache, Sampler

        rule = build_member(dict(name="confident", confidence="top"), "samplers.rules")
        steps = args.steps or max(block // 2, 1)
        self.sampler = Sampler(
            rule, steps=steps, block=block, temperature=args.temperature, cache=Cache(kind, refresh)
        )
        self.experiment, self.params, self.rows = experiment, params, args.rows
        self.length = args.length or experiment.run.data.length
        self.begin, self.ids, self.nfe = self.length // 4, None, 0

    def seconds(self) -> float:
        import jax

        def once():
            done = jax.block_until_ready(self._generate(self.params, self._canvas))
            self.ids, self.nfe = np.asarray(done.canvas.z_BL), int(done.nfe)

        return sum(benches.seconds_each(once, 1))

    @functools.cached_property
    def _canvas(self):
        """Held-out texts, all but their first quarter hidden."""
        import jax.numpy as jnp

        from dlm.core.contracts import Canvas

        run, tokenizer = self.experiment.run, self.experiment.tokenizer
        texts = [
            ids
            for ids in tokenizer.encode_all(run.data.source.documents("held_out"))
            if len(ids) >= self.begin
        ][: self.rows]
        if len(texts) < self.rows:
            raise UserError(
                f"--rows={self.rows}: only {len(texts)} held-out texts have {self.begin} tokens to begin with"
            )
        z_BL = np.full((self.rows, self.length), run.nn.vocab.mask, np.int32)
        z_BL[:, : self.begin] = [ids[: self.begin] for ids in texts]
        anchors_BL = jnp.broadcast_to(jnp.arange(self.length) < self.begin, z_BL.shape)
        visibility = self.experiment.objective.visibility
        return Canvas(jnp.asarray(z_BL), jnp.ones(z_BL.shape), anchors_BL, visibility)

    @functools.cached_property
    def _generate(self):
        import jax

        from dlm.core import keys
        from dlm.samplers import generator

        experiment, objective, kind = (
            self.experiment,
            self.experiment.objective,
            self.sampler.cache.kind,
        )

        def run(params, canvas):
            memory = experiment.empty_cache(self.rows, self.length) if kind != "none" else None
            key_B = keys.per_sample(keys.root(0), jax.numpy.arange(self.rows))
            return generator.generate(
                experiment.net(params),
                self.sampler,
                objective.process,
                canvas,
                key_B,
                memory=memory,
            )

        return jax.jit(run)


def table(results: dict) -> list[str]:
    """The numbers for people."""
    lines = [
        f"\n{results['workdir']}: {results['rows']} samples of {results['length']} tokens at once, temperature {results['temperature']:g}",
        "  block  cache     refresh    tokens as without   up to the first other   seconds as a share   passes",
    ]
    for row in results["caches"]:
        named = f"  {row['block']:>5}  {row['kind']:<8} {row['refresh']:>8}"
        agree, until = f"{100 * row['agree']:>18.1f} %", f"{100 * row['until']:>20.1f} %"
        lines.append(
            f"{named} {agree} {until}   {benches.formatted(row['seconds']):<20} {row['nfe']:>6}"
        )
    return lines


if __name__ == "__main__":
    cli.main(main)
