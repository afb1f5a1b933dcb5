"""A training run's parts against what they could be: update against matmul peak, loop against update, sampling against its passes.

python -m dlm.bench train [--config=RECIPE:args] [--config.FIELD=VALUE …] [--peer=torch] [--repeats=N] [--startup] [--json]

Every round measures each part once, one after another (see `dlm.benches`). The share of peak is the model's FLOPs over the fastest
update of the round, divided by the best matmul of the same round; with bfloat16 on an accelerator it is what others call MFU.
"""

import dataclasses
import functools
import importlib
import io
import tempfile
import time
from pathlib import Path

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

RECIPES = (
    "configs/quickstart.py:objective=masked",
    "configs/quickstart.py:objective=ar",
    "configs/masked.py:size=small",
)
PEERS = tuple(
    p.stem for p in (Path(__file__).parent / "peers").glob("*.py") if p.stem != "__init__"
)
FLAGS = [
    Flag(
        "config",
        "recipe file with its arguments (default: the quickstart's two models, and small)",
        type=Place,
    ),
    Flag("peer", "time a twin of the model in another framework as well", choices=PEERS),
    Flag("repeats", "rounds", default=5, type=int),
    Flag("startup", "also from the command to the first update, of the first config", type=bool),
    Flag("json", "print one JSON object on stdout", type=bool),
]
LIMITS = dict(
    share=0.5, loop=1.05, sampling=1.15, peer=0.85
)  # what must hold of `small` on 2 cores; `peer` is an aim
ROWS = 4
BLOCK = 6.0  # seconds that one part may take in one round
LONGEST = dict(updates=40, passes=64)  # of one part in one round
EVAL_BATCHES = 1
LARGEST_SAVE = 4e9  # bytes: writing more would measure the disk for minutes


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} must be at least 1")
    targets = [args.config] if args.config else list(RECIPES)
    runs = [_run(target, overrides) for target in targets]
    peer = importlib.import_module(f"dlm.benches.peers.{args.peer}") if args.peer else None
    results = {}
    if args.startup:  # before this process takes the accelerator
        from dlm.benches import startup

        results["startup"] = startup.measure(targets[0], overrides, 1)
        say(startup.table(results["startup"]))

    from dlm.runs import directory

    results["machine"] = directory.environment()
    machine = results["machine"]
    say(
        f"{', '.join(machine['devices'])}, {machine['cores']} cores, jax {machine['jax']}; medians (ranges) of {args.repeats} rounds"
    )
    results["models"] = []
    for target, run in zip(targets, runs, strict=True):
        results["models"].append(model := measure(target, run, args.repeats, peer))
        say(table(model))
    if args.json:
        cli.emit(results)


def _run(target: str, overrides: list[tuple[str, str]]) -> Run:
    config = cli.load_config(target, overrides)
    return build_run(config)


