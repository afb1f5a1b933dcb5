"""Choose the devices of a run: those that JAX chooses, or those of the platform in the config.

    config.mesh.platform=npu

needs a PJRT plugin, unless JAX itself knows the platform (cpu, tpu, …). It is named by

    config.mesh.plugin=DIR/lib.so                     in the config,
    PJRT_NAMES_AND_LIBRARY_PATHS=npu:DIR/lib.so       in the environment, or
    an installed package of the namespace or the entry points `jax_plugins`, which registers itself.

A plugin is a shared library with one entry point, GetPjrtApi (https://openxla.org/xla/pjrt). Where
a plugin does not start, JAX logs it and may silently use the CPU; here that is one error line,
before anything is read or written.
"""

import ctypes
import json
import logging
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from dlm.core.errors import UserError
from dlm.core.named import nearest

VARIABLE = "PJRT_NAMES_AND_LIBRARY_PATHS"
_ENTRY_POINT = "GetPjrtApi"
_DISCOVERY = (
    "Jax plugin configuration error"  # start of JAX's message about a broken package
)
_UNSEEN = (
    "its devices must be visible in this process: look at the driver, the container, "
    "and variables such as *_VISIBLE_DEVICES"
)
_REMEDIES = {  # part of JAX's message → remedy
    "PJRT API": "install the plugin that was made for this version of jax, {version}, "
    "or the jax it was made for",
    "no devices": _UNSEEN,
}
_MAC_LIBRARIES = (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")  # first bytes of a file


def devices(name: str = "", plugin: str = "") -> list:
    """Return all devices of the platform; "" is the one that JAX chooses.

    Starts JAX's backends, or looks at those that already run. Raises UserError.
    """
    import jax
    from jax._src import xla_bridge

    late = xla_bridge.backends_are_initialized()
    try:
        if not late:
            _choose(xla_bridge, name, plugin)
        available = jax.devices()
    except RuntimeError as error:
        raise UserError(_describe_failure(name, error)) from None
    backend = xla_bridge.get_backend()
    running = next(
        known for known, other in xla_bridge.backends().items() if other is backend
    )
    if name and running not in xla_bridge.expand_platform_alias(name):
        why = "a process keeps the backend that it started with: begin a new one"
        if not late:
            why = _UNSEEN
        raise UserError(
            f"config.mesh.platform={name} is not what runs, {running} is; {why}"
        )
    return available


def _choose(xla_bridge: ModuleType, name: str, plugin: str) -> None:
    """Register the plugin and let JAX start that platform alone, beside the host's CPU."""
    import jax

    libraries = _named(os.environ.get(VARIABLE, ""))
    _check_libraries(name, plugin, libraries)
    failures = _discover(xla_bridge)
    known = xla_bridge._backend_factories
    if plugin and name not in libraries:
        if name in known:
            cause = f"{name} is there already, by JAX or an installed package"
            raise UserError(
                f"config.mesh.plugin={plugin}: {cause}: leave the plugin out"
            )
        xla_bridge.register_plugin(name, library_path=plugin)

    # What is requested must exist, under one of the names that JAX knows it by.
    setting = jax.config.jax_platforms or ""  # type: ignore[attr-defined]  # defined at run time
    variable = list(filter(None, setting.split(",")))
    requested = [name] if name else variable
    missing = [one for one in requested if not _platforms_of(xla_bridge, one)]
    if missing:
        source = "config.mesh.platform" if name else "JAX_PLATFORMS"
        raise UserError(
            _describe_broken(failures) or _describe_missing(source, missing[0], known)
        )
    if failures and not requested:
        remedy = "or choose without it, by --config.mesh.platform=cpu"
        raise UserError(f"{_describe_broken(failures)}, {remedy}")
    for record in failures:  # about a platform that nobody requested
        xla_bridge.logger.handle(record)

    if name:
        platforms = _platforms_of(xla_bridge, name)
        allowed = {p for one in variable for p in _platforms_of(xla_bridge, one)}
        if variable and not allowed & set(platforms):
            cause = (
                f"JAX_PLATFORMS={','.join(variable)} leaves it out: unset one of them"
            )
            raise UserError(f"config.mesh.platform={name}, but {cause}")
        jax.config.update("jax_platforms", ",".join(dict.fromkeys([*platforms, "cpu"])))


def _check_libraries(name: str, plugin: str, libraries: dict[str, str]) -> None:
    """Raise UserError unless config and environment agree and every library is sound."""
    if plugin and libraries.get(name, plugin) != plugin:
        other = f"{VARIABLE} names for {name}, {libraries[name]}"
        raise UserError(
            f"config.mesh.plugin={plugin} is not what {other}: leave one of them out"
        )
    sources = dict.fromkeys(libraries.values(), VARIABLE)
    for path, source in {plugin: "config.mesh.plugin", **sources}.items():
        _check_library(path, source)


def _platforms_of(xla_bridge: ModuleType, name: str) -> list[str]:
    """List the platforms that JAX can start under a name; 'gpu' stands for several."""
    aliases = xla_bridge.expand_platform_alias(name)
    return [p for p in aliases if p in xla_bridge._backend_factories]


def _describe_broken(failures: list[logging.LogRecord]) -> str:
    """Describe the first package that could not start, if any."""
    if not failures:
        return ""
    record = failures[0]
    cause = f": {record.exc_info[1]!r}".splitlines()[0] if record.exc_info else ""
    package = (
        record.getMessage().removeprefix(_DISCOVERY).strip(": ").replace(" %s", "")
    )
    return (
        f"a package of jax_plugins is broken: {package}{cause}; repair or uninstall it"
    )


def _describe_missing(setting: str, name: str, known: Iterable[str]) -> str:
    return (
        f"{setting}={name}: no plugin brings it{nearest(name, known)}; "
        f"there are {', '.join(known)}. Name its library by --config.mesh.plugin=DIR/lib.so or "
        f"{VARIABLE}={name}:DIR/lib.so, or install the package that registers it"
    )


def _named(value: str) -> dict[str, str]:
    """Parse the environment variable, name1:path1,name2:path2, into {platform: library}.

    JAX itself ignores entries that it cannot parse; here they raise UserError.
    """
    libraries = {}
    for entry in filter(None, value.split(",")):
        name, *path = entry.split(os.path.pathsep)
        if not name or len(path) != 1 or not path[0]:
            form = f"NAME{os.path.pathsep}PATH, such as npu{os.path.pathsep}DIR/lib.so"
            raise UserError(f"{VARIABLE}: {entry!r} is not {form}")
        libraries[name] = path[0]
    return libraries


# -------------------------------------------------------------------------------- shared libraries


def _check_library(path: str, source: str) -> None:
    """Raise UserError unless the path leads to a whole shared library with a plugin's entry point.

    `source` is the setting that names the path.
    """
    if not path:
        return
    if source == VARIABLE and path.endswith(".json"):
        # JAX's other form: a file that names the library and its options.
        path = _library_in(path)
    file, what = Path(path), f"{source}: {path}"
    if not file.is_file():
        kind = "a directory" if file.is_dir() else "missing"
        raise UserError(f"{what} is {kind}: name the plugin's shared library itself")
    _check_whole(file, what)
    try:
        library = ctypes.CDLL(str(file.resolve()))
    except OSError as error:
        raise UserError(_describe_load_error(file, what, error)) from None
    try:
        library[_ENTRY_POINT]
    except AttributeError:
        cause = f"a library, but no PJRT plugin: it has no {_ENTRY_POINT}"
        raise UserError(f"{what} is {cause}") from None


def _describe_load_error(file: Path, what: str, error: OSError) -> str:
    cause = str(error).removeprefix(f"{file.resolve()}: ")
    if "cannot open shared object" in cause:
        missing = cause.split(":")[0]
        remedy = "add its folder to LD_LIBRARY_PATH (set_env.sh)"
        return f"{what} needs {missing}, which is not found: {remedy}"
    return f"{what} is not a shared library for this machine: {cause}"


def _library_in(path: str) -> str:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))["library_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{VARIABLE}: {path} does not name a library_path: {error!r}"
        ) from None


