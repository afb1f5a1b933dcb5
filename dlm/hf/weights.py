"""Our parameter tree and a published layout's tensors: which of theirs make up each of ours, without a copy of either.

ours     layers/attention/q_DHK   [N, D, H, K]        theirs   model.layers.0.self_attn.q_proj.weight   [H·K, D]
                                                               model.layers.1.self_attn.q_proj.weight   …
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

_FREQUENCIES = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
)  # which older files keep, and config.json says


@dataclass(frozen=True)
class Leaf:
    """One parameter of ours, and where its parts are found."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    parts: dict[str, tuple[int, ...]]  # their name → the index of ours that it fills
    theirs: str  # axes of one part, a space between two of its dimensions

    @property
    def given(self) -> int:
        """How many of our leading axes a part's index fixes: the layer, the expert."""
        return len(next(iter(self.parts.values())))

    @property
    def letters(self) -> str:
        """Our axes of one part."""
        return axes.suffix(self.path[-1])[-len(self.shape[self.given :]) :]

    @cached_property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.letters, self.shape[self.given :], strict=True)) | {"1": 1}

    @property
    def part(self) -> tuple[int, ...]:
        """The shape of one part of theirs."""
        return tuple(math.prod(self.sizes[c] for c in word) for word in self.theirs.split())

    def ours(self, part: np.ndarray) -> np.ndarray:
        """One part, in our order of axes."""
        given = [c for c in self.theirs.replace(" ", "") if c != "1"]
        return part.reshape([self.sizes[c] for c in given]).transpose(
            [given.index(c) for c in self.letters]
        )

    def back(self, part: np.ndarray) -> np.ndarray:
        """One part, in their order of axes."""
        given = [c for c in self.theirs.replace(" ", "") if c != "1"]
        return part.transpose([self.letters.index(c) for c in given]).reshape(self.part)


def leaves(layout: Layout, nn: config.ModelConfig) -> list[Leaf]:
    """Every parameter of the network; raises UserError where the layout has no place for one."""
    shapes = jax.eval_shape(
        lambda: transformer.initialise(transformer.Transformer(nn), jax.random.key(0))
    )
    leaves_found, homeless = [], []
    for path, leaf in flatten_dict(shapes).items():
        stack = next((s for s in nn.stacks if s.name == path[0]), None)
        within = path if stack is None else path[1:] if len(stack.kinds) == 1 else path[2:]
        named = layout.tensors.name("/".join(within))
        if named is None:
            homeless.append("/".join(path))
            continue
        leaves_found.append(
            Leaf(path, leaf.shape, dict(_parts(nn, path, stack, named[0], leaf.shape)), named[1])
        )
    if homeless:
        raise UserError(f"{layout.architecture} has no place for {listed(homeless)}")
    return leaves_found


def _parts(
    nn: config.ModelConfig, path, stack, name: str, shape
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if stack is None:
        yield name, ()
        return
    before = sum(s.layers for s in nn.stacks[: nn.stacks.index(stack)])
    first = 0 if len(stack.kinds) == 1 else int(path[1].removeprefix("layer"))
    for n in range(stack.count):
        layer = before + n * len(stack.kinds) + first
        if "{e}" in name:
            yield from ((name.format(n=layer, e=e), (n, e)) for e in range(shape[1]))
        else:
            yield name.format(n=layer), (n,)


def own_head(layout: Layout, tensors: dict[str, Tensor]) -> str | None:
    """The name of the unembedding where its values are not those of the embedding, so that the two cannot be tied."""
    embedding, head = (layout.tensors.top[name][0] for name in ("embed_VD", "unembed_VD"))
    return (
        head
        if embedding in tensors and head in tensors and not same(tensors[embedding], tensors[head])
        else None
    )


def check(
    leaves_found: list[Leaf], tensors: dict[str, Tensor], spare: str | None, rows: int, where: Any
) -> dict[str, np.dtype]:
    """The dtype of every tensor that is needed; UserError names what is missing, unknown, of another shape or no number.

    `spare` is one that need not be there, the second copy of a tied one.
    """
    wanted = {name: leaf for leaf in leaves_found for name in leaf.parts}
    unknown = sorted(
        name
        for name in tensors
        if name not in wanted and name != spare and not _FREQUENCIES.fullmatch(name)
    )
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise UserError(f"{where} lacks {len(missing)} of {len(wanted)} tensors: {listed(missing)}")
    if unknown:
        raise UserError(
            f"{where} holds {len(unknown)} tensors that this layout does not know: {listed(unknown)}"
        )
    for name, leaf in wanted.items():
        shape = (rows, *leaf.part[1:]) if "V" in leaf.letters else leaf.part
        if tensors[name].shape != shape:
            raise UserError(
                f"{where}: {name} has the shape {tensors[name].shape} where config.json asks for {shape}"
            )
        if tensors[name].dtype.kind not in "fV":
            raise UserError(
                f"{where}: {name} is of dtype {tensors[name].dtype}, which is no weight: quantised models are not supported"
            )
    return {name: tensors[name].dtype for name in wanted}


@dataclass(frozen=True)
class Stream:
    """A parameter that is read part by part while it is written (`runs.weights`)."""

    leaf: Leaf
    tensors: dict[str, Tensor]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.leaf.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of one part."""
        return (1,) * self.leaf.given + self.shape[self.leaf.given :]

    def parts(self) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        for name, index in self.leaf.parts.items():
            part = self.tensors[name].read().astype(self.dtype, copy=False)
            if "V" in self.leaf.letters:
                part = _grown(part, self.leaf.sizes["V"])
            yield index, self.leaf.ours(part)


def streams(leaves_found: list[Leaf], tensors: dict[str, Tensor]) -> dict:
    """The tree of parameters to be written; one whose parts differ in dtype is kept in float32."""
    stream = {}
    for leaf in leaves_found:
        kinds = {tensors[name].dtype for name in leaf.parts}
        stream[leaf.path] = Stream(
            leaf, tensors, kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
        )
    return unflatten_dict(stream)


def _grown(rows_VD: np.ndarray, size: int) -> np.ndarray:
    """With rows for ids that were appended: the mean of the others, which says nothing of them."""
    if len(rows_VD) == size:
        return rows_VD
    mean_D = rows_VD.mean(0, dtype=np.float32).astype(rows_VD.dtype)
    return np.concatenate(
        [rows_VD, np.broadcast_to(mean_D, (size - len(rows_VD), rows_VD.shape[1]))]
    )
