"""The device mesh: `data × fsdp × tensor × expert`; where each parameter and each batch lies."""

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from dlm.core import axes
from dlm.core.axes import name_of
from dlm.core.contracts import Batch, Layout
from dlm.core.errors import UserError
from dlm.machine import allocator, platform
from dlm.machine.config import MeshConfig

_AUTO = (AxisType.Auto,) * len(axes.MESH)  # Linen layers fail under Explicit axes


def devices(config: MeshConfig) -> list:
    """The devices that a run may use, of all its processes."""
    allocator.run_inline()
    return platform.devices(config.platform, config.plugin)


def make(config: MeshConfig, among: list | None = None) -> jax.sharding.Mesh:
    """The mesh over all devices of the platform, or `among` these."""
    available = devices(config) if among is None else among
    others = config.fsdp * config.tensor * config.expert
    data = config.data or max(len(available) // others, 1)
    shape = f"data={config.data} fsdp={config.fsdp} tensor={config.tensor} expert={config.expert}"
    if data * others > len(available) or (not config.data and len(available) % others):
        kind = config.platform or available[0].platform
        raise UserError(f"config.mesh: {shape} does not fit {len(available)} {kind} device(s)")
    if among is None and jax.process_count() > 1 and data * others < len(available):
        raise UserError(
            f"config.mesh: {shape} leaves out devices of {jax.process_count()} processes: it must use all {len(available)}"
        )
    sizes = (data, config.fsdp, config.tensor, config.expert)
    return jax.sharding.Mesh(placed(sizes, available[: data * others]), axes.MESH, axis_types=_AUTO)


def placed(sizes: tuple[int, ...], devices: list) -> np.ndarray:
    """The devices in the mesh's shape: neighbours on a torus as neighbours, and one of its axes for several of the mesh where need be."""
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def abstract_mesh(config: MeshConfig) -> AbstractMesh:
    """The mesh of devices that need not be there: enough to trace a program and to lower it, not to run it. data=0 counts as 1."""
    return AbstractMesh(
        (config.data or 1, config.fsdp, config.tensor, config.expert), axes.MESH, axis_types=_AUTO
    )


def state_shardings(mesh: jax.sharding.Mesh, abstract):
    """A sharding for every leaf of a training state: parameters, moments and EMA by their axis letters, the rest replicated."""
    sizes = dict(mesh.shape)

    def of(path, leaf):
        try:
            return NamedSharding(
                mesh, PartitionSpec(*axes.partition(name_of(path), leaf.shape, sizes))
            )
        except ValueError:
            return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, abstract)


def _shares(mesh: jax.sharding.Mesh, rows: int) -> tuple[str, ...] | None:
    """The axes that split so many rows; None where they do not."""
    return axes.BATCH if rows % axes.shards(mesh.shape) == 0 else None


def spread(mesh: jax.sharding.Mesh, tree):
    """Arrays of rows, split over the devices like a batch where their number allows it."""
    if mesh.size == 1:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(
            x, NamedSharding(mesh, PartitionSpec(_shares(mesh, len(x))))
        ),
        tree,
    )


def remembered(mesh: jax.sharding.Mesh, memory):
    """A cache [N, B, M, J, K] with its rows where the batch is and its heads where theirs are, where the numbers allow it."""

    def lie(x):
        heads = "tensor" if x.shape[3] % mesh.shape["tensor"] == 0 else None
        spec = PartitionSpec(None, _shares(mesh, x.shape[1]), None, heads)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return memory if mesh.size == 1 else jax.tree.map(lie, memory)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
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
    return batch(
        {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}, total
    )


def abstract(
    mesh: jax.sharding.Mesh | AbstractMesh, shape: tuple[int, ...], dtype
) -> jax.ShapeDtypeStruct:
    """An array of a batch, without its content."""
    return jax.ShapeDtypeStruct(
        shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(axes.BATCH))
    )


def batch(arrays: dict, total: int) -> Batch:
    """Returns the batch of arrays that are named as its fields, or as those of its layout."""
    names = ("segments_BL", "positions_BL")
    layout = Layout(**{name: arrays[name] for name in names if name in arrays})
    others = {name: array for name, array in arrays.items() if name not in names}
    return Batch(**others, layout=layout, total=total)
