"""Lowers an update and a sampler for a platform, and checks that they contain only StableHLO.

python -m dlm.bench export --platform=npu [--config=RECIPE:args] [--config.FIELD=VALUE …]
                       [--out=DIR] [--json]

Neither the platform's plugin nor its devices are needed: programs are lowered for its name, over a
mesh of abstract devices. Every kind of op must be in a list: StableHLO as specified
(https://openxla.org/stablehlo/spec), without what needs a host or a library beside the compiler
(custom calls, callbacks, infeeds), and Shardy's four ops that place arrays. Exit code 1 where one
is outside. --out writes NAME.mlir to read and NAME.stablehlo, portable bytecode for the platform's
compiler.

JAX donates buffers only on platforms that it knows: elsewhere an update needs memory for its old
and its new state.
"""

import collections
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import files
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

if TYPE_CHECKING:  # these load JAX, which --help need not
    from jax.export import Exported

    from dlm.app.experiment import Experiment
    from dlm.core.contracts import Canvas

RECIPE = "configs/masked.py:size=tiny"
FLAGS = [
    Flag("platform", "whose compiler shall read it", default="npu"),
    Flag("config", "recipe file with its arguments", default=RECIPE, type=Place),
    Flag("out", "folder for the programs", type=Place),
    Flag("json", "print one JSON object on stdout", type=bool),
]
ROWS = 4  # samples drawn at a time, at least

_CORE = """
    abs add after_all all_gather all_reduce all_to_all and atan2 bitcast_convert broadcast_in_dim
    case cbrt ceil clamp collective_broadcast collective_permute compare complex concatenate
    constant convert convolution cosine count_leading_zeros divide dot_general dynamic_slice
    dynamic_update_slice exponential exponential_minus_one floor gather get_tuple_element if imag
    iota is_finite log log_plus_one logistic maximum minimum multiply negate not
    optimization_barrier or pad partition_id popcnt power real reduce reduce_precision
    reduce_scatter reduce_window remainder replica_id reshape return reverse round_nearest_afz
    round_nearest_even rsqrt scatter select select_and_scatter shift_left shift_right_arithmetic
    shift_right_logical sign sine slice sort sqrt subtract tan tanh transpose tuple while xor
"""
_AROUND = """
    builtin.module func.func func.call func.return
    sdy.mesh sdy.manual_computation sdy.return sdy.sharding_constraint
"""
_STABLEHLO = [f"stablehlo.{op}" for op in _CORE.split()]
ALLOWED = frozenset(_AROUND.split() + _STABLEHLO)
EXCEPTIONS = {
    "stablehlo.composite @chlo.top_k": (
        "it brings its own definition by a sort, which a compiler may take or leave"
    )
}
# Ops that call something by name, and the attribute that has the name.
_NAMING = {
    "stablehlo.custom_call": "call_target_name",
    "stablehlo.composite": "name",
}


def main(argv: list[str] | None = None) -> int:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    if not args.platform.isidentifier():
        raise UserError(f"--platform={args.platform} must be one name, such as npu")
    config = cli.load_config(args.config, overrides)
    if args.out:
        files.try_writing(Path(args.out) / "any", "name another folder by --out=FOLDER")
    reports = {}
    for name, program in exported(build_run(config), args.platform).items():
        kinds = ops(program.mlir_module())
        wrong = outside(kinds)
        reports[name] = dict(kinds=len(kinds), ops=kinds, outside=wrong)
        where = f"for {args.platform}, over {program.nr_devices} device(s)"
        say(f"{name}: {len(kinds)} kinds of ops {where}")
        lines = [
            f"  {kind:<34} {count:>6}{_remark(kind)}\n" for kind, count in kinds.items()
        ]
        say("".join(lines))
        say(f"  outside of the list: {', '.join(wrong) or 'none'}\n")
        if args.out:
            write(Path(args.out), name, program)
    if args.json:
        cli.emit(dict(platform=args.platform, config=args.config, programs=reports))
    return int(any(report["outside"] for report in reports.values()))


def exported(run: Run, platform: str) -> dict[str, "Exported"]:
    """Returns {update, sampler: the exported program} of a run, on a mesh of abstract devices."""
    import jax

    from dlm.app.experiment import Experiment, VocabOnlyTokenizer
    from dlm.machine import mesh

    tokenizer = VocabOnlyTokenizer(run.nn.vocab)
    experiment = Experiment(run, tokenizer, on=mesh.abstract_mesh(run.mesh))
    state = experiment.abstract_state()
    # The default sampler of the recipe.
    sampler = experiment.generator(state.averaged, run.sampler)
    canvas, key_B = _requests(experiment)

    def lower(program: Any, *arguments: Any, **fixed: Any) -> "Exported":
        return jax.export.export(program, platforms=[platform])(*arguments, **fixed)

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Some donated buffers"
        )  # see the module's docstring
        return dict(
            update=lower(experiment.update, state, experiment.abstract_batch()),
            sampler=lower(sampler.run, state.averaged, canvas, key_B, prefill=0),
        )


def _requests(experiment: "Experiment") -> tuple["Canvas", Any]:
    """Returns the shapes of a sampler's arguments: (canvas, key_B), a row for each shard."""
    import jax
    import jax.numpy as jnp

    from dlm.core import axes, keys
    from dlm.core.contracts import Canvas
    from dlm.machine import mesh

    devices = experiment.mesh
    rows = max(ROWS, axes.shards(devices.shape))
    shape = rows, experiment.run.data.length
    visibility = experiment.objective.visibility

    def arguments():
        z_BL = jnp.zeros(shape, jnp.int32)
        t_BL = jnp.zeros(shape)
        frozen_BL = jnp.zeros(shape, bool)
        canvas = Canvas(z_BL, t_BL, frozen_BL, visibility)
        return canvas, keys.per_sample(keys.root(0), jnp.arange(rows))

    def spread(x):
        # Rows are spread over the devices; the numbers of a visibility are not rows.
        return mesh.abstract(devices, x.shape, x.dtype) if x.shape == shape else x

    canvas, key_B = jax.eval_shape(arguments)
    return jax.tree.map(spread, canvas), key_B


def ops(text: str) -> dict[str, int]:
    """Counts each kind of op in a module, the most frequent first.

    Custom calls and composites count by what they call.
    """
    from jax.extend.mlir import ir
    from jax.interpreters import mlir

    counts: collections.Counter = collections.Counter()

    def look(op: Any) -> Any:
        # Two calls of other functions are two kinds of op.
        name = op.operation.name
        if attribute := _NAMING.get(name):
            called = ir.StringAttr(op.attributes[attribute]).value
            name += f" @{called}"
        counts[name] += 1
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(text).operation.walk(look)
    return dict(counts.most_common())


def outside(kinds: Iterable[str]) -> list[str]:
    """Returns the kinds that are in none of the lists."""
    return [kind for kind in kinds if kind not in ALLOWED and kind not in EXCEPTIONS]


def _remark(kind: str) -> str:
    if kind in EXCEPTIONS:
        return f"   exception: {EXCEPTIONS[kind]}"
    return "" if kind in ALLOWED else "   OUTSIDE"


def write(folder: Path, name: str, program: "Exported") -> None:
    """Writes a program as text and as portable bytecode."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mlir").write_text(program.mlir_module(), encoding="utf-8")
    (folder / f"{name}.stablehlo").write_bytes(program.mlir_module_serialized)
