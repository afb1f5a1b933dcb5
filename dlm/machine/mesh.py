"""The device mesh `data × fsdp × tensor × expert`, and the sharding of parameters and batches.

Axes of parameters are split by the letters of their names (`core.axes`).
"""

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
    """List the devices that a run may use, of all its processes."""
    allocator.run_inline()
    return platform.devices(config.platform, config.plugin)


def make(
    config: MeshConfig,
    among: list | None = None,
) -> jax.sharding.Mesh:
    """Build the mesh over all devices of the platform, or `among` these.

    Raises UserError where the sizes do not fit the devices.
    """
    available = devices(config) if among is None else among
    others = config.fsdp * config.tensor * config.expert
    count = len(available)
    # data=0: as many as there are.
    data = config.data or max(count // others, 1)
    size = data * others
    shape = f"data={config.data} fsdp={config.fsdp} tensor={config.tensor} expert={config.expert}"
    uneven = not config.data and count % others
    if size > count or uneven:
        kind = config.platform or available[0].platform
        raise UserError(f"config.mesh: {shape} does not fit {count} {kind} device(s)")

    # A process without a device of the mesh would wait for the others for ever.
    processes = jax.process_count()
    if among is None and processes > 1 and size < count:
        cause = f"leaves out devices of {processes} processes"
        raise UserError(f"config.mesh: {shape} {cause}: it must use all {count}")
    sizes = data, config.fsdp, config.tensor, config.expert
    devices_in_shape = placed(sizes, available[:size])
    return jax.sharding.Mesh(devices_in_shape, axes.MESH, axis_types=_AUTO)


def placed(sizes: tuple[int, ...], devices: list) -> np.ndarray:
    """Arrange the devices in the mesh's shape, neighbours on a torus as neighbours.

    One axis of the torus may serve several axes of the mesh.
    """
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def abstract_mesh(config: MeshConfig) -> AbstractMesh:
    """Build a mesh without devices, to trace and lower programs; data=0 counts as 1."""
    data = config.data or 1
    sizes = data, config.fsdp, config.tensor, config.expert
    return AbstractMesh(sizes, axes.MESH, axis_types=_AUTO)


def state_shardings(mesh: jax.sharding.Mesh, abstract):
    """Return a sharding for every leaf of a training state.

    Parameters, moments and averages are split by their axis letters; the rest is replicated.
    """
    sizes = dict(mesh.shape)

    def sharding_of(path, leaf):
        try:
            name = name_of(path)
            spec = axes.partition(name, leaf.shape, sizes)
        except ValueError:  # the leaf has no axis letters
            spec = ()
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding_of, abstract)


def _shares(
    mesh: jax.sharding.Mesh,
    rows: int,
) -> tuple[str, ...] | None:
    """Return the mesh axes that split this number of rows; None where it is not divisible."""
    divisible = rows % axes.shards(mesh.shape) == 0
    return axes.BATCH if divisible else None


def spread(mesh: jax.sharding.Mesh, tree):
    """Split arrays of rows over the devices like a batch, where their number is divisible."""
    if mesh.size == 1:
        return tree

    def split(x):
        rows = _shares(mesh, len(x))
        sharding = NamedSharding(mesh, PartitionSpec(rows))
        return jax.lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(split, tree)


def remembered(mesh: jax.sharding.Mesh, memory):
    """Split a cache [N, B, M, J, K]: its rows like the batch, its heads over `tensor`."""
    if mesh.size == 1:
        return memory

    def split(x):
        # Numbers that are not divisible stay whole.
        _, B, _, J, _ = x.shape
        heads = None if J % mesh.shape["tensor"] else "tensor"
        rows = _shares(mesh, B)
        spec = PartitionSpec(None, rows, None, heads)
        sharding = NamedSharding(mesh, spec)
        return jax.lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(split, memory)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the sharding of an array that is the same on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def fetch(tree):
    """Copy global arrays to NumPy, in every process."""
    leaves = jax.tree.leaves(tree)
    if all(x.is_fully_addressable for x in leaves):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def put(
    mesh: jax.sharding.Mesh,
    rows: dict[str, np.ndarray],
    total: int,
) -> Batch:
    """Build the global batch of `total` rows from this process's, split over the data axes."""
    sharding = NamedSharding(mesh, PartitionSpec(axes.BATCH))
    arrays = {}
    for name, local in rows.items():
        arrays[name] = jax.make_array_from_process_local_data(sharding, local)
    return batch(arrays, total)


def abstract(
    mesh: jax.sharding.Mesh | AbstractMesh,
    shape: tuple[int, ...],
    dtype,
) -> jax.ShapeDtypeStruct:
    """Describe an array of a batch, without its content."""
    sharding = NamedSharding(mesh, PartitionSpec(axes.BATCH))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def batch(arrays: dict, total: int) -> Batch:
    """Build the batch of arrays that are named as its fields, or as those of its layout."""
    in_layout: dict = {}
    others: dict = {}
    for name, array in arrays.items():
        part = in_layout if name in ("segments_BL", "positions_BL") else others
        part[name] = array
    layout = Layout(**in_layout)
    return Batch(**others, layout=layout, total=total)
