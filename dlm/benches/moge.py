"""The layer of experts: forward and backward beside a dense FFN of equal active FLOPs; with --devices=N, what an N-device mesh must send.

python -m dlm.bench moge [--tokens=2048] [--width=256] [--experts=32] [--active=8] [--ffn=256] [--only=blocks,capacity] [--repeats=5]
                         [--devices=8] [--json]

    dense          one FFN of width active × ffn: the same matrices' FLOPs, without a router, without a permutation
    loop, blocks, ragged, tokamax     MoGE by each back end (`nn.expert_matmul`); tokamax where it is installed
    topk           the best of all experts, nothing dropped, by blocks;  capacity: buffers of 1.25 × an even load, what is over is dropped
    few, many      MoGE by blocks with half and with four times as many experts: its time follows K, not E

Told are seconds as multiples of dense's (`blocks`: at most 1.5) and many / few (at most 1.3). With --devices nothing is timed: MoGE, top-K
with a capacity and top-K without are compiled for so many (virtual) devices, one group of experts each, and told are the temporary
memory and the bytes that each device sends in the forward pass and in both, for MoGE beside the closed form

    forward   x and y: 2 (n − 1) t D · size      picks and weights: (n − 1) t K (4 + 4)         backward   the same again without the picks
"""

import importlib.util
from functools import partial

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.machine import allocator
from dlm.machine.config import MeshConfig

