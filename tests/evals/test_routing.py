"""The tables of a router against counts made by hand."""

import types

import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.evals.routing import Routing, tables
from dlm.nn import router_metrics
from dlm.nn.config import Experts
from dlm.nn.routers.moge import MoGE
from dlm.nn.routers.topk import TopK

# Four experts on two devices; two tokens with few masks pick {0, 1} and {0, 2}, one with many picks {0, 1}, of which 1 has no room.
PICKS = {0: [(0, 1), (0, 2)], 3: [(0, 1)]}


def sums():
    told = dict(
        load_NZE=np.zeros((1, 4, 4)),
        tokens_NZ=np.zeros((1, 4)),
        entropy_NZ=np.zeros((1, 4)),
        dropped_NZ=np.zeros((1, 4)),
    )
    told["together_NZEE"] = np.zeros((1, 4, 4, 4))
    for z, tokens in PICKS.items():
        for pair in tokens:
            told["tokens_NZ"][0, z] += 1
            told["entropy_NZ"][0, z] += 0.5
            for e in pair:
                told["load_NZE"][0, z, e] += 1
                told["together_NZEE"][0, z, e, list(pair)] += 1
    told["dropped_NZ"][0, 3] = 1
    return told


def test_tables_of_all_tokens_and_of_those_in_a_bucket():
    (layer,) = tables(sums(), active=2, devices=2)
    assert list(layer) == ["all", "masked 0 to 0.25", "masked 0.75 to 1"]
    whole, many = layer["all"], layer["masked 0.75 to 1"]
    assert whole["tokens"] == 3 and whole["load"] == [2.0, 1.333, 0.667, 0.0]
    assert whole["device_load"] == [1.667, 0.333] and whole["imbalance"] == 1.3333
    assert (
        whole["dropped"] == round(1 / 6, 5) and whole["entropy"] == 0.5 and many["dropped"] == 0.5
    )
    assert whole["together"][1][2] == 0.0 and whole["together"][0][1] == 1.0, (
        "never together; as often as chance has it"
    )
    assert many["tokens"] == 1 and many["load"] == [2.0, 2.0, 0.0, 0.0]


def test_figures_are_means_over_the_layers():
    told = {k: np.concatenate([v, np.ones_like(v)]) for k, v in sums().items()}
    found = {k: float(v) for k, v in router_metrics.means(told, 2, 2).items()}
    assert found["router_imbalance"] == pytest.approx((4 / 3 + 0) / 2) and found[
        "router_busiest"
    ] == pytest.approx((2 + 1) / 2)
    assert found["router_dropped"] == pytest.approx((1 / 6 + 4 / 4 / 2) / 2) and found[
        "router_entropy"
    ] == pytest.approx((0.5 + 1) / 2)


def test_how_many_devices_loads_are_told_for():
    grouped, free = (Experts(count=12, per_token=4, router=r) for r in (MoGE(groups=4), TopK()))
    assert [router_metrics.devices(e, ep) for e in (grouped, free) for ep in (2, 1)] == [2, 4, 2, 4]


def test_what_cannot_be_told_is_refused():
    dense = types.SimpleNamespace(
        experiment=types.SimpleNamespace(
            run=types.SimpleNamespace(nn=types.SimpleNamespace(experts=Experts()))
        )
    )
    with pytest.raises(UserError, match="this model has no experts"):
        list(Routing().run(dense, 0))
    dense.experiment.run.nn.experts = Experts(count=12, per_token=4, router=TopK())
    dense.experiment.mesh = None
    with pytest.raises(UserError, match="evals.routing.devices=5 must divide nn.experts.count=12"):
        list(Routing(devices=5).run(dense, 0))
    with pytest.raises(ValueError, match="windows=-1"):
        Routing(windows=-1)
