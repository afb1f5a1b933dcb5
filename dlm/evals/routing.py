"""The routers on held-out text: load of experts and devices, dropped tokens, entropy, pairs.

Scores are means over the layers and the batches, so an imbalance is what a step has to wait for.
The details of the first score contain tables for each layer (load of each expert, imbalance over
devices, entropy, dropped share, how often two experts are chosen together as a multiple of chance),
of all text and by the share of its row that is masked.

Source: loads as in arXiv:2101.03961 (Switch Transformers) and 2505.21411 (Pangu Pro MoE).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.core.errors import UserError
from dlm.core.run import Run
from dlm.evals.base import Base, Scores, over_batches
from dlm.nn import router_metrics

Sums = dict[str, np.ndarray]  # of tokens, by layer N and bucket Z of the mask ratio


@dataclass(frozen=True)
class Routing(Base):
    windows: int = 128  # evenly spread held-out windows; 0: all
    devices: int = (
        0  # over which load is measured; 0: those of the mesh, or one for each group
    )

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "batches"

    def __post_init__(self):
        if min(self.windows, self.devices) < 0:
            raise ValueError(
                f"windows={self.windows} and devices={self.devices} must not be negative"
            )

    def check(self, run: Run, tokenizer: Any) -> None:
        """Raises UserError for a network without experts."""
        self._require_experts(run)

    def _require_experts(self, run: Run) -> None:
        if not run.nn.experts.count:
            raise UserError(
                "evals.routing: this model has no experts (nn.experts.count=0)"
            )

    def run(self, context: EvalContext, step: int) -> Scores:
        experiment = context.experiment
        self._require_experts(experiment.run)
        experts = experiment.run.nn.experts
        devices = self.devices
        if not devices:
            devices = router_metrics.devices(experts, experiment.mesh.shape["expert"])
        if experts.count % devices:
            raise UserError(
                f"evals.routing.devices={devices} must divide nn.experts.count={experts.count}"
            )
        active = experts.per_token
        parts = []
        metrics = []
        for sums, _ in over_batches(context, self.count, self.windows):
            parts.append(sums)
            metrics.append(router_metrics.means(sums, active, devices))
        total = jax.tree.map(_sum, *parts)

        # One record is enough for the tables, which are large.
        context.details["routing"] = tables(total, active, devices)
        for name in metrics[0]:
            values = [float(each[name]) for each in metrics]
            mean = float(np.mean(values))
            yield Score(name, mean, _standard_error(values))
            context.details.pop("routing", None)

    def count(self, experiment, params, batch, key):
        """Returns the routing sums of the loss of a batch."""
        loss = experiment.loss(params, batch, key)
        return loss.routing


def _standard_error(values: list[float]) -> float:
    # One batch says nothing of the spread.
    if len(values) < 2:
        return math.nan
    deviation = np.std(values, ddof=1)
    return float(deviation / len(values) ** 0.5)


def _sum(*parts: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(parts, 0, dtype=np.float64))


def tables(routed: Sums, active: int, devices: int) -> list[dict]:
    """Returns a table for each layer: of all tokens, and of each bucket of mask ratios with tokens.

    Args:
        routed: the sums of all batches
        active: experts per token
        devices: over which the experts are spread
    """
    # A bucket without tokens has no load to speak of.
    layers, buckets = routed["tokens_NZ"].shape
    per_layer = []
    for n in range(layers):
        sums = _part(routed, n)
        whole = jax.tree.map(_over_buckets, sums)
        layer = {"all": _table(whole, active, devices)}
        for z in range(buckets):
            if sums["tokens_NZ"][z]:
                title = f"masked {z / buckets:g} to {(z + 1) / buckets:g}"
                layer[title] = _table(_part(sums, z), active, devices)
        per_layer.append(layer)
    return per_layer


def _part(sums: Sums, index: int) -> Sums:
    return jax.tree.map(lambda array: array[index], sums)


def _over_buckets(sums_Z: np.ndarray) -> np.ndarray:
    return sums_Z.sum(0)


def _table(sums: Sums, active: int, devices: int) -> dict[str, Any]:
    tokens = sums["tokens_NZ"]
    load_E = sums["load_NZE"]
    together_EE = sums["together_NZEE"]
    load_DX = load_E.reshape(devices, -1)
    load_D = load_DX.sum(1)
    total = max(load_D.sum(), 1)

    # Experts that were chosen independently would be together so often.
    number = max(tokens, 1)
    chance_EE = np.outer(load_E, load_E) / number
    lift_EE = np.zeros_like(together_EE)
    np.divide(together_EE, chance_EE, out=lift_EE, where=chance_EE > 0)

    # The busiest device makes the others wait.
    spread = load_D.max() - load_D.min()
    imbalance = spread / total * devices
    entropy = sums["entropy_NZ"] / number
    dropped = sums["dropped_NZ"] / number / active
    share_E = load_E / max(load_E.sum(), 1)
    return {
        "tokens": int(tokens),
        "load": _rounded(share_E * len(load_E)),
        "device_load": _rounded(load_D / total * devices),
        "imbalance": round(float(imbalance), 4),
        "entropy": round(float(entropy), 4),
        "dropped": round(float(dropped), 5),
        "together": [_rounded(row) for row in lift_EE],
    }


def _rounded(values: Iterable) -> list[float]:
    return [round(float(value), 3) for value in values]
