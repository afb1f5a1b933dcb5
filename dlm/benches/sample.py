"""Tokens per second of ways to sample, side by side, and what they cost in quality.

python -m dlm.bench sample --workdir=RUN [--ar=AR_RUN] [--block=BLOCK_RUN] [--only=dual,threshold-dual] [--length=256] [--rows=8]
                           [--steps=8] [--quality=1000] [--repeats=3] [--json]

    plain        the usual loop: on the host, every pass over the whole canvas, draws and confidences everywhere, no cache (as the
                 reference code of LLaDA does, arXiv:2502.09992): surest first in blocks of 32, --steps passes for each
    ARM          ours: the same rule without a cache and with each; ancestral; threshold with each cache; the autoregressive run with its
                 cache; speculation on a block run (--ar, --block)

Told are tokens/s as multiples of plain's (`dual`, `refreshed`: at least 5), the whole loop's seconds over those of as many bare forward
passes (without a cache: at most 1.15), and with --quality=N what the autoregressive run thinks of N samples, with their entropy, for plain,
`dual` and `refreshed` (dual, with the whole canvas read in every second pass): within 2 % of plain's.
"""

import functools
import time
from pathlib import Path

import numpy as np

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.intervals import half
from dlm.core.named import Place

FLAGS = [
    Flag("workdir", "run of a masked model", required=True, type=Place),
    Flag(
        "ar", "autoregressive run: one more arm, and the judge of quality", default="", type=Place
    ),
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
ARMS = {
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
OTHERS = dict(ar="ar", speculative="block")  # arms of other runs, and the flags that name these


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if min(args.length, args.rows, args.steps, args.repeats) < 1 or args.quality < 0:
        raise UserError(
            "--length, --rows, --steps and --repeats must be at least 1, and --quality not negative"
        )
    if args.quality and not args.ar:
        raise UserError("--quality needs a judge: --ar=RUN, the directory of an autoregressive run")
    wanted = _wanted(args)
    results = measure(args, wanted)
    for line in table(results):
        say(line)
    if args.json:
        cli.emit(results)


def _wanted(args) -> list[str]:
    known = [*ARMS, *(name for name, flag in OTHERS.items() if getattr(args, flag))]
    wanted = args.only.split(",") if args.only else known
    for name in wanted:
        if name not in known:
            missing = f": it needs --{OTHERS[name]}=RUN" if name in OTHERS else ""
            raise UserError(f"--only: no arm {name!r}{missing}; there are {', '.join(known)}")
    return wanted


def measure(args, wanted: list[str]) -> dict:
    """All numbers, as --json prints them."""
    from dlm.app.open_run import reopen

    experiment, state = reopen(Path(args.workdir))
    from dlm.nn.visibility import sees_all

    if not sees_all(experiment.objective.visibility):
        raise UserError(
            f"--workdir={args.workdir} is no masked model: its network must see the whole canvas"
        )
    plain = Plain(experiment, state.averaged, args)
    arms = {
        name: _Arm(experiment, state.averaged, args, _sampler(args, **ARMS[name]))
        for name in wanted
        if name in ARMS
    }
    arms |= {
        name: _other(name, getattr(args, OTHERS[name]), args) for name in wanted if name in OTHERS
    }
    say(f"compiling plain, {', '.join(arms)}; then {args.repeats} rounds")
    measures = {
        "plain": plain.seconds,
        **{name: arm.seconds for name, arm in arms.items()},
        "forward": plain.forward_seconds,
    }
    raw = benches.in_turns(measures, args.repeats)

    def speed(name):
        return [args.length * args.rows / s for s in raw[name]]

    results = dict(
        workdir=str(args.workdir),
        length=args.length,
        rows=args.rows,
        steps=args.steps,
        limits=LIMITS,
        plain=dict(tokens_per_s=benches.spread(speed("plain")), nfe=plain.nfe),
        forward_seconds=benches.spread(raw["forward"]),
        arms={
            name: dict(
                tokens_per_s=benches.spread(speed(name)),
                ratio=benches.ratio(raw["plain"], raw[name]),
                nfe=arm.nfe,
                loop=benches.ratio(raw[name], [arm.nfe * s for s in raw["forward"]]),
            )
            for name, arm in arms.items()
        },
    )
    if args.quality:
        judged = dict(
            plain=Plain(experiment, state.averaged, args, judged=True),
            **{n: arm for n, arm in arms.items() if n in JUDGED},
        )
        results["quality"] = {
            name: _judged(experiment, state.averaged, args, name, arm)
            for name, arm in judged.items()
        }
    return results


def _sampler(args, rule: str, cache: str, block: int = BLOCK, steps: int = 0, refresh: int = 0):
    from dlm.core.config import build_member
    from dlm.samplers.plan import Cache, Sampler

    return Sampler(
        build_member(rule, "samplers.rules"),
        steps=steps or args.steps,
        block=block,
        cache=Cache(cache, refresh),
    )


def _other(name: str, workdir: str, args) -> "_Arm":
    """An arm of another run, whose network has another order."""
    from dlm.app.open_run import reopen
    from dlm.samplers.plan import Sampler

    experiment, state = reopen(Path(workdir))
    from dlm.nn.visibility import is_autoregressive

    visibility = experiment.objective.visibility
    fits = is_autoregressive(visibility)
    if name == "speculative":
        fits = visibility.block is not None and visibility.streams == 2
    if not fits:
        kind = type(visibility).__module__.rpartition(".")[2]
        raise UserError(
            f"--{OTHERS[name]}={workdir} is not such a run: its network's attention is {kind!r}"
        )
    if name == "ar":
        sampler = Sampler(steps=1, block=1)
    else:
        sampler = Sampler(driver="speculative", steps=1, block=DRAFT)
    return _Arm(experiment, state.averaged, args, sampler)


class _Arm:
    """A sampler of ours."""

    def __init__(self, experiment, params, args, sampler):
        self.experiment, self.params, self.args, self.sampler, self.nfe = (
            experiment,
            params,
            args,
            sampler,
            0,
        )

    def draw(self, seed: int = 0) -> list[np.ndarray]:
        """Ids of `rows` samples. Ends of text do not end them, so that all arms write as many tokens."""
        import jax

        done = self._generate(self.params, self._keys(seed))
        self.nfe = int(done.nfe)
        return list(np.asarray(jax.block_until_ready(done.canvas.z_BL)))

    def seconds(self) -> float:
        return sum(benches.seconds_each(self.draw, 1))

    def _keys(self, seed: int):
        import jax.numpy as jnp

        from dlm.core import keys

        return keys.per_sample(keys.root(0), seed * self.args.rows + jnp.arange(self.args.rows))

    @functools.cached_property
    def _generate(self):
        import jax
        import jax.numpy as jnp

        from dlm.core.contracts import Canvas
        from dlm.noise.mask import MaskNoise
        from dlm.samplers import generator, plan

        experiment, (B, L) = self.experiment, (self.args.rows, self.args.length)
        visibility = experiment.objective.visibility
        process = experiment.objective.process or MaskNoise(vocab=experiment.run.nn.vocab)
        sampler = plan.resolve(self.sampler, process, visibility)

        def run(params, key_B):
            z_BL = jnp.full((B, L), process.vocab.mask, jnp.int32)
            canvas = Canvas(z_BL, jnp.ones((B, L)), jnp.zeros((B, L), bool), visibility)
            memory = None
            if plan.cache_kind(sampler, visibility) != "none":
                memory = experiment.empty_cache(B, L)
            net = experiment.net(params)
            return generator.generate(net, sampler, process, canvas, key_B, memory=memory)

        return jax.jit(run)


class Plain:
    """The usual loop, and one bare forward pass.

    `judged` is for its samples alone, whose law it keeps: each step is one program, and draws no noise where nothing can be revealed.
    """

    def __init__(self, experiment, params, args, judged: bool = False):
        import jax

        self.experiment, self.params, self.args = experiment, params, args
        self.nfe = -(-args.length // BLOCK) * args.steps
        self._step = jax.jit(self._in_block, static_argnames="count") if judged else self._revealed

    def draw(self, seed: int = 0) -> list[np.ndarray]:
        """Ids of `rows` samples: blocks from left to right, in each step the surest of what was drawn, at temperature 1."""
        import jax
        import jax.numpy as jnp

        vocab, (B, L), key = (
            self.experiment.run.nn.vocab,
            (self.args.rows, self.args.length),
            jax.random.key(seed),
        )
        z_BL = jnp.full((B, L), vocab.mask, jnp.int32)
        for block in range(0, L, BLOCK):
            counts = _shares(min(BLOCK, L - block), self.args.steps)
            for count in filter(None, counts):
                key, now = jax.random.split(key)
                z_BL = self._step(
                    z_BL, self._forward(self.params, z_BL), now, block + BLOCK, count=count
                )
        return list(np.asarray(z_BL))

    def _in_block(self, z_BL, logits_BLV, key, end, *, count: int):
        """The same, of the block alone: what stands before it has been revealed, and what comes after it is not."""
        import jax

        width = min(BLOCK, z_BL.shape[1])
        begin = jax.numpy.minimum(end - BLOCK, z_BL.shape[1] - width)
        z_BW, logits_BWV = (
            jax.lax.dynamic_slice_in_dim(x, begin, width, 1) for x in (z_BL, logits_BLV)
        )
        return jax.lax.dynamic_update_slice_in_dim(
            z_BL, self._revealed(z_BW, logits_BWV, key, end - begin, count=count), begin, 1
        )

    def _revealed(self, z_BL, logits_BLV, key, end, *, count: int):
        """z with the `count` surest masks before `end` revealed in each row."""
        import jax
        import jax.numpy as jnp

        (B, L), mask = z_BL.shape, self.experiment.run.nn.vocab.mask
        drawn_BL = jnp.argmax(
            logits_BLV + jax.random.gumbel(key, logits_BLV.shape, mode="high"), -1
        )
        p_BL = jnp.take_along_axis(jax.nn.softmax(logits_BLV, -1), drawn_BL[..., None], -1)[..., 0]
        open_BL = (z_BL == mask) & (jnp.arange(L) < end)
        sure_BL = jnp.where(open_BL, p_BL, -jnp.inf)
        for b in range(B):
            row_index = jax.lax.top_k(sure_BL[b], count)[1]
            z_BL = z_BL.at[b, row_index].set(drawn_BL[b, row_index].astype(jnp.int32))
        return z_BL

    def seconds(self) -> float:
        return sum(benches.seconds_each(self.draw, 1))

    def forward_seconds(self) -> float:
        """Of one jitted forward pass over the whole canvas, the median of some."""
        import jax
        import jax.numpy as jnp

        z_BL = jnp.full(
            (self.args.rows, self.args.length), self.experiment.run.nn.vocab.mask, jnp.int32
        )
        return float(
            np.median(
                benches.seconds_each(
                    lambda: jax.block_until_ready(self._forward(self.params, z_BL)), 8
                )
            )
        )

    @functools.cached_property
    def _forward(self):
        import jax
        import jax.numpy as jnp

        from dlm.core.contracts import Canvas

        def logits(params, z_BL):
            open_BL = jnp.zeros(z_BL.shape, bool)
            visibility = self.experiment.objective.visibility
            canvas = Canvas(z_BL, jnp.ones(z_BL.shape), open_BL, visibility)
            return self.experiment.net(params)(canvas).prediction.logits_BLV

        return jax.jit(logits)


def _shares(n: int, steps: int) -> list[int]:
    """How many of n positions each step reveals: as equal as can be, the larger first."""
    return [n // steps + (k < n % steps) for k in range(steps)]


def _judged(experiment, params, args, name: str, arm) -> dict:
    """What the judge thinks of an arm's samples, their entropy, and the standard errors."""
    from dlm.app.context import RunContext
    from dlm.core.intervals import jackknife
    from dlm.evals import gen_ppl, samples

    subject = RunContext(experiment, params, experiment.run.data.source)
    begin, ids_N = time.perf_counter(), []
    for seed in range(-(-args.quality // args.rows)):
        ids_N += arm.draw(seed)
        if len(ids_N) % 100 < args.rows:
            say(
                f"{name}: {len(ids_N)} of {args.quality} samples, {time.perf_counter() - begin:.0f} s"
            )
    ids_N, tokenizer = ids_N[: args.quality], subject.tokenizer
    rows_N6 = gen_ppl.judged(subject.open_run(args.ar), ids_N, tokenizer)
    nll = jackknife(lambda rows: rows[:, 0].sum() / rows[:, 2].sum(), rows_N6)
    entropy = next(v for name, *v in samples.variety(ids_N, tokenizer.vocab) if name == "entropy")
    results = dict(
        nll=nll[0],
        nll_se=nll[1],
        entropy=entropy[0],
        entropy_se=entropy[1],
        seconds=time.perf_counter() - begin,
    )
    say(_quality(name, results))  # at once: it may have taken a quarter of an hour
    return results


def _quality(name: str, q: dict) -> str:
    nll, entropy = (
        f"{q[score]:.4f} ± {half(q[score], q[f'{score}_se']):.4f}" for score in ("nll", "entropy")
    )
    return (
        f"  quality of {name:<9} {nll} nats/token, entropy {entropy} (± half of the 95 % interval)"
    )


def table(results: dict) -> list[str]:
    """The numbers for people."""
    plain = results["plain"]
    lines = [
        f"\n{results['workdir']}: {results['rows']} samples of {results['length']} tokens at once",
        f"  forward            {benches.formatted(results['forward_seconds'], 1e3, 1)} ms, one bare pass",
        f"  plain              {benches.formatted(plain['tokens_per_s'], 1, 0):<22} tokens/s   {plain['nfe']:>4} passes",
    ]
    for name, arm in results["arms"].items():
        limit = (
            f" (at most {LIMITS['loop']})"
            if name in ("none", "ancestral", "threshold-none")
            else ""
        )
        speed = f" (at least {LIMITS['speed']:g})" if name in JUDGED else ""
        lines.append(
            f"  {name:<18} {benches.formatted(arm['tokens_per_s'], 1, 0):<22} tokens/s   {arm['nfe']:>4} passes   "
            f"{benches.formatted(arm['ratio'], 1, 1)} × plain{speed}, {benches.formatted(arm['loop'])} × its bare passes{limit}"
        )
    lines += [_quality(name, q) for name, q in results.get("quality", {}).items()]
    return lines


if __name__ == "__main__":
    cli.main(main)
