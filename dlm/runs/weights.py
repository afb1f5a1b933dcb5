"""The parameters of a checkpoint alone: read without the optimizer's moments, one by one, or written part by part.

What is written part by part comes from leaves that are read meanwhile, so that a network larger than the memory passes through: any object
with `shape`, `dtype`, `chunk` (the shape of a part) and `parts()`, which yields (index, array): the array fills `leaf[index]`. What lies
on the disk then is an ordinary checkpoint in which each part is a chunk of its own.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import flatten_dict, unflatten_dict

from dlm.runs import checksums
from dlm.runs.checkpoint import FOLDER


class _Lazy:
    """A leaf as Orbax looks at it."""

    def __init__(self, leaf: Any):
        self.leaf, self.shape, self.dtype = leaf, tuple(leaf.shape), np.dtype(leaf.dtype)
        self.size = math.prod(self.shape)
        self.nbytes, self.ndim = self.size * self.dtype.itemsize, len(self.shape)


class _Parts(ocp.type_handlers.NumpyHandler):
    """Writes leaves of one kind, one part of one leaf at a time."""

    def __init__(self, report: Callable[[int], None]):
        super().__init__(deepcopy_host_arrays=False)
        self._report, self._turn = report, asyncio.Semaphore(1)

    async def _open_and_write(self, value: Any, tspec: dict, ts_context: ts.Context) -> None:
        tspec["metadata"]["chunks"] = list(value.leaf.chunk)
        async with self._turn:
            array = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
            for index, part in value.leaf.parts():
                await array[index].write(part)
                self._report(part.nbytes)


def write(workdir: Path, step: int, params: dict, report: Callable[[int], None]) -> None:
    """The sealed checkpoint `step` of a tree of such leaves; `told(bytes)` hears of each part."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it warns that there are no arrays of JAX
    registry = ocp.type_handlers.create_type_handler_registry(
        (_Lazy, _Parts(report)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (int, ocp.type_handlers.ScalarHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    folder = (Path(workdir) / FOLDER).absolute()
    with ocp.CheckpointManager(folder, item_handlers=handler) as manager:
        manager.save(
            step,
            args=ocp.args.PyTreeSave(
                dict(step=np.array(step, np.int32), params=jax.tree.map(_Lazy, params))
            ),
        )
    checksums.write(folder / str(step))


def stored(workdir: Path, step: int) -> dict:
    """{path: (shape, dtype)} of the parameters that evaluation uses, the averaged ones where there are any. Paths begin with their tree."""
    stored_tree = ocp.PyTreeCheckpointHandler().metadata(_folder(workdir, step)).tree
    flat = jax.tree_util.tree_leaves_with_path(stored_tree, is_leaf=lambda x: hasattr(x, "shape"))
    named = {
        tuple(str(getattr(k, "key", k)) for k in path): (tuple(x.shape), np.dtype(x.dtype))
        for path, x in flat
    }
    tree = "ema" if any(path[0] == "ema" for path in named) else "params"
    return {path: report for path, report in named.items() if path[0] == tree}


def restore(
    workdir: Path, step: int, wanted: dict[tuple[str, ...], jax.ShapeDtypeStruct]
) -> dict[tuple[str, ...], jax.Array]:
    """Some arrays of a checkpoint, each in the dtype and on the devices that are asked for."""
    args = {
        path: ocp.ArrayRestoreArgs(dtype=report.dtype, sharding=report.sharding)
        for path, report in wanted.items()
    }
    item = unflatten_dict(dict.fromkeys(wanted, 0))
    asked = ocp.args.PyTreeRestore(
        item=item, restore_args=unflatten_dict(args), partial_restore=True
    )
    stored_tree = flatten_dict(
        ocp.PyTreeCheckpointHandler().restore(_folder(workdir, step), args=asked)
    )
    return {path: stored_tree[path] for path in wanted}


def parts(
    workdir: Path, step: int, path: tuple[str, ...], indices: list[tuple[int, ...]]
) -> Iterator[np.ndarray]:
    """`array[index]` of one array of a checkpoint, for each index; where parts lie apart on the disk no more than one is in memory."""
    kept = dict(driver="ocdbt", base=f"file://{_folder(workdir, step)}/", path=".".join(path) + "/")
    array = ts.open(dict(driver="zarr", kvstore=kept), open=True).result()
    apart = all(n == 1 for n in array.chunk_layout.read_chunk.shape[: len(indices[0])])
    whole = None if apart else array.read().result()
    for index in indices:
        yield array[index].read().result() if apart else whole[index]


def load(workdir: Path, step: int, abstract: dict) -> dict:
    """The tree of parameters that evaluation uses, laid out as `abstract` says."""
    tree = next(iter(stored(workdir, step)))[0]
    stored_tree = restore(
        workdir, step, {(tree, *path): x for path, x in flatten_dict(abstract).items()}
    )
    return unflatten_dict({path[1:]: x for path, x in stored_tree.items()})


def _folder(workdir: Path, step: int) -> Path:
    return (Path(workdir) / FOLDER / str(step) / "default").absolute()
