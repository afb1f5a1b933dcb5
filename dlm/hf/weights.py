"""Which tensors of a published layout make up each of our parameters; neither side is copied.

ours     layers/attention/q_DHK                         [N, D, H, K]
theirs   model.layers.0.self_attn.q_proj.weight         [H·K, D]
         model.layers.1.self_attn.q_proj.weight         …
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlm.core import axes
from dlm.core.errors import UserError
from dlm.hf.layouts import Layout
from dlm.hf.shards import Tensor, listed, same
from dlm.nn import config, transformer

# Older files store these frequencies, which config.json defines.
_FREQUENCIES = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

Index = tuple[int, ...]
Shape = tuple[int, ...]
Path = tuple[str, ...]  # of a parameter


@dataclass(frozen=True)
class Leaf:
    """One of our parameters, and the tensors that are its parts."""

    path: Path
    shape: Shape
    parts: dict[str, Index]  # their name → the index of ours that it fills
    theirs: str  # axes of one part, a space between two of its dimensions

    @property
    def index_length(self) -> int:
        """How many of our leading axes the index of a part fixes: the layer, the expert."""
        return len(next(iter(self.parts.values())))

    @property
    def part_shape(self) -> Shape:
        """Our shape of one part."""
        return self.shape[self.index_length :]

    @property
    def letters(self) -> str:
        """Our axes of one part."""
        return axes.suffix(self.path[-1])[-len(self.part_shape) :]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """axis → its size"""
        sizes = dict(zip(self.letters, self.part_shape, strict=True))
        return sizes | {"1": 1}

    @property
    def part(self) -> Shape:
        """Their shape of one part."""
        shape = []
        # One of their dimensions may be several of ours, side by side.
        for word in self.theirs.split():
            shape.append(math.prod(self.sizes[c] for c in word))
        return tuple(shape)

    @property
    def _their_letters(self) -> str:
        """Their axes in order, without those of size 1 and with merged ones apart."""
        return self.theirs.replace(" ", "").replace("1", "")

    def ours(self, part: np.ndarray) -> np.ndarray:
        """Converts one part of theirs to our order of axes."""
        # Dimensions of theirs are divided first, then put into our order.
        letters = self._their_letters
        split = part.reshape([self.sizes[c] for c in letters])
        return split.transpose([letters.index(c) for c in self.letters])

    def back(self, part: np.ndarray) -> np.ndarray:
        """Converts one part of ours to their order of axes."""
        order = [self.letters.index(c) for c in self._their_letters]
        return part.transpose(order).reshape(self.part)

    def stored_shape(self, rows: int) -> Shape:
        """Their shape of one part in a file, where a table of embeddings has so many rows."""
        if "V" not in self.letters:
            return self.part
        return (rows, *self.part[1:])


def leaves(layout: Layout, nn: config.ModelConfig) -> list[Leaf]:
    """Returns every parameter of the network; UserError where the layout has no tensor for one."""
    model = transformer.Transformer(nn)
    key = jax.random.key(0)
    # Shapes alone: nothing is allocated, so the network may be larger than the memory.
    shapes = jax.eval_shape(lambda: transformer.initialise(model, key))
    stacks = {stack.name: stack for stack in nn.stacks}
    leaves, unknown = [], []
    for path, leaf in flatten_dict(shapes).items():
        stack = stacks.get(path[0])
        within = _path_in_layer(path, stack)
        tensor = layout.tensors.name("/".join(within))
        if tensor is None:
            unknown.append("/".join(path))
            continue
        # {n} and {e} in it are numbers of layers and experts.
        name, theirs = tensor
        parts = dict(_parts(nn, path, stack, name, leaf.shape))
        leaves.append(Leaf(path, leaf.shape, parts, theirs))
    if unknown:
        raise UserError(f"{layout.architecture} has no place for {listed(unknown)}")
    return leaves


def _path_in_layer(path: Path, stack: config.Stack | None) -> Path:
    """Removes the name of the stack and, where its steps have several layers, of the layer."""
    if stack is None:
        return path
    several = len(stack.kinds) > 1
    return path[2:] if several else path[1:]


def _parts(
    nn: config.ModelConfig,
    path: Path,
    stack: config.Stack | None,
    name: str,
    shape: Shape,
) -> Iterator[tuple[str, Index]]:
    """Yields (name of a tensor, the index of our parameter that it fills)."""
    if stack is None:
        yield name, ()
        return
    period = len(stack.kinds)
    # Their layers have one numbering through all stacks.
    earlier = nn.stacks[: nn.stacks.index(stack)]
    before = sum(other.layers for other in earlier)
    within = 0
    if period > 1:
        within = int(path[1].removeprefix("layer"))
    for n in range(stack.count):
        layer = before + n * period + within
        if "{e}" not in name:
            yield name.format(n=layer), (n,)
            continue
        for e in range(shape[1]):
            yield name.format(n=layer, e=e), (n, e)


def own_head(layout: Layout, tensors: dict[str, Tensor]) -> str | None:
    """Returns the name of the unembedding if it differs from the embedding, so can't be tied."""
    embedding = layout.tensors.top["embed_VD"][0]
    head = layout.tensors.top["unembed_VD"][0]
    if embedding not in tensors or head not in tensors:
        return None
    if same(tensors[embedding], tensors[head]):
        return None
    return head