def measure(target: str, run: Run, rounds: int, peer=None) -> dict:
    """All numbers of one model, as --json prints them."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(run, Path(folder))
        twin = peer.Twin(trial.experiment, trial.params, trial.batch) if peer else None
        measures = {
            f"peak.{dtype}": lambda dtype=dtype: trial.peak(dtype)
            for dtype in dict.fromkeys(("float32", run.nn.compute.dtype))
        }
        measures |= dict(bare=trial.bare, loop=trial.loop)
        if twin:
            measures["peer"] = lambda: min(trial.timed(twin.update))
        if trial.objective.mask.kind == "full":
            measures |= dict(passes=trial.passes, sampling=trial.sampling)
        raw = benches.in_turns(measures, rounds)
        trial.logs.close()
    results = report(target, run, trial, raw)
    if twin:
        results["peer"] = peer_report(twin, raw)
    return results


class Trial:
    """One model with its data, ready to be timed part by part. The training state goes from part to part."""

    def __init__(self, run: Run, folder: Path):
        import jax
        import jax.numpy as jnp
        import orbax.checkpoint  # noqa: F401 — its import is not part of a save

        from dlm.app.experiment import Experiment
        from dlm.runs.logs import Logs

        limited = {
            k: _limited(evaluator, EVAL_BATCHES * run.data.batch)
            for k, evaluator in run.evals.items()
        }
        self.run = run = dataclasses.replace(run, evals=limited)
        self.experiment = Experiment(run, run.text.fit(run.data.source.documents("train")))
        self.objective = self.experiment.objective
        self.state = self.experiment.new_state()
        self.params = jax.tree.map(jnp.copy, self.state.averaged)
        self.batches = self.experiment.batches(0)
        self.batch = next(self.batches)
        self.bytes = sum(x.nbytes for x in jax.tree.leaves(self.state))
        self.flops = run.flops_per_token * run.data.batch * run.data.length
        self.logs = Logs(folder, 0, run.steps, io.StringIO())
        self.folder, self.saves = folder, 0
        self.peaks: dict[str, float] = {}
        self.updates, self.untimed = 1, 1
        self.updates = _fitting(max(self.bare()), LONGEST["updates"])
        self.untimed = int(self.updates > 1)  # a long update warms itself up
        self.steps = 2
        if self.objective.mask.kind == "full":
            self.steps = max(2, _fitting(self.passes(), LONGEST["passes"]))
        self.evaluate(self.state, 0)

    def peak(self, dtype: str) -> float:
        """FLOP/s of the best large matmul, now."""
        from dlm.machine import peak_flops

        self.peaks[dtype] = peak_flops.measure(dtype)
        return self.peaks[dtype]

    def bare(self) -> list[float]:
        """Seconds of each jitted update on one batch that is already on the device."""
        import jax

        def once():
            self.state, sums = self.experiment.update(self.state, self.batch)
            jax.block_until_ready((self.state, sums))

        return self.timed(once)

    def timed(self, call) -> list[float]:
        """Seconds of each call of a round, after one that is not counted where calls are short."""
        return benches.seconds_each(call, self.untimed + self.updates)[self.untimed :]

    def loop(self) -> dict[str, float]:
        """Seconds of each phase of the real loop over as many updates, and in all."""
        from dlm.runs import checkpoint
        from dlm.training import loop

        self.saves += 1
        store = checkpoint.Store(self.folder / f"save{self.saves}")
        began = time.perf_counter()
        self.state, phases = loop.train(
            self.state,
            self.experiment.update,
            self.batches,
            start=0,
            steps=self.updates,
            every=dataclasses.replace(self.run.every, eval=self.updates, save=0),
            logs=self.logs,
            flops_per_token=self.run.flops_per_token,
            peak=self.peaks[self.run.nn.compute.dtype],
            evaluate=self.evaluate,
            save=store.save if self.bytes <= LARGEST_SAVE else lambda step, state: None,
        )
        seconds = dict(phases.seconds, all=time.perf_counter() - began)
        store.close()  # waits for the disk, so that the next part has the machine to itself
        return seconds

    def evaluate(self, state, step: int) -> dict:
        from dlm.app.context import RunContext

        subject = RunContext(self.experiment, state.averaged, self.run.data.source)
        return {
            name: value for e in self.run.evals.values() for name, value, _ in e.run(subject, step)
        }

    def sampling(self) -> float:
        """Seconds from requests to replies, per forward pass: ancestral, the whole canvas at once."""
        from dlm.samplers.requests import Request

        requests = [Request.prompt("", self.run.data.length)] * ROWS
        began = time.perf_counter()
        replies = self._generator(requests)
        return (time.perf_counter() - began) / replies[0].nfe

    def passes(self) -> float:
        """Seconds of one jitted forward pass over a canvas of the same shape."""
        import jax

        seconds = benches.seconds_each(
            lambda: jax.block_until_ready(self._forward(self.params)), self.steps // 2 + 1
        )[1:]
        return sum(seconds) / len(seconds)

    @functools.cached_property
    def _generator(self):
        from dlm.samplers.plan import Sampler
        from dlm.samplers.rules.ancestral import Ancestral

        return self.experiment.generator(self.params, Sampler(rule=Ancestral(), steps=self.steps))

    @functools.cached_property
    def _forward(self):
        import jax
        import jax.numpy as jnp

        from dlm.core.contracts import Canvas

        z_BL = jnp.full((ROWS, self.run.data.length), self.run.nn.vocab.mask, jnp.int32)
        canvas = Canvas(z_BL, jnp.ones(z_BL.shape), jnp.zeros(z_BL.shape, bool))
        forward = jax.jit(
            lambda params, canvas: (
                self.experiment.denoise(params, canvas, mask=self.objective.mask).prediction
            )
        )
        return functools.partial(forward, canvas=canvas)


def _fitting(seconds: float, most: int) -> int:
    """How many calls of that many seconds fill one part of a round."""
    return max(1, min(most, int(BLOCK / seconds)))


def _limited(evaluator, windows: int):
    """The evaluator on a few windows, where it counts them."""
    return (
        dataclasses.replace(evaluator, windows=windows)
        if hasattr(evaluator, "windows")
        else evaluator
    )


def report(target: str, run: Run, trial: Trial, raw: dict) -> dict:
    """Rounds boiled down: every ratio is taken within a round."""
    import jax

    fastest = [min(seconds) for seconds in raw["bare"]]
    speed = [trial.flops / s for s in fastest]
    tokens = run.data.batch * run.data.length
    peaks = {
        name.removeprefix("peak."): values
        for name, values in raw.items()
        if name.startswith("peak.")
    }
    looped = [phases["data"] + phases["step"] for phases in raw["loop"]]
    phases = {
        name: benches.spread([p.get(name, 0.0) for p in raw["loop"]])
        for name in ("data", "step", "eval", "save", "all")
    }
    results = dict(
        config=target,
        parameters=sum(x.size for x in jax.tree.leaves(trial.params)),
        dtype=run.nn.compute.dtype,
        batch=run.data.batch,
        length=run.data.length,
        flops_per_update=trial.flops,
        peak_flops_per_s={dtype: benches.spread(values) for dtype, values in peaks.items()},
        step=dict(
            seconds=benches.spread(fastest),
            tokens_per_s=benches.spread([tokens / s for s in fastest]),
            flops_per_s=benches.spread(speed),
            share=benches.ratio(speed, peaks[run.nn.compute.dtype]),
            share_of_float32=benches.ratio(speed, peaks["float32"]),
        ),
        loop=dict(
            ratio=benches.ratio(looped, [sum(seconds) for seconds in raw["bare"]]),
            updates=trial.updates,
            data_share=benches.ratio([p["data"] for p in raw["loop"]], looped),
            phases_seconds=phases,
            phases_share={k: v["median"] / phases["all"]["median"] for k, v in phases.items()},
        ),
        limits=LIMITS,
    )
    if "sampling" in raw:
        results["sampling"] = dict(
            ratio=benches.ratio(raw["sampling"], raw["passes"]),
            rows=ROWS,
            steps=trial.steps,
            pass_seconds=benches.spread(raw["passes"]),
        )
    return results


def peer_report(twin, raw: dict) -> dict:
    """The twin against us: a ratio above 1 says that we are faster."""
    theirs = raw["peer"]
    return dict(
        name=twin.name,
        ratio=benches.ratio(theirs, [min(seconds) for seconds in raw["bare"]]),
        seconds=benches.spread(theirs),
        parameters=twin.parameters,
        logits_difference=twin.difference,
    )


def table(m: dict) -> str:
    """One model's numbers for people."""
    step, loop, dtype = m["step"], m["loop"], m["dtype"]
    peaks = ", ".join(
        f"{d} {benches.formatted(v, 1e-9, 0)}" for d, v in m["peak_flops_per_s"].items()
    )
    shares = [f"{benches.formatted(step['share'], 100, 0, ' %')} of the {dtype} peak"]
    if dtype != "float32":
        shares.append(f"{benches.formatted(step['share_of_float32'], 100, 0, ' %')} of float32's")
    phases = ", ".join(
        f"{name} {loop['phases_seconds'][k]['median']:.3g} s ({100 * loop['phases_share'][k]:.1f} %)"
        for k, name in dict(data="data wait", step="step", eval="eval", save="save").items()
    )
    lines = [
        f"\n{m['config']}: {m['parameters'] / 1e6:.2f}M parameters, {m['batch']} × {m['length']} tokens, {dtype}",
        f"  peak       {peaks} GFLOP/s, best large matmul",
        f"  update     {benches.formatted(step['seconds'], 1e3, 1)} ms, {benches.formatted(step['tokens_per_s'], 1, 0)} tokens/s",
        f"             {benches.formatted(step['flops_per_s'], 1e-9, 1)} GFLOP/s, {', '.join(shares)} (small: ≥ {LIMITS['share']:.0%})",
        f"  loop       {benches.formatted(loop['ratio'], digits=3)} × the bare update (at most {LIMITS['loop']})",
        f"  phases     {phases}, in {loop['updates']} updates",
    ]
    if "sampling" in m:
        s = m["sampling"]
        shape = f"{s['steps']} passes of {s['rows']} × {m['length']}, {benches.formatted(s['pass_seconds'], 1e3, 1)} ms each"
        lines.append(
            f"  sampling   {benches.formatted(s['ratio'], digits=3)} × its forward passes (at most {LIMITS['sampling']}); {shape}"
        )
    if "peer" in m:
        p = m["peer"]
        lines.append(
            f"  peer       {benches.formatted(p['ratio'])} × the speed of {p['name']} (aim {LIMITS['peer']}), whose update takes "
            f"{benches.formatted(p['seconds'], 1e3, 1)} ms; logits agree to {p['logits_difference']:.1e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.main(main)
