"""What the routers do with held-out text: the load of experts and devices, what is dropped, how sure they are, who is picked together.

Scores are means over the layers and the batches, so that an imbalance is what a step has to wait for; the tables of each layer
(load of each expert, imbalance over devices, entropy, dropped share, how often two experts are picked together as a multiple of chance), of
all text and by the share of its row that is masked, are among the details of the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from dlm.core.errors import UserError
from dlm.machine import mesh
from dlm.nn import router_metrics


@dataclass(frozen=True)
class Routing:
    windows: int = 128  # evenly spread held-out windows; 0: all
    devices: int = 0  # that the experts are thought to lie on; 0: those of the mesh, or one for each group, or K of them

    claims: ClassVar[str] = "samples"
    over: ClassVar[str] = "batches"

    def __post_init__(self):
        if min(self.windows, self.devices) < 0:
            raise ValueError(
                f"windows={self.windows} and devices={self.devices} must not be negative"
            )

    def check(self, run, *given) -> None:
        """Refuses a network without experts."""
        if not run.nn.experts.count:
            raise UserError("evals.routing: this model has no experts (nn.experts.count=0)")

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error over the batches)."""
        self.check(context.experiment.run)
        e = context.experiment.run.nn.experts
        devices = self.devices or router_metrics.devices(e, context.experiment.mesh.shape["expert"])
        if e.count % devices:
            raise UserError(
                f"evals.routing.devices={devices} must divide nn.experts.count={e.count}"
            )
        counted = context.experiment.counted(self.count)
        parts = [
            mesh.fetch(counted(context.params, batch, context.key))
            for batch in context.held_out(self.windows or None)
        ]
        total = jax.tree.map(lambda *x: np.sum(x, 0, dtype=np.float64), *parts)
        each = [router_metrics.means(part, e.per_token, devices) for part in parts]
        context.details["routing"] = tables(total, e.per_token, devices)
        for name in each[0]:
            means = [float(metrics[name]) for metrics in each]
            yield (
                name,
                float(np.mean(means)),
                float(np.std(means, ddof=1) / len(means) ** 0.5)
                if len(means) > 1
                else float("nan"),
            )
            context.details.pop("routing", None)

    def count(self, experiment, params, batch, key):
        """What is routed where when this batch's loss is calculated."""
        return experiment.loss(params, batch, key).metrics["routed"]


def tables(routed: dict, active: int, devices: int) -> list[dict]:
    """For each layer, the figures of all its tokens and of those in each bucket of the mask ratio that has any."""
    layers, buckets = routed["tokens_NZ"].shape
    per_layer = []
    for n in range(layers):
        layer = {"all": _table({k: v[n].sum(0) for k, v in routed.items()}, active, devices)}
        for z in range(buckets):
            if routed["tokens_NZ"][n, z]:
                layer[f"masked {z / buckets:g} to {(z + 1) / buckets:g}"] = _table(
                    {k: v[n, z] for k, v in routed.items()}, active, devices
                )
        per_layer.append(layer)
    return per_layer


def _table(sums: dict, active: int, devices: int) -> dict:
    tokens, load_E, together_EE = sums["tokens_NZ"], sums["load_NZE"], sums["together_NZEE"]
    load_D = load_E.reshape(devices, -1).sum(1)
    chance_EE = np.outer(load_E, load_E) / max(tokens, 1)
    lift_EE = np.divide(together_EE, chance_EE, out=np.zeros_like(together_EE), where=chance_EE > 0)
    return dict(
        tokens=int(tokens),
        load=_rounded(load_E / max(load_E.sum(), 1) * len(load_E)),
        device_load=_rounded(load_D / max(load_D.sum(), 1) * devices),
        imbalance=round(float((load_D.max() - load_D.min()) / max(load_D.sum(), 1) * devices), 4),
        entropy=round(float(sums["entropy_NZ"] / max(tokens, 1)), 4),
        dropped=round(float(sums["dropped_NZ"] / max(tokens, 1) / active), 5),
        together=[_rounded(row) for row in lift_EE],
    )


def _rounded(values) -> list[float]:
    return [round(float(v), 3) for v in values]
