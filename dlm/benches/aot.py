"""Measures an update on TPUs that are not there: compiles for them and reads the costs.

python -m dlm.bench aot --topology=v5p:2x2x2 --config=RECIPE:args [--config.FIELD=VALUE …]
                    [--quick] [--json]

Memory, FLOPs and collectives are read off the compiled program. libtpu brings the compiler
(`requirements-aot.txt`); no parameter is ever allocated, so a model of any size can be compiled.
The mesh of the config must cover the topology.

Bytes are those of one device, an array's layout included. XLA counts the body of a loop, such as
the one over the layers, once: its collectives are reported apart, its FLOPs beside those of the
model. --quick compiles with the least effort, in about half of the time; the memory that it reports
is a little larger. Exit code 1 where the program does not fit.
"""

import os
import re
import time
from typing import Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run, build_run

_TOPOLOGY_HELP = (
    "a TPU's generation and its chips along each axis, such as v5p:2x2x2 or v5e:2x4"
)
FLAGS = [
    Flag("topology", _TOPOLOGY_HELP, required=True),
    Flag("config", "recipe file with its arguments", required=True, type=Place),
    Flag("quick", "the least effort of the compiler", type=bool),
    Flag("json", "print one JSON object on stdout", type=bool),
]
CAPACITY = dict(
    v4=32, v5e=16, v5p=96, v6e=32
)  # GB of memory of a chip, as its maker states it
# These keep libtpu from looking for a TPU on this machine.
ALONE = dict(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_LOG_DIR="disabled",
)
_TOPOLOGY = re.compile(r"\w+:\d+(x\d+){1,2}")

Results = dict[str, Any]  # as --json prints them


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
    """Returns 'v5p' of 'v5p:2x2x2'."""
    name, _, _ = topology.partition(":")
    if name not in CAPACITY or not _TOPOLOGY.fullmatch(topology):
        known = ", ".join(CAPACITY)
        raise UserError(
            f"--topology={topology} must be one of {known} and its chips, such as v5p:2x2x2"
        )
    return name


def measured(run: Run, topology: str, quick: bool) -> Results:
    """Compiles the update of a run; returns all numbers."""
    import jax

    from dlm.app.experiment import Experiment, VocabOnlyTokenizer
    from dlm.machine import mesh

    devices = _devices(topology)
    # JAX passes these on to XLA.
    effort = -1.0 if quick else 0.0
    jax.config.update("jax_exec_time_optimization_effort", effort)
    jax.config.update("jax_memory_fitting_effort", effort)
    tokenizer = VocabOnlyTokenizer(run.nn.vocab)
    experiment = Experiment(run, tokenizer, on=mesh.make(run.mesh, devices))
    chips = len(devices)
    # Chips outside of the mesh would have nothing to do.
    covered = experiment.mesh.size
    if covered < chips:
        text = f"config.mesh covers {covered} of the {chips} chips of --topology={topology}"
        raise UserError(f"{text}: set config.mesh.data")

    tokens = run.data.batch * run.data.length
    results: Results = dict(
        topology=topology,
        mesh=dict(experiment.mesh.shape),
        parameters=run.nn.parameters,
        tokens=tokens,
        quick=quick,
        capacity=CAPACITY[generation(topology)] * 10**9,
        model_flops=run.flops_per_token * tokens / chips,
    )
    # Both together are reported: tracing is a small part.
    begin = time.perf_counter()
    state, batch = experiment.abstract_state(), experiment.abstract_batch()
    lowered = experiment.update.lower(state, batch)
    seconds = time.perf_counter() - begin
    say(
        f"traced in {seconds:.0f} s; compiling for {chips} chips, which can take many minutes"
    )
    results |= _compiled(lowered, results["capacity"])
    return results | dict(seconds=time.perf_counter() - begin)


def _compiled(lowered: Any, capacity: float) -> Results:
    """Compiles; returns the costs, or the compiler's reason why the program does not fit."""
    import jax

    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # The compiler has no error of its own for this.
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
            raise
        return dict(fits=False, cause=text.splitlines()[0])
    return costs(program, capacity)


def costs(program: Any, capacity: float) -> Results:
    """Reads memory, FLOPs and collectives off a compiled program."""
    from dlm.machine import hlo

    memory = hlo.memory(program) or {}
    # The new state takes the place of the old one, as far as it is aliased.
    whole = (
        memory["arguments"]
        + memory["results"]
        - memory["aliased"]
        + memory["temporaries"]
    )
    # A loop over layers sends once for each layer.
    outside, inside = hlo.of_loops(program.as_text())
    sent = dict(once=hlo.collectives(outside), in_loops=hlo.collectives(inside))
    return dict(
        memory=memory | dict(whole=whole),
        fits=whole <= capacity,
        flops=hlo.flops(program),
        sent=sent,
    )


def table(results: Results) -> str:
    """Formats the numbers for people."""
    shape = " ".join(f"{axis}={size}" for axis, size in results["mesh"].items())
    parameters = f"{results['parameters'] / 1e9:.3f}B parameters"
    tokens = f"{results['tokens']:,} tokens per update"
    lines = [f"{results['topology']}, {shape}: {parameters}, {tokens}"]
    if "memory" not in results:
        return "\n".join([*lines, f"  does not fit a chip: {results['cause']}"])
    lines += _memory_lines(results["memory"], results["capacity"])
    # Both numbers are shown, as XLA counts a loop's body once.
    by_xla = f"{results['flops']:.3g} by XLA, the body of a loop counted once"
    lines.append(
        f"  FLOPs of a chip    {by_xla}; {results['model_flops']:.3g} of the model"
    )
    lines.append(_sent_line("once", results["sent"]["once"]))
    lines.append(_sent_line("in a loop's body", results["sent"]["in_loops"]))
    lines.append(f"  traced and compiled in {results['seconds']:.0f} s")
    return "\n".join(lines)


def _memory_lines(memory: dict[str, float], capacity: float) -> list[str]:
    whole, state = memory["whole"] / 1e9, memory["arguments"] / 1e9
    aliased, temporaries = memory["aliased"] / 1e9, memory["temporaries"] / 1e9
    share = f"({memory['whole'] / capacity:.0%})"
    given_up = f"of which {aliased:.2f} are given up for the new state"
    return [
        f"  memory of a chip   {whole:.2f} of {capacity / 1e9:.0f} GB {share}",
        f"    state and batch  {state:.2f} GB, {given_up}",
        f"    temporaries      {temporaries:.2f} GB",
    ]


def _sent_line(name: str, sizes: dict[str, float]) -> str:
    kinds = [f"{kind} {size / 2**20:.2f}" for kind, size in sorted(sizes.items())]
    if not kinds:
        return f"  sent {name:<18} nothing"
    return f"  sent {name:<18} {', '.join(kinds)} MiB"


def _devices(topology: str) -> list:
    """Returns the chips of a topology, as the compiler knows them."""
    import importlib.util
    from importlib.metadata import version

    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the compiler of TPUs is missing: pip install -r requirements-aot.txt "
            "(libtpu, 0.7 GB), in an environment of its own"
        )
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    from dlm.machine import platform

    platform.devices("cpu")  # keys are made here, and no TPU is looked for
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology
        )
        return list(description.devices)
    except Exception as error:  # libtpu's own kinds
        cause = str(error).splitlines()[0]
        versions = f"libtpu {version('libtpu')} and jax {version('jax')}"
        raise UserError(
            f"--topology={topology}: {cause} ({versions}; they must belong together)"
        ) from None
