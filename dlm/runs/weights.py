"""Reading and writing the parameters of a checkpoint alone, without the optimizer's moments.

They are read one by one, or written part by part. The parts come from leaves that are read
meanwhile, so that a network larger than the memory can be written. The result is an ordinary
checkpoint in which each part is a chunk of its own.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import flatten_dict, unflatten_dict

from dlm.runs import checksums
from dlm.runs.checkpoint import FOLDER

Key = tuple[str, ...]  # of a parameter in its tree
Index = tuple[int, ...]  # of a part of an array
Shapes = dict[Key, jax.ShapeDtypeStruct]
Report = Callable[[int], None]  # receives the bytes that were written


class Leaf(Protocol):
    """An array that is read part by part while it is written."""

    shape: tuple[int, ...]
    dtype: Any
    chunk: tuple[int, ...]  # shape of a part

    def parts(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield (index, array): the array fills `leaf[index]`."""


class _Lazy:
    """A leaf with the attributes that Orbax reads of an array."""

    def __init__(self, leaf: Leaf):
        self.leaf = leaf
        self.shape = tuple(leaf.shape)
        self.dtype = np.dtype(leaf.dtype)
        self.ndim = len(leaf.shape)
        self.size = math.prod(leaf.shape)
        self.nbytes = self.size * self.dtype.itemsize


class _Parts(ocp.type_handlers.NumpyHandler):
    """Writes leaves of one kind, one part of one leaf at a time."""

    def __init__(self, report: Report):
        super().__init__(deepcopy_host_arrays=False)
        self._report = report
        self._turn = asyncio.Semaphore(1)

    async def _open_and_write(
        self, value: Any, tspec: dict, ts_context: ts.Context
    ) -> None:
        tspec["metadata"]["chunks"] = list(value.leaf.chunk)
        spec = ts.Spec(tspec)
        # Only one leaf at a time may be in memory.
        async with self._turn:
            array = await ts.open(spec, create=True, open=True, context=ts_context)
            for index, part in value.leaf.parts():
                target = array[index]
                await target.write(part)
                self._report(part.nbytes)


def write(workdir: Path, step: int, params: dict, report: Report) -> None:
    """Write the sealed checkpoint `step` of a tree of leaves; `report(bytes)` follows each part."""
    # Orbax warns that there are no arrays of JAX.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    handlers = ocp.type_handlers
    registry = handlers.create_type_handler_registry(
        (_Lazy, _Parts(report)),
        (np.ndarray, handlers.NumpyHandler()),
        (int, handlers.ScalarHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    folder = Path(workdir) / FOLDER
    folder = folder.absolute()
    with ocp.CheckpointManager(folder, item_handlers=handler) as manager:
        number = np.array(step, np.int32)
        lazy = jax.tree.map(_Lazy, params)
        tree = dict(step=number, params=lazy)
        args = ocp.args.PyTreeSave(tree)
        manager.save(step, args=args)
    # The manifest comes last: it marks the checkpoint as complete.
    checksums.write(folder / str(step))


def stored(workdir: Path, step: int) -> dict:
    """Read {path: (shape, dtype)} of the parameters that evaluation uses.

    They are the averaged ones where there are any. Paths begin with the name of their tree.
    """
    handler = ocp.PyTreeCheckpointHandler()
    metadata = handler.metadata(_folder(workdir, step)).tree
    leaves = jax.tree_util.tree_leaves_with_path(metadata, is_leaf=_is_array)
    shapes = {}
    for path, x in leaves:
        names = tuple(map(_key, path))
        dtype = np.dtype(x.dtype)
        shapes[names] = tuple(x.shape), dtype
    # An average takes the place of the parameters.
    trees = {path[0] for path in shapes}
    tree = "ema" if "ema" in trees else "params"
    for path in list(shapes):
        if path[0] != tree:
            del shapes[path]
    return shapes


def _is_array(x: Any) -> bool:
    """Whether a node of Orbax's metadata describes an array."""
    kinds = (ocp.metadata.ArrayMetadata, ocp.metadata.ScalarMetadata)
    return isinstance(x, kinds)


def _key(entry: Any) -> str:
    """The name of one entry of a path of JAX."""
    if isinstance(entry, jax.tree_util.DictKey):
        return str(entry.key)
    return str(entry)


def restore(workdir: Path, step: int, shapes: Shapes) -> dict[Key, jax.Array]:
    """Load some arrays of a checkpoint, each with its dtype and sharding in `shapes`."""
    each = {}
    for path, x in shapes.items():
        each[path] = ocp.ArrayRestoreArgs(
            dtype=x.dtype,
            sharding=x.sharding,
        )
    # Arrays that are not in the item are not read from the disk.
    item = dict.fromkeys(shapes, 0)
    args = ocp.args.PyTreeRestore(
        item=unflatten_dict(item),
        restore_args=unflatten_dict(each),
        partial_restore=True,
    )
    handler = ocp.PyTreeCheckpointHandler()
    folder = _folder(workdir, step)
    flat = flatten_dict(handler.restore(folder, args=args))
    return {path: flat[path] for path in shapes}


def parts(
    workdir: Path, step: int, path: Key, indices: list[Index]
) -> Iterator[np.ndarray]:
    """Yield `array[index]` of one array of a checkpoint for each index.

    Where each part is a chunk of its own on the disk, at most one is in memory.
    """
    folder = _folder(workdir, step)
    name = ".".join(path)
    store = dict(driver="ocdbt")
    store["base"] = f"file://{folder}/"
    store["path"] = f"{name}/"
    spec = dict(driver="zarr", kvstore=store)
    array = ts.open(spec, open=True).result()
    chunk = array.chunk_layout.read_chunk.shape or ()
    depth = len(indices[0])
    # Where a chunk holds several parts, it would be read once for each of them.
    if any(n != 1 for n in chunk[:depth]):
        whole: np.ndarray = array.read().result()
        for index in indices:
            yield whole[index]
        return
    for index in indices:
        yield array[index].read().result()


def load(workdir: Path, step: int, abstract: dict) -> dict:
    """Load the parameters that evaluation uses, with the shardings of `abstract`."""
    paths = stored(workdir, step)
    tree, *_ = next(iter(paths))
    shapes = flatten_dict({tree: abstract})
    arrays = restore(workdir, step, shapes)
    return unflatten_dict(arrays)[tree]


def _folder(workdir: Path, step: int) -> Path:
    checkpoint = Path(workdir) / FOLDER / str(step)
    folder = checkpoint / "default"
    return folder.absolute()
