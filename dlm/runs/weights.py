"""The parameters of a checkpoint alone, without the optimizer's moments.

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
        self.ndim = len(self.shape)
        self.size = math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize


class _Parts(ocp.type_handlers.NumpyHandler):
    """Writes leaves of one kind, one part of one leaf at a time."""

    def __init__(self, report: Callable[[int], None]):
        super().__init__(deepcopy_host_arrays=False)
        self._report = report
        self._turn = asyncio.Semaphore(1)

    async def _open_and_write(self, value: Any, tspec: dict, ts_context: ts.Context) -> None:
        tspec["metadata"]["chunks"] = list(value.leaf.chunk)
        async with self._turn:
            array = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
            for index, part in value.leaf.parts():
                await array[index].write(part)
                self._report(part.nbytes)


def write(workdir: Path, step: int, params: dict, report: Callable[[int], None]) -> None:
    """Write the sealed checkpoint `step` of a tree of leaves; `report(bytes)` follows each part."""
    # Orbax warns that there are no arrays of JAX.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    registry = ocp.type_handlers.create_type_handler_registry(
        (_Lazy, _Parts(report)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (int, ocp.type_handlers.ScalarHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    folder = (Path(workdir) / FOLDER).absolute()
    with ocp.CheckpointManager(folder, item_handlers=handler) as manager:
        tree = dict(step=np.array(step, np.int32), params=jax.tree.map(_Lazy, params))
        manager.save(step, args=ocp.args.PyTreeSave(tree))
    checksums.write(folder / str(step))


def stored(workdir: Path, step: int) -> dict:
    """Read {path: (shape, dtype)} of the parameters that evaluation uses.

    They are the averaged ones where there are any. Paths begin with the name of their tree.
    """
    metadata = ocp.PyTreeCheckpointHandler().metadata(_folder(workdir, step)).tree
    shapes = {}
    for path, x in jax.tree_util.tree_leaves_with_path(metadata, is_leaf=_is_array):
        shapes[tuple(map(_key, path))] = (tuple(x.shape), np.dtype(x.dtype))
    tree = "ema" if any(path[0] == "ema" for path in shapes) else "params"
    return {path: shape for path, shape in shapes.items() if path[0] == tree}


def _is_array(x: Any) -> bool:
    """Whether a node of Orbax's metadata describes an array."""
    return isinstance(x, ocp.metadata.ArrayMetadata | ocp.metadata.ScalarMetadata)


def _key(entry: Any) -> str:
    """The name of one entry of a path of JAX."""
    return str(entry.key) if isinstance(entry, jax.tree_util.DictKey) else str(entry)


def restore(
    workdir: Path, step: int, shapes: dict[Key, jax.ShapeDtypeStruct]
) -> dict[Key, jax.Array]:
    """Load some arrays of a checkpoint, each with its dtype and sharding in `shapes`."""
    each = {}
    for path, x in shapes.items():
        each[path] = ocp.ArrayRestoreArgs(dtype=x.dtype, sharding=x.sharding)
    args = ocp.args.PyTreeRestore(
        item=unflatten_dict(dict.fromkeys(shapes, 0)),
        restore_args=unflatten_dict(each),
        partial_restore=True,
    )
    tree = ocp.PyTreeCheckpointHandler().restore(_folder(workdir, step), args=args)
    flat = flatten_dict(tree)
    return {path: flat[path] for path in shapes}


def parts(
    workdir: Path, step: int, path: Key, indices: list[tuple[int, ...]]
) -> Iterator[np.ndarray]:
    """Yield `array[index]` of one array of a checkpoint for each index.

    Where each part is a chunk of its own on the disk, at most one is in memory.
    """
    store = dict(driver="ocdbt", base=f"file://{_folder(workdir, step)}/")
    store["path"] = ".".join(path) + "/"
    array = ts.open(dict(driver="zarr", kvstore=store), open=True).result()
    chunk = array.chunk_layout.read_chunk.shape[: len(indices[0])]
    if any(n != 1 for n in chunk):
        array = array.read().result()
        yield from (array[index] for index in indices)
        return
    for index in indices:
        yield array[index].read().result()


def load(workdir: Path, step: int, abstract: dict) -> dict:
    """Load the parameters that evaluation uses, with the shardings of `abstract`."""
    tree = next(iter(stored(workdir, step)))[0]
    shapes = {(tree, *path): x for path, x in flatten_dict(abstract).items()}
    arrays = restore(workdir, step, shapes)
    return unflatten_dict({path[1:]: x for path, x in arrays.items()})


def _folder(workdir: Path, step: int) -> Path:
    return (Path(workdir) / FOLDER / str(step) / "default").absolute()
