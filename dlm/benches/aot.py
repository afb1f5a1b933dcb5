"""What an update costs on TPUs that are not there: compiled for them, its memory, FLOPs and collectives are read off the program.

python -m dlm.bench aot --topology=v5p:2x2x2 --config=RECIPE:args [--config.FIELD=VALUE …] [--quick] [--json]

libtpu brings the compiler (`requirements-aot.txt`); no parameter is ever allocated, so a model of any size can be asked about. The mesh
of the config has to cover the topology. Bytes are those of one device, an array's layout included. What stands in the body of a loop,
such as that over the layers, XLA counts once: its collectives are told apart, its FLOPs stand beside those of the model. --quick
compiles with the least effort, in about half of the time; the memory it tells lies a little higher. Exit code 1 where it does not fit.
"""

import os
import re
import time

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

FLAGS = [
    Flag(
        "topology",
        "a TPU's generation and its chips along each axis, such as v5p:2x2x2 or v5e:2x4",
        required=True,
    ),
    Flag("config", "recipe file with its arguments", required=True, type=Place),
    Flag("quick", "the least effort of the compiler", type=bool),
    Flag("json", "print one JSON object on stdout", type=bool),
]
CAPACITY = dict(v4=32, v5e=16, v5p=96, v6e=32)  # GB of memory of a chip, as its maker states it
ALONE = dict(
    TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_LOG_DIR="disabled"
)  # no look at a machine that is no TPU's


def main(argv: list[str] | None = None) -> int:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    generation(args.topology)
    config = cli.load_config(args.config, overrides)
    results = measured(build_run(config), args.topology, args.quick)
    say(table(results))
    if args.json:
        cli.emit(results)
    return 0 if results["fits"] else 1


def generation(topology: str) -> str:
    """'v5p' of 'v5p:2x2x2'."""
    name, _, _ = topology.partition(":")
    if name not in CAPACITY or not re.fullmatch(r"\w+:\d+(x\d+){1,2}", topology):
        raise UserError(
            f"--topology={topology} must be one of {', '.join(CAPACITY)} and its chips, such as v5p:2x2x2"
        )
    return name


def measured(run: Run, topology: str, quick: bool) -> dict:
    """All numbers, as --json prints them."""
    import jax

    from dlm.app.experiment import Experiment, VocabOnlyTokenizer
    from dlm.machine import mesh

    devices = _devices(topology)
    effort = -1.0 if quick else 0.0
    jax.config.update("jax_exec_time_optimization_effort", effort)
    jax.config.update("jax_memory_fitting_effort", effort)
    experiment = Experiment(run, VocabOnlyTokenizer(run.nn.vocab), on=mesh.make(run.mesh, devices))
    if experiment.mesh.size < len(devices):
        raise UserError(
            f"config.mesh covers {experiment.mesh.size} of the {len(devices)} chips of --topology={topology}: set config.mesh.data"
        )
    tokens = run.data.batch * run.data.length
    results: dict = dict(
        topology=topology,
        mesh=dict(experiment.mesh.shape),
        parameters=run.nn.parameters,
        tokens=tokens,
        quick=quick,
    )
    results |= dict(
        capacity=CAPACITY[generation(topology)] * 10**9,
        model_flops=run.flops_per_token * tokens / len(devices),
    )
    begin = time.perf_counter()
    lowered = experiment.update.lower(experiment.abstract_state(), experiment.abstract_batch())
    say(
        f"traced in {time.perf_counter() - begin:.0f} s; compiling for {len(devices)} chips, which can take many minutes"
    )
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        return results | dict(
            fits=False, seconds=time.perf_counter() - begin, cause=str(error).splitlines()[0]
        )
    return results | dict(seconds=time.perf_counter() - begin) | costs(program, results["capacity"])


def costs(program, capacity: float) -> dict:
    """Memory, FLOPs and collectives of a compiled program."""
    from dlm.machine import hlo

    memory = hlo.memory(program)
    whole = memory["arguments"] + memory["results"] - memory["aliased"] + memory["temporaries"]
    once, inside = (hlo.collectives(part) for part in hlo.of_loops(program.as_text()))
    counted = dict(flops=hlo.flops(program), sent=dict(once=once, in_loops=inside))
    return dict(memory=memory | dict(whole=whole), fits=whole <= capacity, **counted)


def table(results: dict) -> str:
    """The numbers for people."""
    shape = " ".join(f"{axis}={size}" for axis, size in results["mesh"].items())
    lines = [
        f"{results['topology']}, {shape}: {results['parameters'] / 1e9:.3f}B parameters, {results['tokens']:,} tokens per update"
    ]
    if "memory" not in results:
        return "\n".join([*lines, f"  does not fit a chip: {results['cause']}"])
    m, room = results["memory"], results["capacity"]
    lines.append(
        f"  memory of a chip   {m['whole'] / 1e9:.2f} of {room / 1e9:.0f} GB ({m['whole'] / room:.0%})"
    )
    lines.append(
        f"    state and batch  {m['arguments'] / 1e9:.2f} GB, of which {m['aliased'] / 1e9:.2f} are given up for the new state"
    )
    lines.append(f"    temporaries      {m['temporaries'] / 1e9:.2f} GB")
    lines.append(
        f"  FLOPs of a chip    {results['flops']:.3g} by XLA, the body of a loop counted once; {results['model_flops']:.3g} of the model"
    )
    for name, part in (("once", "once"), ("in a loop's body", "in_loops")):
        sent = ", ".join(
            f"{kind} {size / 2**20:.2f}" for kind, size in sorted(results["sent"][part].items())
        )
        lines.append(f"  sent {name:<18} {sent or 'nothing'}{' MiB' if sent else ''}")
    return "\n".join([*lines, f"  traced and compiled in {results['seconds']:.0f} s"])


def _devices(topology: str) -> list:
    """The chips of a topology, as the compiler knows them."""
    import importlib.util
    from importlib.metadata import version

    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the compiler of TPUs is missing: pip install -r requirements-aot.txt (libtpu, 0.7 GB), in an environment of its own"
        )
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    from dlm.machine import platform

    platform.devices("cpu")  # keys are made here, and no TPU is looked for
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # libtpu's own kinds
        versions = f"libtpu {version('libtpu')} and jax {version('jax')}"
        raise UserError(
            f"--topology={topology}: {str(error).splitlines()[0]} ({versions}; they must belong together)"
        ) from None
