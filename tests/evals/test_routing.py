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

# Four experts on two devices. Two tokens with few masks choose {0, 1} and {0, 2}; one with many
# masks chooses {0, 1}, and expert 1 has no room for it.
PICKS = {0: [(0, 1), (0, 2)], 3: [(0, 1)]}


def sums():
    load_ZE = np.zeros((4, 4))
    together_ZEE = np.zeros((4, 4, 4))
    tokens_Z = np.zeros(4)
    dropped_Z = np.zeros(4)
    for z, tokens in PICKS.items():
        for pair in tokens:
            tokens_Z[z] += 1
            for expert in pair:
                load_ZE[z, expert] += 1
                together_ZEE[z, expert, list(pair)] += 1
    dropped_Z[3] = 1
    return {
        "load_NZE": load_ZE[None],
        "tokens_NZ": tokens_Z[None],
        "entropy_NZ": 0.5 * tokens_Z[None],
        "dropped_NZ": dropped_Z[None],
        "together_NZEE": together_ZEE[None],
    }


def test_tables_of_all_tokens_and_of_those_in_a_bucket():
    (layer,) = tables(sums(), active=2, devices=2)
    assert list(layer) == ["all", "masked 0 to 0.25", "masked 0.75 to 1"]
    whole = layer["all"]
    many = layer["masked 0.75 to 1"]
    assert whole["tokens"] == 3
    assert whole["load"] == [2.0, 1.333, 0.667, 0.0]
    assert whole["device_load"] == [1.667, 0.333]
    assert whole["imbalance"] == 1.3333
    assert whole["dropped"] == round(1 / 6, 5)
    assert whole["entropy"] == 0.5
    assert many["dropped"] == 0.5
    assert whole["together"][1][2] == 0.0
    assert whole["together"][0][1] == 1.0, "never together; as often as chance has it"
    assert many["tokens"] == 1
    assert many["load"] == [2.0, 2.0, 0.0, 0.0]


def test_figures_are_means_over_the_layers():
    routed = {}
    for name, layer in sums().items():
        even = np.ones_like(layer)
        routed[name] = np.concatenate([layer, even])
    figures = router_metrics.means(routed, 2, 2)
    figures = {name: float(value) for name, value in figures.items()}
    assert figures["router_imbalance"] == pytest.approx((4 / 3 + 0) / 2)
    assert figures["router_busiest"] == pytest.approx((2 + 1) / 2)
    assert figures["router_dropped"] == pytest.approx((1 / 6 + 4 / 4 / 2) / 2)
    assert figures["router_entropy"] == pytest.approx((0.5 + 1) / 2)


def test_over_how_many_devices_load_is_measured():
    for router in (MoGE(groups=4), TopK()):
        experts = Experts(count=12, per_token=4, router=router)
        assert router_metrics.devices(experts, 2) == 2
        assert router_metrics.devices(experts, 1) == 4


def test_what_cannot_be_measured_is_refused():
    nn = types.SimpleNamespace(experts=Experts())
    run = types.SimpleNamespace(nn=nn)
    experiment = types.SimpleNamespace(run=run)
    dense = types.SimpleNamespace(experiment=experiment)
    with pytest.raises(UserError, match="this model has no experts"):
        list(Routing().run(dense, 0))
    nn.experts = Experts(count=12, per_token=4, router=TopK())
    experiment.mesh = None
    with pytest.raises(
        UserError, match="evals.routing.devices=5 must divide nn.experts.count=12"
    ):
        list(Routing(devices=5).run(dense, 0))
    with pytest.raises(ValueError, match="windows=-1"):
        Routing(windows=-1)
