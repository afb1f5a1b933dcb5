"""Measures a layer of experts, beside a dense FFN of equal active FLOPs.

python -m dlm.bench moge [--tokens=2048] [--width=256] [--experts=32] [--active=8] [--ffn=256]
                     [--only=blocks,capacity] [--repeats=5] [--devices=8] [--json]

    dense       one FFN of width active × ffn: the same FLOPs, without a router or a permutation
    loop, blocks, ragged, tokamax
                MoGE by each back end (`nn.expert_matmul`); tokamax where it is installed
    topk        the best of all experts, nothing dropped, by blocks
    capacity    the same with buffers of 1.25 × an even load; the rest is dropped
    few, many   MoGE by blocks with half and four times as many experts: its time follows K, not E

Reports seconds of forward and backward as multiples of dense's (`blocks`: at most 1.5) and
many / few (at most 1.3).

With --devices nothing is timed: MoGE, top-K with a capacity and top-K without are compiled for so
many (virtual) devices, one group of experts each. Then the temporary memory and the bytes that each
device sends are reported, in the forward pass and in both, for MoGE beside the closed form

    forward    x and y: 2 (n − 1) t D · size      picks and weights: (n − 1) t K (4 + 4)
    backward   the same again without the picks
"""

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.machine import allocator
from dlm.machine.config import MeshConfig

if TYPE_CHECKING:  # these load JAX, which --help need not
    import jax

    from dlm.nn.config import Experts

FLAGS = [
    Flag("tokens", "T, on each device", default=2048, type=int),
    Flag("width", "D", default=256, type=int),
    Flag("experts", "E", default=32, type=int),
    Flag("active", "K; as many groups", default=8, type=int),
    Flag("ffn", "F of an expert", default=256, type=int),
    Flag("only", "arms, by name (default: all)", default=""),
    Flag("repeats", "rounds", default=5, type=int),
    Flag(
        "devices", "compile for so many devices instead of timing", default=0, type=int
    ),
    Flag("json", "print one JSON object on stdout", type=bool),
]
LIMITS = dict(blocks=1.5, many=1.3)
ARMS = ("loop", "blocks", "ragged", "tokamax", "topk", "capacity", "few", "many")
MIB = 2**20

Results = dict[
    str, Any
]  # as --json prints them, with the lines for people under 'lines'
Bytes = dict[str, float]  # kind of collective → bytes that each device sends


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    sizes = (
        args.tokens,
        args.width,
        args.experts,
        args.active,
        args.ffn,
        args.repeats,
    )
    if min(sizes) < 1 or args.devices < 0:
        raise UserError(
            "--tokens, --width, --experts, --active, --ffn and --repeats must be at least 1, "
            "--devices not negative"
        )
    # 'few' has half as many experts, in as many groups.
    divided = args.experts % (2 * args.active) == 0
    if not divided or (args.devices and args.active % args.devices):
        raise UserError(
            f"--experts={args.experts} must be a multiple of 2 × --active={args.active}, "
            f"and --devices={args.devices} divide that"
        )
    results = exchanged(args) if args.devices else timed(args)
    for line in results.pop("lines"):
        say(line)
    if args.json:
        cli.emit(results)


# ------------------------------------------------------------------------------------------ timing