FLAGS = [
    Flag("tokens", "T, on each device", default=2048, type=int),
    Flag("width", "D", default=256, type=int),
    Flag("experts", "E", default=32, type=int),
    Flag("active", "K; as many groups", default=8, type=int),
    Flag("ffn", "F of an expert", default=256, type=int),
    Flag("only", "arms, by name (default: all)", default=""),
    Flag("repeats", "rounds", default=5, type=int),
    Flag("devices", "compile for so many devices instead of timing", default=0, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
LIMITS = dict(blocks=1.5, many=1.3)
ARMS = ("loop", "blocks", "ragged", "tokamax", "topk", "capacity", "few", "many")


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if (
        min(args.tokens, args.width, args.experts, args.active, args.ffn, args.repeats) < 1
        or args.devices < 0
    ):
        raise UserError(
            "--tokens, --width, --experts, --active, --ffn and --repeats must be at least 1, --devices not negative"
        )
    if args.experts % (2 * args.active) or args.devices and args.active % args.devices:
        raise UserError(
            f"--experts={args.experts} must be a multiple of 2 × --active={args.active}, and --devices={args.devices} divide that"
        )
    results = exchanged(args) if args.devices else timed(args)
    for line in results.pop("lines"):
        say(line)
    if args.json:
        cli.emit(results)


def timed(args) -> dict:
    """Seconds of forward and backward together, as multiples of the dense layer's."""
    wanted = (
        args.only.split(",")
        if args.only
        else [a for a in ARMS if a != "tokamax" or importlib.util.find_spec("tokamax")]
    )
    for name in wanted:
        if name not in ARMS:
            raise UserError(f"--only: no arm {name!r}; there are {', '.join(ARMS)}")
    allocator.run_inline()  # as training does, so that freed memory is kept
    calls = {"dense": _call(args, None)} | {
        name: _call(args, _settings(args, name)) for name in wanted
    }
    say(f"compiling {', '.join(calls)}; then {args.repeats} rounds")
    raw = benches.in_turns(
        {name: partial(_seconds, call) for name, call in calls.items()}, args.repeats
    )
    ratios = {name: benches.ratio(raw[name], raw["dense"]) for name in wanted}
    lines = [
        f"\nT={args.tokens} D={args.width} E={args.experts} K={args.active} F={args.ffn}, forward and backward"
    ]
    lines.append(f"  dense      {benches.formatted(benches.spread(raw['dense']), 1e3, 0)} ms")
    for name in wanted:
        limit = f"   (at most {LIMITS[name]})" if name == "blocks" else ""
        lines.append(f"  {name:<10} {benches.formatted(ratios[name])} × dense{limit}")
    results = dict(limits=LIMITS, dense_seconds=benches.spread(raw["dense"]), ratios=ratios)
    if {"few", "many"} <= set(wanted):
        results["many_over_few"] = benches.ratio(raw["many"], raw["few"])
        few, many = args.experts // 2, 4 * args.experts
        lines.append(
            f"  E={many} over E={few}: {benches.formatted(results['many_over_few'])}   (at most {LIMITS['many']})"
        )
    return results | dict(lines=lines)


def _seconds(call) -> float:
    return min(benches.seconds_each(call, 2))


def _settings(args, name: str, groups: int = 0):
    """The experts' config of an arm."""
    from dlm.nn.config import Experts
    from dlm.nn.routers.moge import MoGE
    from dlm.nn.routers.topk import TopK

    number = {"few": args.experts // 2, "many": 4 * args.experts}.get(name, args.experts)
    router = {"topk": TopK(), "capacity": TopK(capacity=1.25)}.get(
        name, MoGE(groups=groups or args.active)
    )
    backend = name if name in ("loop", "ragged", "tokamax") else "blocks"
    return Experts(
        count=number, per_token=args.active, width=args.ffn, router=router, backend=backend
    )


def _layer(args, settings, mesh=None):
    """(function of parameters and x, parameters, x)."""
    import jax
    import jax.numpy as jnp

    from dlm.nn import config, experts, ffn

    rows = mesh.size if mesh is not None else 1
    x_BLD = jax.random.normal(jax.random.key(1), (rows, args.tokens, args.width))
    if settings is None:
        dense = ffn.FeedForward(config.FFN("swiglu", args.active * args.ffn), args.width, 1)
        return dense.apply, dense.init(jax.random.key(0), x_BLD), x_BLD
    layer = experts.Experts(settings, "swiglu", args.width, 1, mesh)
    given = jnp.ones((rows, args.tokens), bool), jnp.zeros(rows)
    params = layer.init(jax.random.key(0), x_BLD, *given)
    return lambda params, x_BLD: layer.apply(params, x_BLD, *given)[0], params, x_BLD


def _call(args, settings):
    import jax
    import jax.numpy as jnp

    apply, params, x_BLD = _layer(args, settings)
    step = jax.jit(jax.grad(lambda params, x_BLD: jnp.sum(jnp.sin(apply(params, x_BLD))), (0, 1)))
    return lambda: jax.block_until_ready(step(params, x_BLD))


# -------------------------------------------------------------------------------------------------------- on many devices


def exchanged(args) -> dict:
    """Memory and bytes per device of the compiled layer, forward and both ways; nothing is run."""
    import jax

    jax.config.update("jax_num_cpu_devices", args.devices)
    if len(jax.devices()) < args.devices:
        raise UserError(
            f"--devices={args.devices}: there are {len(jax.devices())} {jax.default_backend()} device(s)"
        )
    arms = dict(
        moge=_settings(args, "moge"),
        capacity=_settings(args, "capacity"),
        topk=_settings(args, "topk"),
    )
    report = {name: costs(args, settings) for name, settings in arms.items()}
    results: dict = dict(devices=args.devices, arms=report, closed_form=closed_form(args))
    lines = [
        f"\n{args.devices} devices, each T={args.tokens}; D={args.width} E={args.experts} K={args.active} F={args.ffn} float32"
    ]
    for name, arm in report.items():
        for way, costs_ in arm.items():
            sent = ", ".join(
                f"{kind} {size / 2**20:.2f}" for kind, size in sorted(costs_["sent"].items())
            )
            lines.append(
                f"  {name:<9} {way:<9} temporaries {costs_['temporaries'] / 2**20:8.2f} MiB   sent {sent} MiB"
            )
    for way, form in results["closed_form"].items():
        lines.append(
            f"  closed form of moge, {way}: "
            + ", ".join(f"{kind} {size / 2**20:.2f}" for kind, size in sorted(form.items()))
        )
    return results | dict(lines=lines)


def costs(args, settings) -> dict:
    """{forward, both: temporaries, bytes sent by kind} of a layer on one expert-parallel group of devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from dlm.core import axes
    from dlm.machine import hlo, mesh

    devices = mesh.make(MeshConfig(data=1, expert=args.devices))
    apply, params, x_BLD = _layer(args, settings, devices)
    rows = NamedSharding(devices, PartitionSpec(axes.BATCH))
    shardings = mesh.state_shardings(devices, params), rows
    ways = dict(forward=jax.jit(apply, in_shardings=shardings, out_shardings=rows))
    ways["both"] = jax.jit(
        jax.grad(lambda p, x: jnp.sum(jnp.sin(apply(p, x))), (0, 1)),
        in_shardings=shardings,
        out_shardings=shardings,
    )
    results = {}
    for way, step in ways.items():
        program = step.lower(*jax.eval_shape(lambda: (params, x_BLD))).compile()
        results[way] = dict(
            temporaries=hlo.memory(program)["temporaries"], sent=hlo.collectives(program.as_text())
        )
    return results


def closed_form(args) -> dict:
    """Bytes that each device sends for MoGE, by kind; the router's own gradient is an all-reduce."""
    n, t, K = args.devices, args.tokens, args.active
    tokens, picks, weights = ((n - 1) * t * size for size in (4 * args.width, 4 * K, 4 * K))
    forward = {"all-gather": tokens + picks + weights, "reduce-scatter": tokens}
    router = 4 * args.experts * (args.width + 1)
    both = {
        "all-gather": 2 * tokens + picks + weights,
        "reduce-scatter": 2 * tokens + weights,
        "all-reduce": 2 * (n - 1) / n * router,
    }
    return dict(forward=forward, both=both)
