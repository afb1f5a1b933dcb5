"""Which devices a run computes on: those that JAX chooses, or those of the platform that the config names, never others in silence.

    config.mesh.platform=npu     and, unless JAX itself knows the platform (cpu, tpu, …), the PJRT plugin that brings it:

    config.mesh.plugin=DIR/lib.so                     in the config,
    PJRT_NAMES_AND_LIBRARY_PATHS=npu:DIR/lib.so       in the environment, or
    an installed package                              of the namespace or the entry points `jax_plugins`, which registers itself

A plugin is a shared library with one entrance, GetPjrtApi (https://openxla.org/xla/pjrt). Where one cannot start, JAX logs it and may go on
with the CPU; here the cause is told in one line, before anything is read or written.
"""

import ctypes
import json
import logging
import os
import re
import struct
from pathlib import Path

from dlm.core.errors import UserError
from dlm.core.named import nearest

VARIABLE = "PJRT_NAMES_AND_LIBRARY_PATHS"
_ENTRANCE = "GetPjrtApi"
_DISCOVERY = (
    "Jax plugin configuration error"  # how JAX begins what it logs of a package that cannot start
)
_UNSEEN = "its devices must be visible in this process: look at the driver, the container, and variables such as *_VISIBLE_DEVICES"
_REMEDIES = {  # part of JAX's complaint → what to do
    "PJRT API": "install the plugin that was made for this version of jax, {version}, or the jax it was made for",
    "no devices": _UNSEEN,
}


def devices(name: str = "", plugin: str = "") -> list:
    """All devices of the platform; "" is what JAX chooses. Starts JAX's backends, or looks at those that run already."""
    import jax
    from jax._src import xla_bridge

    late = xla_bridge.backends_are_initialized()
    try:
        if not late:
            _choose(xla_bridge, name, plugin)
        available = jax.devices()
    except RuntimeError as error:
        raise UserError(_one_line(name, error)) from None
    running = next(
        known
        for known, backend in xla_bridge.backends().items()
        if backend is xla_bridge.get_backend()
    )
    if name and running not in xla_bridge.expand_platform_alias(name):
        why = (
            "a process keeps the backend that it started with: begin a new one" if late else _UNSEEN
        )
        raise UserError(f"config.mesh.platform={name} is not what runs, {running} is; {why}")
    return available


def _choose(xla_bridge, name: str, plugin: str) -> None:
    """Registers what brings the platform and has JAX start that alone, beside the host's CPU."""
    import jax

    named = _named(os.environ.get(VARIABLE, ""))
    if plugin and named.get(name, plugin) != plugin:
        raise UserError(
            f"config.mesh.plugin={plugin} is not what {VARIABLE} names for {name}, {named[name]}: leave one of them out"
        )
    for path in {plugin: "config.mesh.plugin", **dict.fromkeys(named.values(), VARIABLE)}.items():
        _sound(*path)
    complaints = _discovered(xla_bridge)
    known = xla_bridge._backend_factories
    if plugin and name not in named:
        if name in known:
            raise UserError(
                f"config.mesh.plugin={plugin}: {name} is there already, by JAX or an installed package: leave the plugin out"
            )
        xla_bridge.register_plugin(name, library_path=plugin)
    listed = list(filter(None, (jax.config.jax_platforms or "").split(",")))
    asked = [name] if name else listed
    if missing := [one for one in asked if not _brought(xla_bridge, one)]:
        setting = "config.mesh.platform" if name else "JAX_PLATFORMS"
        raise UserError(_broken(complaints) or _nowhere(setting, missing[0], known))
    if complaints and not asked:
        raise UserError(
            f"{_broken(complaints)}, or choose without it, by --config.mesh.platform=cpu"
        )
    for record in complaints:  # about a platform that nobody asked for
        xla_bridge.logger.handle(record)
    if name:
        wanted = _brought(xla_bridge, name)
        if listed and not {p for one in listed for p in _brought(xla_bridge, one)} & set(wanted):
            raise UserError(
                f"config.mesh.platform={name}, but JAX_PLATFORMS={','.join(listed)} leaves it out: unset one of them"
            )
        jax.config.update("jax_platforms", ",".join(dict.fromkeys([*wanted, "cpu"])))


def _brought(xla_bridge, name: str) -> list[str]:
    """The platforms that JAX can start under a name; 'gpu' stands for several."""
    return [p for p in xla_bridge.expand_platform_alias(name) if p in xla_bridge._backend_factories]


