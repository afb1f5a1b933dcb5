"""What the compilers of other platforms are given: StableHLO and nothing else, on every default
path.
"""

import json

import pytest

from dlm import bench
from dlm.app import cli
from dlm.core.run import build_run
from dlm.drills import stablehlo
from tests import tiny

MOGE = dict(
    nn__experts=dict(
        count=16, per_token=8, width=8, router=dict(name="moge", groups=8)
    ),
    mesh=dict(data=1, expert=8),
)


def programs(**changes):
    return stablehlo.exported(
        build_run(tiny.recipe("nowhere.txt", nn__layers=1, data__length=16, **changes)),
        "npu",
    )


def test_the_default_paths_hold_nothing_but_stablehlo(tmp_path):
    """An update and a sampler of a model of grouped experts, over eight abstract devices."""
    for name, program in programs(**MOGE).items():
        kinds = stablehlo.ops(program.mlir_module())
        assert program.platforms == ("npu",) and program.nr_devices == 8
        assert not stablehlo.outside(kinds) and set(kinds) <= stablehlo.ALLOWED, (
            "not even an exception"
        )
        assert {
            "stablehlo.all_gather",
            "stablehlo.reduce_scatter",
            "stablehlo.while",
            "sdy.manual_computation",
        } <= set(kinds)
        stablehlo.write(tmp_path, name, program)
        assert (tmp_path / f"{name}.mlir").read_text() == program.mlir_module()
        assert (tmp_path / f"{name}.stablehlo").read_bytes()[:4] == b"ML\xefR"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [tiny.AR, dict(objective="block"), dict(optim__kind="muon")],
    ids=["ar", "block", "muon"],
)
def test_so_do_those_of_other_objectives_and_optimizers(changes):
    for program in programs(**changes).values():
        assert set(stablehlo.ops(program.mlir_module())) <= stablehlo.ALLOWED


def test_what_needs_a_host_or_a_library_is_seen():
    import jax
    import jax.numpy as jnp

    def of(call):
        return stablehlo.ops(
            jax.export.export(jax.jit(call), platforms=["npu"])(
                jnp.ones((4, 4))
            ).mlir_module()
        )

    largest = of(lambda x: jax.lax.top_k(x, 3))
    assert (
        set(largest) - stablehlo.ALLOWED == set(stablehlo.EXCEPTIONS)
        and stablehlo.outside(largest) == []
    )
    text = "module { func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> { "
    text += (
        "%y = stablehlo.custom_call @xla_python_callback(%x) : (tensor<4xf32>) "
        "-> tensor<4xf32> "
    )
    text += "%z = chlo.tan %y : tensor<4xf32> -> tensor<4xf32> return %z : tensor<4xf32> } }"
    assert stablehlo.outside(stablehlo.ops(text)) == [
        "stablehlo.custom_call @xla_python_callback",
        "chlo.tan",
    ]


def test_the_command_tells_and_fails_where_an_op_is_outside(
    monkeypatch, tmp_path, capsys
):
    class Program:
        nr_devices = 1
        mlir_module_serialized = b"bytes"

        def mlir_module(self):
            inside = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> { "
            inside += "%y = chlo.tan %x : tensor<4xf32> -> tensor<4xf32>"
            return f"module {{ {inside} return %y : tensor<4xf32> }} }}"

    calls = []
    monkeypatch.setattr(
        stablehlo,
        "exported",
        lambda run, platform: calls.append((run, platform)) or dict(update=Program()),
    )
    flags = [
        "--config.data.length=64",
        "--platform=other",
        f"--out={tmp_path / 'deep' / 'er'}",
        "--json",
    ]
    with pytest.raises(SystemExit, match="1"):
        cli.main(bench.main, ["export", *flags])
    out, err = capsys.readouterr()
    assert calls[0][0].data.length == 64 and calls[0][1] == "other"
    assert (
        json.loads(out)["programs"]["update"]["outside"] == ["chlo.tan"]
        and "OUTSIDE" in err
        and "outside of the list: chlo.tan" in err
    )
    assert (tmp_path / "deep" / "er" / "update.stablehlo").read_bytes() == b"bytes"
    with pytest.raises(SystemExit, match="2"):
        cli.main(bench.main, ["export", "--platform=a,b"])
    assert "must be one name" in capsys.readouterr().err