def timed(args: argparse.Namespace) -> Results:
    """Times forward and backward together, as multiples of the dense layer's time."""
    # The dense layer is always measured: it is the unit.
    arms = _arms(args.only)
    allocator.run_inline()  # as training does, so that freed memory is kept
    calls = {"dense": _call(args, None)}
    for name in arms:
        calls[name] = _call(args, _settings(args, name))
    say(f"compiling {', '.join(calls)}; then {args.repeats} rounds")
    # The better of two calls, as others may use the machine.
    measures = {name: partial(_seconds, call) for name, call in calls.items()}
    raw = benches.in_turns(measures, args.repeats)

    dense = benches.spread(raw["dense"])
    ratios = {name: benches.ratio(raw[name], raw["dense"]) for name in arms}
    sizes = (
        f"T={args.tokens} D={args.width} E={args.experts} K={args.active} F={args.ffn}"
    )
    lines = [
        f"\n{sizes}, forward and backward",
        f"  dense      {benches.formatted(dense, 1e3, 0)} ms",
    ]
    for name, ratio in ratios.items():
        limit = f"   (at most {LIMITS[name]})" if name == "blocks" else ""
        lines.append(f"  {name:<10} {benches.formatted(ratio)} × dense{limit}")
    results: Results = dict(
        limits=LIMITS,
        dense_seconds=dense,
        ratios=ratios,
        lines=lines,
    )
    # More experts of the same number of active ones should cost nothing.
    if "few" in arms and "many" in arms:
        ratio = benches.ratio(raw["many"], raw["few"])
        results["many_over_few"] = ratio
        # Half and four times as many experts: a factor of 8 between them.
        few = args.experts // 2
        many = 4 * args.experts
        limit = f"(at most {LIMITS['many']})"
        lines.append(f"  E={many} over E={few}: {benches.formatted(ratio)}   {limit}")
    return results


def _arms(only: str) -> list[str]:
    """Returns the arms that a flag names, by default all that are installed."""
    if not only:
        missing = importlib.util.find_spec("tokamax") is None
        return [name for name in ARMS if name != "tokamax" or not missing]
    for name in only.split(","):
        if name not in ARMS:
            raise UserError(f"--only: no arm {name!r}; there are {', '.join(ARMS)}")
    return only.split(",")


def _seconds(call: Callable[[], object]) -> float:
    return min(benches.seconds_each(call, 2))


