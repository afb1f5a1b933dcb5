"""Measures a training run's parts against what they could be.

python -m dlm.bench train [--config=RECIPE:args] [--config.FIELD=VALUE …] [--peer=torch]
                    [--repeats=N] [--startup] [--json]

The update is compared with the matmul peak, the loop with the update, sampling with its passes.
Every round measures each part once, one after another (see `dlm.benches`). The share of peak is the
model's FLOPs over the fastest update of the round, divided by the best matmul of the same round;
with bfloat16 on an accelerator it is the model FLOPs utilisation (MFU).
"""

import functools
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

if TYPE_CHECKING:  # it loads JAX, which --help need not
    from dlm.benches.training.trial import Trial

Results = dict[str, Any]  # as --json prints them
Raw = dict[str, list]  # part → its value in each round

RECIPES = (
    "configs/quickstart.py:objective=masked",
    "configs/quickstart.py:objective=ar",
    "configs/masked.py:size=small",
)
_FILES = (Path(__file__).parent / "peers").glob("*.py")
PEERS = tuple(path.stem for path in _FILES if path.stem != "__init__")
_CONFIG_HELP = (
    "recipe file with its arguments (default: the quickstart's two models, and small)"
)
FLAGS = [
    Flag("config", _CONFIG_HELP, type=Place),
    Flag(
        "peer", "time a twin of the model in another framework as well", choices=PEERS
    ),
    Flag("repeats", "rounds", default=5, type=int),
    Flag(
        "startup",
        "also from the command to the first update, of the first config",
        type=bool,
    ),
    Flag("json", "print one JSON object on stdout", type=bool),
]
# Requirements for `small` on 2 cores; `peer` is an aim.
LIMITS = dict(
    share=0.5,
    loop=1.05,
    sampling=1.15,
    peer=0.85,
)
PHASES = dict(data="data wait", step="step", eval="eval", save="save")


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} must be at least 1")
    targets = [args.config] if args.config else list(RECIPES)
    runs = [build_run(cli.load_config(target, overrides)) for target in targets]
    peer = None
    if args.peer:
        peer = importlib.import_module(f"dlm.benches.peers.{args.peer}")
    results: Results = {}
    # Before this process takes the accelerator.
    if args.startup:
        from dlm.benches import startup

        results["startup"] = startup.measure(targets[0], overrides, 1)
        say(startup.table(results["startup"]))

    from dlm.runs import directory

    machine = directory.environment()
    # Side by side in one run: seconds of different days say little on a shared machine.
    devices = f"{', '.join(machine['devices'])}, {machine['cores']} cores, jax {machine['jax']}"
    say(f"{devices}; medians (ranges) of {args.repeats} rounds")
    models = []
    for target, run in zip(targets, runs, strict=True):
        model = measure(target, run, args.repeats, peer)
        models.append(model)
        say(table(model))
    if args.json:
        cli.emit(results | dict(machine=machine, models=models))


def measure(
    target: str,
    run: Run,
    rounds: int,
    peer: Any = None,
) -> Results:
    """Returns all numbers of one model, as --json prints them."""
    from dlm.benches.training.trial import Trial

    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(run, Path(folder))
        # A twin has the same parameters and batch.
        twin = None
        if peer is not None:
            twin = peer.Twin(trial.experiment, trial.params, trial.batch)
        raw = benches.in_turns(_measures(trial, run, twin), rounds)
        trial.logs.close()
    results = report(target, run, trial, raw)
    if twin is not None:
        results["peer"] = peer_report(twin, raw)
    return results


def _measures(trial: "Trial", run: Run, twin: Any) -> dict[str, Callable]:
    """Returns the parts in the order in which a round measures them."""
    measures: dict[str, Callable] = {}
    # float32 first: others state their shares of its peak.
    for dtype in dict.fromkeys(("float32", run.nn.compute.dtype)):
        measures[f"peak.{dtype}"] = functools.partial(trial.peak, dtype)
    measures |= dict(bare=trial.bare, loop=trial.loop)
    if twin is not None:
        measures["peer"] = functools.partial(trial.fastest, twin.update)
    # An autoregressive model's passes are not of the whole canvas.
    if trial.fills_canvas:
        measures |= dict(passes=trial.passes, sampling=trial.sampling)
    return measures


# ----------------------------------------------------------------------------------------- results


def report(
    target: str,
    run: Run,
    trial: "Trial",
    raw: Raw,
) -> Results:
    """Summarises the rounds; every ratio is taken within a round."""
    import jax

    # The peak of each dtype, measured in the same rounds.
    peaks = {}
    for name, values in raw.items():
        if name.startswith("peak."):
            peaks[name.removeprefix("peak.")] = values
    results: Results = dict(
        config=target,
        parameters=sum(x.size for x in jax.tree.leaves(trial.params)),
        dtype=run.nn.compute.dtype,
        batch=run.data.batch,
        length=run.data.length,
        flops_per_update=trial.flops,
        peak_flops_per_s={
            dtype: benches.spread(values) for dtype, values in peaks.items()
        },
        step=_step(run, trial.flops, raw, peaks),
        loop=_loop(trial.updates, raw),
        limits=LIMITS,
    )
    if "sampling" in raw:
        results["sampling"] = _sampling(trial, raw)
    return results


