"""The bench of experts: what a mesh sends is the closed form, and times are told beside a dense
layer's.
"""

import argparse

import jax
import pytest

from dlm.benches import moge
from dlm.core.errors import UserError
from dlm.machine import hlo

SMALL = argparse.Namespace(
    tokens=8,
    width=16,
    experts=8,
    active=4,
    ffn=16,
    devices=4,
    repeats=1,
    only="blocks,few,many",
    json=False,
)


@pytest.fixture(scope="module")
def sent():
    return {
        name: moge.costs(SMALL, moge._settings(SMALL, name))
        for name in ("moge", "capacity")
    }


@pytest.mark.slow
@pytest.mark.parametrize("way", ["forward", "both"])
def test_moge_sends_what_the_closed_form_says_and_top_k_exchanges(sent, way):
    assert sent["moge"][way]["sent"] == moge.closed_form(SMALL)[way]
    assert set(sent["capacity"][way]["sent"]) - {"all-reduce"} == {"all-to-all"}


def test_the_program_has_neither_a_branch_nor_a_ragged_exchange():
    """One program for any routing: nothing of it depends on what the router says."""
    apply, params, x_BLD = moge._layer(SMALL, moge._settings(SMALL, "moge"))
    text = (
        jax.jit(jax.grad(lambda p, x: apply(p, x).sum())).lower(params, x_BLD).as_text()
    )
    assert not any(
        op in text for op in ("stablehlo.case", "stablehlo.if", "ragged", "custom_call")
    )


@pytest.mark.slow
def test_times_are_told_beside_a_dense_layer_as_training_runs_it():
    jax.config.update("jax_cpu_enable_async_dispatch", True)
    results = moge.timed(SMALL)
    assert not jax.config.read("jax_cpu_enable_async_dispatch")
    assert (
        set(results["ratios"]) == {"blocks", "few", "many"}
        and results["many_over_few"]["median"] > 0
    )
    assert [line.split()[0] for line in results["lines"][1:]] == [
        "dense",
        "blocks",
        "few",
        "many",
        "E=32",
    ]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--experts=12"], "--experts=12 must be a multiple of 2 × --active=8"),
        (["--devices=3"], "--devices=3 divide that"),
        (["--only=fast"], "no arm 'fast'"),
        (["--tokens=0"], "at least 1"),
    ],
)
def test_mistakes(words, said):
    with pytest.raises(UserError, match=said):
        moge.main(words)


def test_collectives_are_counted_by_what_a_device_sends():
    text = """
      %a = f32[8,16]{1,0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}
      %b = bf16[2,16]{1,0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}
      %c = (f32[4]{0}, s32[2]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}
      %d = ((f32[2,8]{1,0}), (f32[4,8]{1,0})) all-gather-start(%x), replica_groups=[2,2]<=[4]
      %e = f32[4,4]{1,0} add(%a, %b)
    """
    sent = hlo.collectives(text)
    assert sent["all-gather"] == 0.75 * 8 * 16 * 4 + 0.5 * 4 * 8 * 4
    assert sent["reduce-scatter"] == 0.75 * 8 * 16 * 2 and sent[
        "all-reduce"
    ] == 2 * 0.5 * (16 + 8)