def check(
    leaves: list[Leaf],
    tensors: dict[str, Tensor],
    spare: str | None,
    rows: int,
    where: Any,
) -> dict[str, np.dtype]:
    """Returns the dtype of every tensor that is needed.

    Raises UserError that names the missing and unknown tensors, a wrong shape, or a quantised one.

    Args:
        leaves: our parameters.
        tensors: the tensors of the folder, by name.
        spare: a tensor that may be present without being needed, the second copy of a tied one.
        rows: of the embedding in the files.
        where: the folder's name in messages.
    """
    # Several tensors may be parts of one of our parameters.
    needed = {name: leaf for leaf in leaves for name in leaf.parts}
    if missing := sorted(needed.keys() - tensors.keys()):
        text = f"{len(missing)} of {len(needed)} tensors: {listed(missing)}"
        raise UserError(f"{where} lacks {text}")
    extra = sorted(tensors.keys() - needed.keys() - {spare})
    unknown = [name for name in extra if not _FREQUENCIES.fullmatch(name)]
    # A tensor that we would drop may be a bias or a layer that the model needs.
    if unknown:
        text = (
            f"{len(unknown)} tensors that this layout does not know: {listed(unknown)}"
        )
        raise UserError(f"{where} holds {text}")
    dtypes = {}
    for name, leaf in needed.items():
        shape = leaf.stored_shape(rows)
        _check_tensor(tensors[name], shape, f"{where}: {name}")
        dtypes[name] = tensors[name].dtype
    return dtypes


def _check_tensor(tensor: Tensor, shape: Shape, where: str) -> None:
    if tensor.shape != shape:
        text = f"has the shape {tensor.shape} where config.json asks for {shape}"
        raise UserError(f"{where} {text}")
    # numpy gives bfloat16 the kind V, of types that it does not know.
    if tensor.dtype.kind not in "fV":
        text = f"is of dtype {tensor.dtype}, which is no weight"
        raise UserError(f"{where} {text}: quantised models are not supported")


@dataclass(frozen=True)
class Stream:
    """A parameter that is read part by part while it is written (`runs.weights`)."""

    leaf: Leaf
    tensors: dict[str, Tensor]
    dtype: np.dtype

    @property
    def shape(self) -> Shape:
        return self.leaf.shape

    @property
    def chunk(self) -> Shape:
        """The shape of one part, with all axes of the parameter."""
        return (1,) * self.leaf.index_length + self.leaf.part_shape

    def parts(self) -> Iterator[tuple[Index, np.ndarray]]:
        for name, index in self.leaf.parts.items():
            part = self.tensors[name].read()
            part = part.astype(self.dtype, copy=False)
            # A mask may have been appended to the vocabulary.
            if "V" in self.leaf.letters:
                part = _with_rows(part, self.leaf.sizes["V"])
            yield index, self.leaf.ours(part)


def streams(leaves: list[Leaf], tensors: dict[str, Tensor]) -> dict:
    """Returns the tree of parameters to write.

    A parameter has the dtype of its parts, or float32 where they differ.
    """
    flat = {}
    for leaf in leaves:
        # Parts become one array, which has one dtype.
        dtypes = {tensors[name].dtype for name in leaf.parts}
        mixed = len(dtypes) > 1
        dtype = np.dtype(np.float32) if mixed else dtypes.pop()
        flat[leaf.path] = Stream(leaf, tensors, dtype)
    return unflatten_dict(flat)


def _with_rows(rows_VD: np.ndarray, size: int) -> np.ndarray:
    """Appends rows for new ids: the mean of the others, which prefers no token."""
    # Only ids that we appended lack a row.
    missing = size - len(rows_VD)
    if missing == 0:
        return rows_VD
    mean_D = rows_VD.mean(0, dtype=np.float32).astype(rows_VD.dtype)
    new_VD = np.broadcast_to(mean_D, (missing, rows_VD.shape[1]))
    return np.concatenate([rows_VD, new_VD])
