"""Checks the machines before a long run, one line each: devices, a sum, disk, versions, clocks.

launch/local.sh [--processes=N] preflight --workdir=runs/x [--devices=16] [--free=50] [--json]

Exit code 0, or 2 with one line that names the mistake and its remedy. Run it as the run itself will
be: the same launcher, nodes and tasks.
"""

import os
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.machine import hosts

FLAGS = [
    Flag(
        "workdir",
        "run directory to be; free space and sharing are checked at its place",
        default="runs",
        type=Place,
    ),
    Flag(
        "devices",
        "how many devices all processes together must see (0: any number, the same in each)",
        default=0,
        type=int,
    ),
    Flag("free", "GiB that must be free there", default=5.0, type=float),
    Flag(
        "skew",
        "seconds that the clocks of two processes may be apart",
        default=2.0,
        type=float,
    ),
    Flag(
        "timeout",
        "seconds after which a check counts as hung",
        default=120.0,
        type=float,
    ),
    Flag(
        "platform",
        "platform that JAX must use, such as cpu, cuda, tpu or npu",
        default="",
    ),
    Flag("plugin", "PJRT plugin that brings the platform", default="", type=Place),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclass(frozen=True)
class Check:
    """The result of one check; a `remedy` if it is not good."""

    name: str
    observed: str
    remedy: str = ""


def versions(facts: list[dict]) -> Check:
    """Checks that all processes have the same packages; `facts` has an entry for each."""
    first = facts[0]["versions"]
    other = next(
        (rank for rank, fact in enumerate(facts) if fact["versions"] != first), None
    )
    if other is None:
        return Check(
            "versions", " ".join(f"{name} {version}" for name, version in first.items())
        )
    unlike = [
        f"{name} {facts[other]['versions'][name]} and {first[name]}"
        for name in first
        if facts[other]["versions"][name] != first[name]
    ]
    return Check(
        "versions",
        f"processes {other} and 0 have {', '.join(unlike)}",
        "install the same requirements.txt on every host",
    )


def devices(facts: list[dict], expected: int) -> Check:
    """Checks that all processes see equally many devices of one kind, `expected` together."""
    counts = [fact["devices"] for fact in facts]
    kinds = sorted({fact["kind"] for fact in facts})
    machines = {fact["host"] for fact in facts}
    by_process = " ".join(map(str, counts))
    where = f"on {len(machines)} host(s), by process: {by_process}"
    seen = f"{sum(counts)} × {', '.join(kinds)} {where}"
    remedy = ""
    if len(set(counts)) > 1 or len(kinds) > 1:
        rule = "every process must see as many of the same kind"
        remedy = f"{rule}: look at *_VISIBLE_DEVICES and the scheduler's request"
    elif expected and sum(counts) != expected:
        places = "*_VISIBLE_DEVICES, the driver and the number of processes"
        remedy = f"--devices={expected} were expected: look at {places}"
    return Check("devices", seen, remedy)


def all_reduce(facts: list[dict], count: int) -> Check:
    """Checks the sum over all devices, to which device i adds i + 1."""
    due = count * (count + 1) // 2
    wrong = []
    for rank, fact in enumerate(facts):
        if fact["sum"] != due:
            wrong.append(f"{fact['sum']} in process {rank}")
    if not wrong:
        return Check("all-reduce", f"1 + … + {count} is {due} on all devices")
    remedy = "a device or a link is broken: run this on one host at a time"
    return Check("all-reduce", f"{', '.join(wrong)}, not {due}", remedy)


def disk(facts: list[dict], needed: float) -> Check:
    """Checks that all processes see the same folder, with so many GiB free."""
    folder, free = facts[0]["folder"], facts[0]["free"]
    hidden = [str(rank) for rank, fact in enumerate(facts) if not fact["shared"]]
    if hidden:
        state = f"what process 0 writes in {folder} is not seen by process {', '.join(hidden)}"
        return Check(
            "disk", state, "--workdir must lie on a file system that all hosts share"
        )
    state, remedy = f"{free:.1f} GiB free in {folder}", ""
    if len(facts) > 1:
        state += ", shared by all processes"
    if free < needed:
        remedy = f"make room, or choose another --workdir: --free={needed:g} GiB are asked for"
    return Check("disk", state, remedy)


def clocks(facts: list[dict], allowed: float) -> Check:
    """Checks that the clocks of all processes agree, up to so many seconds."""
    times = [fact["clock"] for fact in facts]
    latest, earliest = max(times), min(times)
    skew = latest - earliest
    state = f"{skew:.2f} s apart at most"
    if skew <= allowed:
        return Check("clocks", state)
    state += f" (processes {times.index(latest)} and {times.index(earliest)})"
    remedy = "set the hosts' clocks by NTP (chronyc makestep)"
    return Check("clocks", state, f"more than --skew={allowed:g} s: {remedy}")


def total(platform: str = "", plugin: str = "") -> int:
    """Returns Σ (i + 1) over all devices; each holds its own term."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from dlm.machine import mesh
    from dlm.machine.config import MeshConfig

    everywhere = mesh.make(MeshConfig(platform=platform, plugin=plugin))
    count = everywhere.size
    sharding = NamedSharding(everywhere, PartitionSpec("data"))
    numbers = np.arange(1, count + 1, dtype=np.int32)
    terms = jax.make_array_from_callback(
        (count,), sharding, lambda index: numbers[index]
    )
    # Every process needs the sum.
    replicated = NamedSharding(everywhere, PartitionSpec())
    add = jax.jit(lambda x: x.sum(), out_shardings=replicated)
    return int(add(terms))


def joined(name: str, plugin: str = "") -> tuple[int, str]:
    """Joins the other processes; returns the number of devices of this one, and their kind."""
    from dlm.machine import platform as chosen

    try:
        hosts.join(say, lambda: chosen.devices(name, plugin))
        everywhere = chosen.devices(name, plugin)
        own = everywhere[0].client.process_index()
        here = [device for device in everywhere if device.process_index == own]
    except UserError as error:
        raise UserError(f"devices: {error}") from None
    except RuntimeError as error:
        # The first line of a plugin's error names the cause.
        cause = str(error).splitlines()[0]
        remedy = "look at the driver, JAX's plugin and JAX_PLATFORMS"
        raise UserError(f"devices: {cause}; {remedy}") from None
    return len(here), f"{here[0].platform} {here[0].device_kind}"


def seen(workdir: Path) -> tuple[str, float, bool]:
    """Returns the part of `workdir` that exists, its free GiB, and whether it is shared.

    It is shared if this process sees a file that process 0 writes there.
    """
    whole = workdir.absolute()
    folder = next(p for p in (whole, *whole.parents) if p.is_dir())
    mark = folder / f".preflight-{hosts.together(lambda: os.getpid())}"

    def write() -> None:
        try:
            mark.touch()
        except OSError as error:
            cause = f"{folder} cannot be written ({error.strerror})"
            raise UserError(f"disk: {cause}: choose another --workdir") from None

    hosts.together(write)
    try:
        shared = mark.exists()
        # Process 0 removes the file once all have looked.
        hosts.gathered(shared)
    finally:
        if hosts.first():
            mark.unlink()
    free = shutil.disk_usage(folder).free / 2**30
    return str(folder), free, shared


def look(args, begin: Callable[[str], None]) -> list[Check]:
    """Returns all checks, the same in every process; `begin` is called with each stage."""
    begin("devices")
    count, kind = joined(args.platform, args.plugin)
    installed = {name: metadata.version(name) for name in PACKAGES}
    installed = dict(python=platform.python_version()) | installed
    host = socket.gethostname()
    facts = hosts.gathered(
        dict(host=host, versions=installed, devices=count, kind=kind)
    )
    checks = [versions(facts), devices(facts, args.devices)]
    # A sum would hang, or fail with a less clear cause.
    if any(check.remedy for check in checks):
        return checks
    begin("all-reduce")
    sums = hosts.gathered(dict(sum=total(args.platform, args.plugin)))
    begin("disk")
    folder, free, shared = seen(Path(args.workdir))
    places = hosts.gathered(dict(folder=folder, free=free, shared=shared))
    begin("clocks")
    # All processes read their clocks at the same time.
    hosts.gathered("ready")
    times = hosts.gathered(dict(clock=time.time()))
    reduced = all_reduce(sums, sum(fact["devices"] for fact in facts))
    return [*checks, reduced, disk(places, args.free), clocks(times, args.skew)]


def watched(seconds: float) -> tuple[Callable[[str], None], threading.Timer]:
    """Returns `begin(stage)`, and the timer that ends a process that hangs in a stage."""
    stages: list[str] = []

    def late() -> None:
        remedy = "can the processes reach one another, on every port, and were all of them started?"
        line = (
            f"error: {stages[-1]}: no answer within --timeout={seconds:g} s; {remedy}"
        )
        print(line, file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    return stages.append, timer


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    begin, timer = watched(args.timeout)
    timer.start()
    try:
        checks = look(args, begin)
    finally:
        timer.cancel()
    bad = [check for check in checks if check.remedy]
    if hosts.first():
        for check in checks:
            verdict = "bad" if check.remedy else "ok "
            say(f"{verdict:<4} {check.name:<10}  {check.observed}")
        if args.json:
            cli.emit(dict(ok=not bad, checks=[_fields(check) for check in checks]))
    if bad:
        raise UserError(f"{bad[0].name}: {bad[0].observed}; {bad[0].remedy}")


def _fields(check: Check) -> dict:
    """Returns the check as --json prints it."""
    ok = not check.remedy
    return dict(name=check.name, found=check.observed, remedy=check.remedy, ok=ok)


if __name__ == "__main__":
    cli.main(main)
