"""Checks the machines before a long run: devices, a sum over all of them, disk, versions, clocks; one line each.

launch/local.sh [--processes=N] preflight --workdir=runs/x [--devices=16] [--free=50] [--json]

Exit code 0, or 2 with one line that names what is wrong and its remedy. Run it as the run itself will be: the same launcher, nodes
and tasks.
"""

import os
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
        "run directory to be; free space and sharing are looked at where it will lie",
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
    Flag("skew", "seconds that the clocks of two processes may be apart", default=2.0, type=float),
    Flag("timeout", "seconds after which a check counts as hung", default=120.0, type=float),
    Flag("platform", "platform that JAX must use, such as cpu, cuda, tpu or npu", default=""),
    Flag("plugin", "PJRT plugin that brings the platform", default="", type=Place),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclass(frozen=True)
class Check:
    """What one check found; a `remedy` where it is not good."""

    name: str
    found: str
    remedy: str = ""


def versions(facts: list[dict]) -> Check:
    first = facts[0]["versions"]
    other = next((rank for rank, fact in enumerate(facts) if fact["versions"] != first), None)
    if other is None:
        return Check("versions", " ".join(f"{name} {version}" for name, version in first.items()))
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
    counts = [fact["devices"] for fact in facts]
    kinds, machines = sorted({fact["kind"] for fact in facts}), {fact["host"] for fact in facts}
    seen = f"{sum(counts)} × {', '.join(kinds)} on {len(machines)} host(s), by process: {' '.join(map(str, counts))}"
    if len({(fact["devices"], fact["kind"]) for fact in facts}) > 1:
        return Check(
            "devices",
            seen,
            "every process must see as many of the same kind: look at *_VISIBLE_DEVICES and the scheduler's request",
        )
    if expected and sum(counts) != expected:
        return Check(
            "devices",
            seen,
            f"--devices={expected} were expected: look at *_VISIBLE_DEVICES, the driver and the number of processes",
        )
    return Check("devices", seen)


def all_reduce(facts: list[dict], count: int) -> Check:
    """Device i gives i + 1."""
    due, sums = count * (count + 1) // 2, [fact["sum"] for fact in facts]
    wrong = [f"{value} in process {rank}" for rank, value in enumerate(sums) if value != due]
    remedy = "a device or a link is broken: run this on one host at a time" if wrong else ""
    return Check(
        "all-reduce",
        f"1 + … + {count} is {due} on all devices"
        if not wrong
        else f"{', '.join(wrong)}, not {due}",
        remedy,
    )


def disk(facts: list[dict], needed: float) -> Check:
    folder, free = facts[0]["folder"], facts[0]["free"]
    if hidden := [str(rank) for rank, fact in enumerate(facts) if not fact["shared"]]:
        found = f"what process 0 writes in {folder} is not seen by process {', '.join(hidden)}"
        return Check("disk", found, "--workdir must lie on a file system that all hosts share")
    remedy = (
        ""
        if free >= needed
        else f"make room, or choose another --workdir: --free={needed:g} GiB are asked for"
    )
    return Check(
        "disk",
        f"{free:.1f} GiB free in {folder}"
        + (", shared by all processes" if len(facts) > 1 else ""),
        remedy,
    )


def clocks(facts: list[dict], allowed: float) -> Check:
    times = [fact["clock"] for fact in facts]
    skew = max(times) - min(times)
    remedy = (
        ""
        if skew <= allowed
        else f"more than --skew={allowed:g} s: set the hosts' clocks by NTP (chronyc makestep)"
    )
    apart = times.index(max(times)), times.index(min(times))
    return Check(
        "clocks",
        f"{skew:.2f} s apart at most"
        + (f" (processes {apart[0]} and {apart[1]})" if remedy else ""),
        remedy,
    )