def _settings(args: argparse.Namespace, name: str) -> "Experts":
    """Returns the experts' config of an arm."""
    from dlm.nn.config import Experts
    from dlm.nn.routers.moge import MoGE
    from dlm.nn.routers.topk import TopK

    number = args.experts
    settings = Experts(
        count=number,
        per_token=args.active,
        width=args.ffn,
        router=MoGE(groups=args.active),
        backend="blocks",
    )
    match name:
        case "loop" | "ragged" | "tokamax":
            return replace(settings, backend=name)
        case "topk":
            return replace(settings, router=TopK())
        case "capacity":
            return replace(settings, router=TopK(capacity=1.25))
        case "few":
            return replace(settings, count=number // 2)
        case "many":
            return replace(settings, count=4 * number)
    return settings


def _layer(
    args: argparse.Namespace,
    settings: "Experts | None",
    mesh: Any = None,
) -> tuple[Callable, Any, "jax.Array"]:
    """Returns (a function of parameters and x, parameters, x) of the experts or, None, of dense."""
    import jax
    import jax.numpy as jnp

    from dlm.nn import config, experts, ffn

    rows = mesh.size if mesh is not None else 1
    shape = rows, args.tokens, args.width
    x_BLD = jax.random.normal(jax.random.key(1), shape)
    key = jax.random.key(0)
    if settings is None:
        swiglu = config.FFN("swiglu", args.active * args.ffn)
        dense = ffn.FeedForward(swiglu, args.width, 1)
        return dense.apply, dense.init(key, x_BLD), x_BLD
    layer = experts.Experts(settings, "swiglu", args.width, 1, mesh)
    # No padding, and no masks, which routers may balance apart.
    valid_BL = jnp.ones((rows, args.tokens), bool)
    mask_ratio_B = jnp.zeros(rows)
    params = layer.init(key, x_BLD, valid_BL, mask_ratio_B)

    def apply(params, x_BLD):
        return layer.apply(params, x_BLD, valid_BL, mask_ratio_B)[0]

    return apply, params, x_BLD


def _call(args: argparse.Namespace, settings: "Experts | None") -> Callable[[], object]:
    import jax

    apply, params, x_BLD = _layer(args, settings)
    step = jax.jit(_gradient(apply))
    return lambda: jax.block_until_ready(step(params, x_BLD))


def _gradient(apply: Callable) -> Callable:
    """Returns the gradient of some function of the output, by parameters and input."""
    import jax
    import jax.numpy as jnp

    def loss(params, x_BLD):
        return jnp.sum(jnp.sin(apply(params, x_BLD)))

    return jax.grad(loss, (0, 1))


# --------------------------------------------------------------------------------- on many devices


def exchanged(args: argparse.Namespace) -> Results:
    """Reports memory and bytes per device of the compiled layer; nothing is run."""
    import jax

    jax.config.update("jax_num_cpu_devices", args.devices)
    present = len(jax.devices())
    if present < args.devices:
        text = f"there are {present} {jax.default_backend()} device(s)"
        raise UserError(f"--devices={args.devices}: {text}")
    arms = {}
    for name in ("moge", "capacity", "topk"):
        settings = _settings(args, name)
        arms[name] = costs(args, settings)
    sizes = f"D={args.width} E={args.experts} K={args.active} F={args.ffn} float32"
    lines = [f"\n{args.devices} devices, each T={args.tokens}; {sizes}"]
    for name, ways in arms.items():
        for way, cost in ways.items():
            temporaries = f"temporaries {cost['temporaries'] / MIB:8.2f} MiB"
            sent = _listed(cost["sent"])
            lines.append(f"  {name:<9} {way:<9} {temporaries}   sent {sent} MiB")
    form = closed_form(args)
    for way, sizes_by_kind in form.items():
        lines.append(f"  closed form of moge, {way}: {_listed(sizes_by_kind)}")
    return dict(devices=args.devices, arms=arms, closed_form=form, lines=lines)


def _listed(sizes: Bytes) -> str:
    return ", ".join(f"{kind} {size / MIB:.2f}" for kind, size in sorted(sizes.items()))


def costs(args: argparse.Namespace, settings: "Experts") -> dict[str, Results]:
    """Returns {forward, both: temporaries, bytes sent by kind} of one expert-parallel group."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from dlm.core import axes
    from dlm.machine import hlo, mesh

    devices = mesh.make(MeshConfig(data=1, expert=args.devices))
    # The same layer as in the timed arms.
    apply, params, x_BLD = _layer(args, settings, devices)
    # Each device has rows of its own, and a group of experts.
    rows = NamedSharding(devices, PartitionSpec(axes.BATCH))
    shardings = mesh.state_shardings(devices, params), rows
    forward = jax.jit(apply, in_shardings=shardings, out_shardings=rows)
    both = jax.jit(_gradient(apply), in_shardings=shardings, out_shardings=shardings)

    # Compiled from shapes alone: nothing is run on the devices.
    shapes = jax.eval_shape(lambda: (params, x_BLD))
    results = {}
    for way, step in dict(forward=forward, both=both).items():
        program = step.lower(*shapes).compile()
        # Temporaries are what the exchange needs beside arguments and results.
        memory = hlo.memory(program) or {}
        sent = hlo.collectives(program.as_text() or "")
        results[way] = dict(temporaries=memory["temporaries"], sent=sent)
    return results


def closed_form(args: argparse.Namespace) -> dict[str, Bytes]:
    """Returns the bytes that each device sends for MoGE, by kind.

    The router's own gradient is an all-reduce.
    """
    n = args.devices
    others = (n - 1) * args.tokens  # rows of the other devices
    tokens = others * 4 * args.width
    picks = others * 4 * args.active
    weights = picks
    router = 4 * args.experts * (args.width + 1)
    forward = {
        "all-gather": tokens + picks + weights,
        "reduce-scatter": tokens,
    }
    both = {
        "all-gather": 2 * tokens + picks + weights,
        "reduce-scatter": 2 * tokens + weights,
        "all-reduce": 2 * (n - 1) / n * router,
    }
    return dict(forward=forward, both=both)
