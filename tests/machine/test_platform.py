"""Platforms: a missing or broken plugin is reported in one line, and a real one runs everything."""

import ctypes
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from jax._src import xla_bridge

from dlm.core.config import to_json
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.machine import mesh, platform
from dlm.machine.config import MeshConfig
from dlm.runs import directory
from tests import tiny
from tests.machine import life


@pytest.fixture(scope="module")
def library():
    import _ctypes

    return Path(_ctypes.__file__)  # a shared library, and no plugin


@pytest.fixture
def context(monkeypatch):
    """JAX before it looked for plugins and started, so far as `machine.platform` can see."""
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(xla_bridge, "_plugins_registered", False)
    monkeypatch.setattr(
        xla_bridge, "_backend_factories", dict(xla_bridge._backend_factories)
    )
    monkeypatch.delenv(platform.VARIABLE, raising=False)
    before = jax.config.jax_platforms
    yield monkeypatch
    jax.config.update("jax_platforms", before)


def mistake(name="", plugin=""):
    with pytest.raises(UserError) as message:
        platform.devices(name, plugin)
    assert "\n" not in str(message.value)
    return str(message.value)


def test_a_library_that_is_none(library, tmp_path, context):
    whole = library.read_bytes()
    cases = {
        "missing": (None, "missing"),
        "text": (b"not a library" * 9, "is not a shared library"),
        "empty": (b"", "is not a shared library"),
        "cut": (whole[:5000], "was cut short"),
        "beheaded": (whole[:80], "was cut short"),
        "short": (
            whole[:4] + b"\x01" + whole[5:],
            "not a shared library for this machine",
        ),
        "whole": (whole, "no GetPjrtApi"),
    }
    for name, (content, said) in cases.items():
        path = tmp_path / f"{name}.so"
        if content is not None:
            path.write_bytes(content)
        assert said in mistake(
            "npu", str(path)
        ) and f"config.mesh.plugin: {path}" in mistake("npu", str(path))
        context.setenv(platform.VARIABLE, f"npu:{path}")
        assert said in mistake() and f"{platform.VARIABLE}: {path}" in mistake(), (
            "JAX alone would not always say so"
        )
        context.delenv(platform.VARIABLE)
    assert "is a directory" in mistake("npu", str(tmp_path))
    for cause, said in {
        "libhccl.so: cannot open shared object file: No such file or "
        "directory": "needs libhccl.so, which is not found",
        f"{tmp_path / 'whole.so'}: wrong ELF class: "
        "ELFCLASS32": "not a shared library for this machine: wrong ELF class: ELFCLASS32",
    }.items():
        context.setattr(ctypes, "CDLL", _raises(OSError(cause)))
        assert said in mistake("npu", str(tmp_path / "whole.so"))


def _raises(error):
    def call(*_, **__):
        raise error

    return call


def test_the_variable_is_read_as_jax_would(tmp_path, context):
    for wrong in ("npu", "npu:", ":x.so", "npu:a:b", "a:x,b"):
        context.setenv(platform.VARIABLE, wrong)
        assert "is not NAME:PATH" in mistake() and platform.VARIABLE in mistake(
            "cpu"
        ), "JAX leaves it out and goes on"
    assert (
        platform._named("a:x.so,b:y.so") == dict(a="x.so", b="y.so")
        and platform._named("") == {}
    )
    for content in ("{}", "[]", "no json"):
        (tmp_path / "p.json").write_text(content)
        context.setenv(platform.VARIABLE, f"npu:{tmp_path / 'p.json'}")
        assert "does not name a library_path" in mistake("npu")
    (tmp_path / "p.json").write_text('{"library_path": "nowhere.so"}')
    assert "nowhere.so is missing" in mistake("npu")
    context.setenv(platform.VARIABLE, "npu:a.so")
    assert "leave one of them out" in mistake("npu", "b.so")