def total(platform: str = "", plugin: str = "") -> int:
    """Σ (i + 1) over all devices, each of which holds its own term."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from dlm.machine import mesh

    everywhere = mesh.make(mesh.Mesh(platform=platform, plugin=plugin))
    count = everywhere.size
    sharding = NamedSharding(everywhere, PartitionSpec("data"))
    terms = jax.make_array_from_callback(
        (count,), sharding, lambda index: np.arange(1, count + 1, dtype=np.int32)[index]
    )
    return int(
        jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(everywhere, PartitionSpec()))(terms)
    )


def joined(name: str, plugin: str = "") -> tuple[int, str]:
    """Joins the other processes; how many devices this one has, and of what kind."""
    from dlm.machine import platform as chosen

    try:
        hosts.join(say, lambda: chosen.devices(name, plugin))
        found = chosen.devices(name, plugin)
        here = [
            device for device in found if device.process_index == found[0].client.process_index()
        ]
    except UserError as error:
        raise UserError(f"devices: {error}") from None
    except RuntimeError as error:
        raise UserError(
            f"devices: {str(error).splitlines()[0]}; look at the driver, JAX's plugin and JAX_PLATFORMS"
        ) from None
    return len(here), f"{here[0].platform} {here[0].device_kind}"


def seen(workdir: Path) -> tuple[str, float, bool]:
    """The folder that exists of `workdir`, its free GiB, and whether a file of process 0 is seen in it."""
    folder = next(p for p in (workdir.absolute(), *workdir.absolute().parents) if p.is_dir())
    mark = folder / f".preflight-{hosts.together(lambda: os.getpid())}"

    def write() -> None:
        try:
            mark.touch()
        except OSError as error:
            raise UserError(
                f"disk: {folder} cannot be written ({error.strerror}): choose another --workdir"
            ) from None

    hosts.together(write)
    try:
        found = mark.exists()
        hosts.gathered(found)
    finally:
        if hosts.first():
            mark.unlink()
    return str(folder), shutil.disk_usage(folder).free / 2**30, found


def look(args, begin: Callable[[str], None]) -> list[Check]:
    """All checks, the same in every process; `begin` hears what is waited for."""
    begin("devices")
    count, kind = joined(args.platform, args.plugin)
    installed = dict(python=platform.python_version()) | {
        name: metadata.version(name) for name in PACKAGES
    }
    facts = hosts.gathered(
        dict(host=socket.gethostname(), versions=installed, devices=count, kind=kind)
    )
    checks = [versions(facts), devices(facts, args.devices)]
    if any(check.remedy for check in checks):  # a sum would hang, or fail with less to say
        return checks
    begin("all-reduce")
    sums = hosts.gathered(dict(sum=total(args.platform, args.plugin)))
    begin("disk")
    folder, free, found = seen(Path(args.workdir))
    places = hosts.gathered(dict(folder=folder, free=free, shared=found))
    begin("clocks")
    hosts.gathered("ready")
    times = hosts.gathered(dict(clock=time.time()))
    reduced = all_reduce(sums, sum(fact["devices"] for fact in facts))
    return [*checks, reduced, disk(places, args.free), clocks(times, args.skew)]


def watched(seconds: float) -> tuple[Callable[[str], None], threading.Timer]:
    """`begin(stage)`, and the timer that ends a process which hangs in the stage that it named last."""
    stages = []

    def late() -> None:
        blame = "can the processes reach one another, on every port, and were all of them started?"
        print(
            f"error: {stages[-1]}: no answer within --timeout={seconds:g} s; {blame}",
            file=sys.stderr,
            flush=True,
        )
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
            say(f"{'bad' if check.remedy else 'ok ':<4} {check.name:<10}  {check.found}")
        if args.json:
            cli.emit(
                dict(
                    ok=not bad,
                    checks=[dict(asdict(check), ok=not check.remedy) for check in checks],
                )
            )
    if bad:
        raise UserError(f"{bad[0].name}: {bad[0].found}; {bad[0].remedy}")


if __name__ == "__main__":
    cli.main(main)
