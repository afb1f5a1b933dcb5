"""The table of axis letters: decay, sharding, and names that carry none."""

import pytest

from dlm.core import axes


def test_suffix_and_decay():
    assert axes.suffix("attend_norm_D") == "D" and axes.suffix("q_DHK") == "DHK"
    assert [
        n
        for n in (
            "q_DHK",
            "o_HKD",
            "up_DF",
            "embed_VD",
            "unembed_VD",
            "norm_D",
            "q_norm_K",
            "q_bias_HK",
            "time_AW",
            "ffn_gate_WD",
        )
        if axes.decayed(n)
    ] == [
        "q_DHK",
        "o_HKD",
        "up_DF",
    ]
    for name in ("kernel", "up_DY", "DF"):
        with pytest.raises(ValueError, match="axis suffix"):
            axes.suffix(name)


def test_partition_uses_a_mesh_axis_once_and_only_where_it_divides():
    sizes = dict(data=1, fsdp=2, tensor=2, expert=1)
    assert axes.partition("q_DHK", (3, 8, 4, 4), sizes) == (
        None,
        "fsdp",
        "tensor",
        None,
    )
    assert axes.partition("o_HKD", (4, 4, 8), sizes) == ("tensor", None, "fsdp")
    assert axes.partition("k_DJK", (8, 1, 4), sizes) == ("fsdp", None, None)
    assert axes.partition("embed_VD", (261, 8), sizes) == (None, "fsdp")
    assert axes.partition("norm_D", (7,), sizes) == (None,)
    assert axes.partition("up_EDF", (3, 8, 4, 6), dict(fsdp=2, tensor=2, expert=4)) == (
        None,
        "expert",
        "fsdp",
        "tensor",
    )
    assert axes.partition(
        "router_DGX", (4, 4, 2), dict(fsdp=2, tensor=2, expert=2)
    ) == (
        "fsdp",
        None,
        None,
    )