def test_nothing_brings_the_platform(context):
    said = mistake("npu")
    assert (
        "config.mesh.platform=npu: no plugin brings it" in said
        and "--config.mesh.plugin=" in said
        and platform.VARIABLE in said
    )
    assert "did you mean 'tpu'" in mistake("tpv")
    jax.config.update("jax_platforms", "npu,cpu")
    assert mistake().startswith("JAX_PLATFORMS=npu: no plugin brings it")
    jax.config.update("jax_platforms", "cpu")
    assert "but JAX_PLATFORMS=cpu leaves it out" in mistake("tpu")
    assert jax.config.jax_platforms == "cpu"


@pytest.mark.parametrize(
    "content",
    [
        "raise ImportError('libx is gone')",
        "def initialize():\n    raise RuntimeError('no driver')",
    ],
)
def test_a_package_that_cannot_start_is_not_passed_over(
    content, context, tmp_path, caplog
):
    """JAX logs it and computes on the CPU."""
    (tmp_path / "jax_plugins" / "broken").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "broken" / "__init__.py").write_text(content)
    space = types.ModuleType("jax_plugins")
    space.__path__ = [str(tmp_path / "jax_plugins")]
    context.setitem(sys.modules, "jax_plugins", space)
    context.setattr(xla_bridge, "jax_plugins", space)
    said = mistake("npu")
    assert (
        "jax_plugins is broken" in said
        and content.partition("('")[2][:9] in said
        and "repair or uninstall" in said
    )
    context.setattr(xla_bridge, "_plugins_registered", False)
    jax.config.update("jax_platforms", None)
    assert "or choose without it, by --config.mesh.platform=cpu" in mistake()
    context.setattr(xla_bridge, "_plugins_registered", False)
    assert not caplog.records
    assert (
        platform.devices("cpu") == jax.devices() and jax.config.jax_platforms == "cpu"
    )
    assert "Jax plugin configuration error" in caplog.text, (
        "nobody asked for it, but it is still told"
    )
    context.delitem(sys.modules, "jax_plugins.broken", raising=False)


def test_what_jax_complains_of_is_told_with_a_remedy(context, library):
    context.setattr(platform, "_check_library", lambda path, source: None)
    jax.config.update("jax_platforms", None)
    brought = []
    context.setattr(
        xla_bridge,
        "register_plugin",
        lambda name, library_path: brought.append((name, library_path)),
    )
    assert "cpu is there already" in mistake("cpu", "x.so") and not brought
    assert "no plugin brings it" in mistake("npu", "x.so") and brought == [
        ("npu", "x.so")
    ]
    for cause, said in {  # as jax 0.10.2 puts it
        "INVALID_ARGUMENT: Plugin PJRT API version 0.1 is older than the minimum "
        "supported version 0.29": "made for this version of jax",
        "INVALID_ARGUMENT: Mismatched PJRT plugin PJRT API major version (3) and "
        "framework PJRT API major version 0).": jax.__version__,
        "Backend 'npu' provides no devices.": "must be visible in this process",
        "INTERNAL: the driver sleeps": "look at its driver",
    }.items():
        hint = " (set JAX_PLATFORMS='' to automatically choose an available backend)"
        context.setattr(
            jax,
            "devices",
            _raises(
                RuntimeError(f"Unable to initialize backend 'npu': {cause}{hint}\nmore")
            ),
        )
        message = mistake("tpu")
        assert (
            message.startswith("config.mesh.platform=tpu does not start")
            and cause in message
            and said in message
            and hint not in message
        )
        assert mistake().startswith("the platform that JAX chooses does not start")


def test_it_is_what_was_asked_for_that_runs(context):
    """JAX leaves out a platform without visible devices even where it is the first named."""
    jax.config.update("jax_platforms", None)
    assert (
        "config.mesh.platform=tpu is not what runs, cpu is; its devices must be visible"
        in mistake("tpu")
    )
    context.setattr(xla_bridge, "_alias_to_platforms", dict(gpu=["cuda", "cpu"]))
    assert (
        platform.devices("gpu") == jax.devices() and jax.config.jax_platforms == "cpu"
    )


