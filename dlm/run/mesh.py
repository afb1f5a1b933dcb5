"""The device mesh: `data × fsdp × tensor × expert`; where each parameter and each batch lies."""

import math
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dlm.run import axes, memory
from dlm.run.axes import name_of
from dlm.run.contracts import Batch
from dlm.run.spec import UserError


@dataclass(frozen=True)
class Mesh:
    data: int = 0  # 0: all devices that the other axes leave
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1

    def __post_init__(self):
        if min(self.fsdp, self.tensor, self.expert) < 1 or self.data < 0:
            raise ValueError("mesh axes must be positive (data=0: all devices that the others leave)")

    @property
    def least(self) -> int:
        """How many devices it needs."""
        return max(self.data, 1) * self.fsdp * self.tensor * self.expert


def make(config: Mesh) -> jax.sharding.Mesh:
    """The mesh over all devices; Auto axes, since Linen layers fail under Explicit ones."""
    memory.run_inline()
    devices = jax.devices()
    others = config.fsdp * config.tensor * config.expert
    data = config.data or max(len(devices) // others, 1)
    shape = f"data={config.data} fsdp={config.fsdp} tensor={config.tensor} expert={config.expert}"
    if data * others > len(devices) or (not config.data and len(devices) % others):
        raise UserError(f"config.mesh: {shape} does not fit {len(devices)} {devices[0].platform} device(s)")
    if jax.process_count() > 1 and data * others < len(devices):
        raise UserError(f"config.mesh: {shape} leaves out devices of {jax.process_count()} processes: it must use all {len(devices)}")
    sizes = (data, config.fsdp, config.tensor, config.expert)
    return jax.make_mesh(sizes, axes.MESH, axis_types=(AxisType.Auto,) * 4, devices=devices[: data * others])


def state_shardings(mesh: jax.sharding.Mesh, abstract):
    """A sharding for every leaf of a training state: parameters, moments and EMA by their axis letters, the rest replicated."""
    sizes = dict(mesh.shape)

    def of(path, leaf):
        try:
            return NamedSharding(mesh, PartitionSpec(*axes.partition(name_of(path), leaf.shape, sizes)))
        except ValueError:
            return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, abstract)


def _shares(mesh: jax.sharding.Mesh, rows: int) -> tuple[str, ...] | None:
    """The axes that split so many rows; None where they do not."""
    return axes.BATCH if rows % math.prod(mesh.shape[a] for a in axes.BATCH) == 0 else None


def spread(mesh: jax.sharding.Mesh, tree):
    """Arrays of rows, split over the devices like a batch where their number allows it."""
    if mesh.size == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(_shares(mesh, len(x))))), tree)


def remembered(mesh: jax.sharding.Mesh, memory):
    """A cache [N, B, M, J, K] with its rows where the batch is and its heads where theirs are, where the numbers allow it."""

    def lie(x):
        heads = "tensor" if x.shape[3] % mesh.shape["tensor"] == 0 else None
        spec = PartitionSpec(None, _shares(mesh, x.shape[1]), None, heads)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return memory if mesh.size == 1 else jax.tree.map(lie, memory)


def everywhere(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The same on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def fetch(tree):
    """NumPy arrays of global values, in every process."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def put(mesh: jax.sharding.Mesh, rows: dict[str, np.ndarray], total: int) -> Batch:
    """This process's rows as its part of the global batch, split over the data axes."""
    sharding = NamedSharding(mesh, PartitionSpec(axes.BATCH))
    arrays = {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}
    named = {k: arrays.pop(k) for k in ("tokens_BL", "weights_BL", "noisable_BL", "index_B")}
    return Batch(**named, fields=arrays, total=total)