def _broken(complaints: list[logging.LogRecord]) -> str:
    """The first package that could not start, if any."""
    if not complaints:
        return ""
    cause = f": {complaints[0].exc_info[1]!r}".splitlines()[0] if complaints[0].exc_info else ""
    package = complaints[0].getMessage().removeprefix(_DISCOVERY).strip(": ").replace(" %s", "")
    return f"a package of jax_plugins is broken: {package}{cause}; repair or uninstall it"


def _nowhere(setting: str, name: str, known) -> str:
    return (
        f"{setting}={name}: no plugin brings it{nearest(name, known)}; there are {', '.join(known)}. Name its library by "
        f"--config.mesh.plugin=DIR/lib.so or {VARIABLE}={name}:DIR/lib.so, or install the package that registers it"
    )


def _named(value: str) -> dict[str, str]:
    """{platform: library} of the environment variable, name1:path1,name2:path2. JAX leaves out what it cannot read."""
    named = {}
    for entry in filter(None, value.split(",")):
        name, *path = entry.split(os.path.pathsep)
        if not name or len(path) != 1 or not path[0]:
            raise UserError(
                f"{VARIABLE}: {entry!r} is not NAME{os.path.pathsep}PATH, such as npu{os.path.pathsep}DIR/lib.so"
            )
        named[name] = path[0]
    return named


def _sound(path: str, given: str) -> None:
    """Raises UserError unless the path, named by `given`, leads to a whole shared library with a plugin's entrance."""
    if not path:
        return
    if given == VARIABLE and path.endswith(
        ".json"
    ):  # JAX's other form: a file that names the library and options
        path = _library(path)
    file, what = Path(path), f"{given}: {path}"
    if not file.is_file():
        raise UserError(
            f"{what} is {'a directory' if file.is_dir() else 'missing'}: name the plugin's shared library itself"
        )
    _whole(file, what)
    try:
        library = ctypes.CDLL(str(file.resolve()))
    except OSError as error:
        cause = str(error).removeprefix(f"{file.resolve()}: ")
        if "cannot open shared object" in cause:
            missing = cause.split(":")[0]
            raise UserError(
                f"{what} needs {missing}, which is not found: add its folder to LD_LIBRARY_PATH (set_env.sh)"
            ) from None
        raise UserError(f"{what} is not a shared library for this machine: {cause}") from None
    if not hasattr(library, _ENTRANCE):
        raise UserError(f"{what} is a library, but no PJRT plugin: it has no {_ENTRANCE}")


def _library(path: str) -> str:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))["library_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{VARIABLE}: {path} does not name a library_path: {error!r}") from None


def _whole(file: Path, what: str) -> None:
    """Loading a library that was cut short kills the process with a bus error, so its segments are held against its size first."""
    with file.open("rb") as opened:
        head = opened.read(64)
        if len(head) < 64 or head[:4] != b"\x7fELF":
            if head[:4] in (
                b"\xcf\xfa\xed\xfe",
                b"\xca\xfe\xba\xbe",
            ):  # macOS has libraries of its own
                return
            raise UserError(f"{what} is not a shared library")
        if head[4:6] != b"\x02\x01":  # not of 64 bits, little-endian: loading it says so
            return
        start, size, count = (
            struct.unpack_from("<Q", head, 32)[0],
            *struct.unpack_from("<HH", head, 54),
        )
        opened.seek(start)
        table = opened.read(size * count)
    ends = [
        sum(struct.unpack_from("<Q", table, at + k)[0] for k in (8, 32))
        for at in range(0, len(table) - size + 1, size)
    ]
    if len(ends) < count or max(ends, default=0) > file.stat().st_size:
        raise UserError(f"{what} was cut short: copy it again")


def _one_line(name: str, error: Exception) -> str:
    """JAX's complaint about a backend that does not start, in one line with the remedy."""
    from importlib.metadata import version

    cause = re.sub(r" \((set|you may need).*", "", str(error).splitlines()[0])
    remedy = next(
        (r for part, r in _REMEDIES.items() if part in cause), "look at its driver and its plugin"
    )
    where = f"config.mesh.platform={name}" if name else "the platform that JAX chooses"
    return f"{where} does not start: {cause}; {remedy.format(version=version('jax'))}"


class _KeepLog(logging.Filter):
    """Takes what JAX would log of its plugins."""

    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record):
        if str(record.msg).startswith(_DISCOVERY):
            self.records.append(record)
            return False
        return True


def _discovered(xla_bridge) -> list[logging.LogRecord]:
    """Has JAX look for plugins, as it would later; what it has to complain of."""
    kept, log = _KeepLog(), xla_bridge.logger
    log.addFilter(kept)
    try:
        xla_bridge._discover_and_register_pjrt_plugins()
    finally:
        log.removeFilter(kept)
    return kept.records