def test_a_process_keeps_its_platform():
    assert (
        platform.devices()
        == platform.devices("cpu")
        == mesh.devices(MeshConfig(platform="cpu"))
        == jax.devices()
    )
    assert "is not what runs, cpu is; a process keeps the backend" in mistake("npu")
    assert "does not fit 4 cpu device(s)" in str(
        pytest.raises(UserError, mesh.make, MeshConfig(data=5, platform="cpu")).value
    )


def test_a_mesh_names_its_platform(corpus, tmp_path):
    for wrong, said in (
        (dict(plugin="x.so"), "say under which name"),
        (dict(platform="npu,cpu"), "must be one name"),
    ):
        with pytest.raises(ValueError, match=said):
            MeshConfig(**wrong)
    run = build_run(
        tiny.recipe(corpus, mesh=dict(data=1, platform="npu", plugin="x.so"))
    )
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / directory.CONFIG).write_text(to_json(run))
    from dlm.app import open_run

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(
            UserError, match=f"change mesh.platform in {tmp_path}/config.json"
        ),
    ):
        patch.setattr(open_run.checkpoint, "intact", lambda *_: 1)
        open_run.reopen(tmp_path)
    shape = mesh.abstract_mesh(MeshConfig(fsdp=8, expert=64)).shape
    assert dict(shape) == dict(data=1, fsdp=8, tensor=1, expert=64), (
        "no such devices are here"
    )


def test_a_mesh_splits_the_axes_of_a_torus():
    """128 chips in a torus of 4 × 4 × 8 under fsdp=8, tensor=8, expert=2: one axis serves two."""

    class Chip:
        platform, device_kind, process_index, slice_index, core_on_chip = (
            "tpu",
            "TPU v5",
            0,
            0,
            0,
        )

        def __init__(self, number):
            self.id, self.coords = number, (number % 4, number // 4 % 4, number // 16)

    placed = mesh.placed((1, 8, 8, 2), [Chip(n) for n in range(128)])
    assert (
        placed.shape == (1, 8, 8, 2)
        and len({chip.coords for chip in placed.flat}) == 128
    )
    assert {
        sum(abs(a - b) for a, b in zip(*(c.coords for c in pair), strict=True))
        for pair in placed.reshape(-1, 2)
    } == {1}


@pytest.mark.slow
def test_a_life_through_a_plugin_is_that_on_the_cpu(corpus, tmp_path):
    """Train, resume, evaluate and sample on four devices of a real PJRT C API plugin named npu."""
    import xla_plugins.xla_cpu_pjrt as real

    plugin = Path(real.__file__).parent / "xla_cpu_pjrt.so"
    words = [
        corpus,
        tmp_path / "npu",
        "--config.mesh.platform=npu",
        f"--config.mesh.plugin={plugin}",
    ]
    free = {
        k: v
        for k, v in os.environ.items()
        if k not in ("JAX_PLATFORMS", platform.VARIABLE)
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.machine.life", *map(str, words)],
        cwd=tiny.ROOT,
        env=dict(free, PYTHONPATH=str(tiny.ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    through = json.loads(done.stdout)
    assert (
        through["platform"] == "npu"
        and through["client"].startswith("PJRT C API")
        and through["devices"] == 4
    )
    here = life.live(str(corpus), str(tmp_path / "cpu"), "--config.mesh.platform=cpu")
    assert (
        here["platform"] == "cpu"
        and len(here["losses"]) == 4
        and here["losses"][:2] == here["losses"][2:]
    )
    for part in ("losses", "scores"):
        assert through[part] == pytest.approx(here[part], rel=0, abs=1e-5)
    assert through["text"] == here["text"]