def _step(
    run: Run,
    flops: float,
    raw: Raw,
    peaks: Raw,
) -> Results:
    # The fastest update of a round: the others were disturbed.
    fastest = [min(seconds) for seconds in raw["bare"]]
    tokens = run.data.batch * run.data.length
    speed = [flops / seconds for seconds in fastest]
    return dict(
        seconds=benches.spread(fastest),
        tokens_per_s=benches.spread([tokens / seconds for seconds in fastest]),
        flops_per_s=benches.spread(speed),
        share=benches.ratio(speed, peaks[run.nn.compute.dtype]),
        share_of_float32=benches.ratio(speed, peaks["float32"]),
    )


def _loop(updates: int, raw: Raw) -> dict:
    rounds = raw["loop"]
    bare = [sum(seconds) for seconds in raw["bare"]]
    # The share of time in which the device had nothing to do.
    waiting = [phases["data"] for phases in rounds]
    # The cost of an update in the loop, without evaluating and saving.
    looped = [phases["data"] + phases["step"] for phases in rounds]
    seconds = {}
    for name in (*PHASES, "all"):
        seconds[name] = benches.spread([phases.get(name, 0.0) for phases in rounds])
    # Shares are of the whole loop, evaluation and saving included.
    whole = seconds["all"]["median"]
    return dict(
        ratio=benches.ratio(looped, bare),
        updates=updates,
        data_share=benches.ratio(waiting, looped),
        phases_seconds=seconds,
        phases_share={
            name: spread["median"] / whole for name, spread in seconds.items()
        },
    )


def _sampling(trial: "Trial", raw: Raw) -> dict:
    from dlm.benches.training.trial import ROWS

    return dict(
        ratio=benches.ratio(raw["sampling"], raw["passes"]),
        rows=ROWS,
        steps=trial.steps,
        pass_seconds=benches.spread(raw["passes"]),
    )


def peer_report(twin: Any, raw: Raw) -> Results:
    """Compares the twin with us: a ratio above 1 means that we are faster."""
    # Both are the fastest of the same round.
    theirs = raw["peer"]
    ours = [min(seconds) for seconds in raw["bare"]]
    return dict(
        name=twin.name,
        ratio=benches.ratio(theirs, ours),
        seconds=benches.spread(theirs),
        parameters=twin.parameters,
        logits_difference=twin.difference,
    )


# ------------------------------------------------------------------------------------------- table


def table(model: Results) -> str:
    """Formats one model's numbers for people."""
    name = f"{model['parameters'] / 1e6:.2f}M parameters"
    shape = f"{model['batch']} × {model['length']} tokens"
    lines = [f"\n{model['config']}: {name}, {shape}, {model['dtype']}"]
    lines += _update_lines(model)
    lines += _loop_lines(model["loop"])
    if "sampling" in model:
        lines.append(_sampling_line(model["sampling"], model["length"]))
    if "peer" in model:
        lines += _peer_lines(model["peer"])
    return "\n".join(lines)


def _update_lines(model: Results) -> list[str]:
    step, dtype = model["step"], model["dtype"]
    peaks = []
    for name, values in model["peak_flops_per_s"].items():
        peaks.append(f"{name} {benches.formatted(values, 1e-9, 0)}")
    # In bfloat16 the share of float32's peak says more on a CPU.
    shares = [f"{benches.formatted(step['share'], 100, 0, ' %')} of the {dtype} peak"]
    if dtype != "float32":
        shares.append(
            f"{benches.formatted(step['share_of_float32'], 100, 0, ' %')} of float32's"
        )
    milliseconds = benches.formatted(step["seconds"], 1e3, 1)
    tokens = benches.formatted(step["tokens_per_s"], 1, 0)
    speed = benches.formatted(step["flops_per_s"], 1e-9, 1)
    limit = f"(small: ≥ {LIMITS['share']:.0%})"
    return [
        f"  peak       {', '.join(peaks)} GFLOP/s, best large matmul",
        f"  update     {milliseconds} ms, {tokens} tokens/s",
        f"             {speed} GFLOP/s, {', '.join(shares)} {limit}",
    ]


def _loop_lines(loop: Results) -> list[str]:
    phases = []
    for key, name in PHASES.items():
        seconds = loop["phases_seconds"][key]["median"]
        share = 100 * loop["phases_share"][key]
        phases.append(f"{name} {seconds:.3g} s ({share:.1f} %)")
    ratio = benches.formatted(loop["ratio"], digits=3)
    return [
        f"  loop       {ratio} × the bare update (at most {LIMITS['loop']})",
        f"  phases     {', '.join(phases)}, in {loop['updates']} updates",
    ]


def _sampling_line(sampling: Results, length: int) -> str:
    ratio = benches.formatted(sampling["ratio"], digits=3)
    shape = f"{sampling['steps']} passes of {sampling['rows']} × {length}"
    milliseconds = benches.formatted(sampling["pass_seconds"], 1e3, 1)
    limit = f"(at most {LIMITS['sampling']})"
    return f"  sampling   {ratio} × its forward passes {limit}; {shape}, {milliseconds} ms each"


def _peer_lines(peer: Results) -> list[str]:
    ratio = benches.formatted(peer["ratio"])
    milliseconds = benches.formatted(peer["seconds"], 1e3, 1)
    agreement = f"logits agree to {peer['logits_difference']:.1e}"
    return [
        f"  peer       {ratio} × the speed of {peer['name']} (aim {LIMITS['peer']}), "
        f"whose update takes {milliseconds} ms; {agreement}"
    ]


if __name__ == "__main__":
    cli.main(main)
