"""The StableHLO of an update and of a sampler, as the compiler of a platform is given it, and whether it holds nothing but StableHLO.

python -m dlm.bench export --platform=npu [--config=RECIPE:args] [--config.FIELD=VALUE …] [--out=DIR] [--json]

Neither the platform's plugin nor its devices need be there: programs are lowered for its name, over a mesh of imagined devices. Every kind
of op is held against a list: StableHLO as its specification has it (https://openxla.org/stablehlo/spec), without what needs a host or
a library beside the compiler (custom calls, callbacks, infeeds), and Shardy's four ops that say where arrays lie. Exit code 1 where
one is outside. --out keeps NAME.mlir to read and NAME.stablehlo, portable bytecode for the platform's compiler.

JAX gives up donated buffers on platforms that it knows alone: elsewhere an update keeps its old state until the new one is made.
"""

import collections
import warnings
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import files
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

FLAGS = [
    Flag("platform", "whose compiler shall read it", default="npu"),
    Flag(
        "config",
        "recipe file with its arguments",
        default="configs/masked.py:size=tiny",
        type=Place,
    ),
    Flag("out", "folder for the programs", type=Place),
    Flag("json", "print one JSON object on stdout", type=bool),
]
ROWS = 4  # samples drawn at a time, at least

_CORE = """
    abs add after_all all_gather all_reduce all_to_all and atan2 bitcast_convert broadcast_in_dim case cbrt ceil clamp
    collective_broadcast collective_permute compare complex concatenate constant convert convolution cosine count_leading_zeros divide
    dot_general dynamic_slice dynamic_update_slice exponential exponential_minus_one floor gather get_tuple_element if imag iota is_finite
    log log_plus_one logistic maximum minimum multiply negate not optimization_barrier or pad partition_id popcnt power real reduce
    reduce_precision reduce_scatter reduce_window remainder replica_id reshape return reverse round_nearest_afz round_nearest_even rsqrt
    scatter select select_and_scatter shift_left shift_right_arithmetic shift_right_logical sign sine slice sort sqrt subtract tan tanh
    transpose tuple while xor
"""
_AROUND = "builtin.module func.func func.call func.return sdy.mesh sdy.manual_computation sdy.return sdy.sharding_constraint"
ALLOWED = frozenset([*_AROUND.split(), *(f"stablehlo.{op}" for op in _CORE.split())])
EXCEPTIONS = {
    "stablehlo.composite @chlo.top_k": "it brings its own definition by a sort, which a compiler may take or leave"
}
_NAMING = {
    "stablehlo.custom_call": "call_target_name",
    "stablehlo.composite": "name",
}  # ops that stand for something else


def main(argv: list[str] | None = None) -> int:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    if not args.platform.isidentifier():
        raise UserError(f"--platform={args.platform} must be one name, such as npu")
    config = cli.load_config(args.config, overrides)
    if args.out:
        files.try_writing(Path(args.out) / "any", "name another folder by --out=FOLDER")
    programs = exported(build_run(config), args.platform)
    results: dict = dict(platform=args.platform, config=args.config, programs={})
    for name, program in programs.items():
        kinds = ops(program.mlir_module())
        results["programs"][name] = report = dict(
            kinds=len(kinds), ops=kinds, outside=outside(kinds)
        )
        say(
            f"{name}: {len(kinds)} kinds of ops for {args.platform}, over {program.nr_devices} device(s)"
        )
        say("".join(f"  {kind:<34} {count:>6}{_remark(kind)}\n" for kind, count in kinds.items()))
        say(f"  outside of the list: {', '.join(report['outside']) or 'none'}\n")
        if args.out:
            write(Path(args.out), name, program)
    if args.json:
        cli.emit(results)
    return int(any(report["outside"] for report in results["programs"].values()))


def exported(run: Run, platform: str) -> dict:
    """{update, sampler: the exported program} of a run, on a mesh of imagined devices."""
    import jax

    from dlm.app.experiment import Experiment, VocabOnlyTokenizer
    from dlm.core import axes, keys
    from dlm.core.contracts import Canvas
    from dlm.machine import mesh

    experiment = Experiment(run, VocabOnlyTokenizer(run.nn.vocab), on=mesh.abstract_mesh(run.mesh))
    state, rows = experiment.abstract_state(), max(ROWS, axes.shards(experiment.mesh.shape))
    canvas = [
        mesh.abstract(experiment.mesh, (rows, run.data.length), kind)
        for kind in ("int32", "float32", "bool")
    ]
    key_B = jax.eval_shape(lambda: keys.per_sample(keys.root(0), jax.numpy.arange(rows)))
    sampler = experiment.generator(state.averaged, run.sampler)

    def lower(program, *given, **fixed):
        return jax.export.export(program, platforms=[platform])(*given, **fixed)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers")  # told above
        return dict(
            update=lower(experiment.update, state, experiment.abstract_batch()),
            sampler=lower(sampler.run, state.averaged, Canvas(*canvas), key_B, prefill=0),
        )


def ops(text: str) -> dict[str, int]:
    """How often each kind of op stands in a module, custom calls and composites by what they name; the most frequent first."""
    from jax.extend.mlir import ir
    from jax.interpreters import mlir

    results: collections.Counter = collections.Counter()

    def look(op):
        name = op.operation.name
        if attribute := _NAMING.get(name):
            name += f" @{ir.StringAttr(op.attributes[attribute]).value}"
        results[name] += 1
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(text).operation.walk(look)
    return dict(results.most_common())


def outside(kinds) -> list[str]:
    """Those that are in none of the lists."""
    return [k for k in kinds if k not in ALLOWED and k not in EXCEPTIONS]


def _remark(kind: str) -> str:
    return (
        "   OUTSIDE"
        if outside([kind])
        else f"   exception: {EXCEPTIONS[kind]}"
        if kind in EXCEPTIONS
        else ""
    )


def write(folder: Path, name: str, program) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mlir").write_text(program.mlir_module(), encoding="utf-8")
    (folder / f"{name}.stablehlo").write_bytes(program.mlir_module_serialized)