def _check_whole(file: Path, what: str) -> None:
    """Raise UserError where the file is shorter than its segments.

    Loading a truncated library kills the process with a bus error.
    """
    with file.open("rb") as opened:
        head = opened.read(64)
        if head[:4] in _MAC_LIBRARIES:
            return
        if len(head) < 64 or head[:4] != b"\x7fELF":
            raise UserError(f"{what} is not a shared library")
        if (
            head[4:6] != b"\x02\x01"
        ):  # not 64 bits, little-endian: loading it will say so
            return
        # The program header table: its offset, size of an entry, number of entries.
        (start,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        opened.seek(start)
        table = opened.read(size * count)
    ends = []
    for at in range(0, len(table) - size + 1, size):
        offset, length = (struct.unpack_from("<Q", table, at + k)[0] for k in (8, 32))
        ends.append(offset + length)
    if len(ends) < count or max(ends, default=0) > file.stat().st_size:
        raise UserError(f"{what} was cut short: copy it again")


# ------------------------------------------------------------------------------------ JAX's errors


def _describe_failure(name: str, error: Exception) -> str:
    """Put JAX's message about a backend that does not start into one line with the remedy."""
    from importlib.metadata import version

    cause = re.sub(r" \((set|you may need).*", "", str(error).splitlines()[0])
    remedies = [remedy for part, remedy in _REMEDIES.items() if part in cause]
    remedy = remedies[0] if remedies else "look at its driver and its plugin"
    where = f"config.mesh.platform={name}" if name else "the platform that JAX chooses"
    return f"{where} does not start: {cause}; {remedy.format(version=version('jax'))}"


class _CaptureFailures(logging.Filter):
    """Takes JAX's messages about broken plugins out of its log."""

    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith(_DISCOVERY):
            self.records.append(record)
            return False
        return True


def _discover(xla_bridge: ModuleType) -> list[logging.LogRecord]:
    """Let JAX look for plugins, as it would later; return its messages about broken ones."""
    capture, log = _CaptureFailures(), xla_bridge.logger
    log.addFilter(capture)
    try:
        xla_bridge._discover_and_register_pjrt_plugins()
    finally:
        log.removeFilter(capture)
    return capture.records
