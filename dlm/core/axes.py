"""Axis letters: the meaning of each, the mesh axis that shards it, whether weight decay applies.

A parameter is named with its axes, `q_DHK`; this one table then shards parameters, optimizer
moments and EMA, and decides which parameters decay. A scan over layers stacks parameters along a
leading N that the name does not carry.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

MESH = ("data", "fsdp", "tensor", "expert")
BATCH = ("data", "fsdp", "expert")  # mesh axes that split the batch


class Axis(NamedTuple):
    meaning: str
    mesh: str | None  # the mesh axis that shards a parameter along this letter
    decay: bool  # a parameter with two axes or more decays if all its letters do


TABLE = {
    "D": Axis("model width", "fsdp", True),
    "H": Axis("query heads", "tensor", True),
    "J": Axis("key-value heads", "tensor", True),
    "K": Axis("head size", None, True),
    "F": Axis("feed-forward width", "tensor", True),
    "E": Axis("experts", "expert", True),
    "G": Axis("groups of experts, in a router", None, False),
    "X": Axis("experts of a group, in a router", None, False),
    "V": Axis("vocabulary", "tensor", False),
    "Q": Axis("low rank of queries", "fsdp", True),
    "R": Axis("low rank of keys and values", "fsdp", True),
    "W": Axis("width of the time embedding and of a head", None, False),
    "A": Axis("angles of the time features", None, False),
}


def shards(sizes: Mapping[str, int]) -> int:
    """Return into how many parts a mesh of these axis sizes splits a batch."""
    return math.prod(sizes[axis] for axis in BATCH)


def suffix(name: str) -> str:
    """Return the axis letters of a parameter name: 'q_DHK' → 'DHK'. Raises ValueError."""
    letters = name.rsplit("_", 1)[-1]
    if "_" not in name or any(c not in TABLE for c in letters):
        known = "".join(TABLE)
        raise ValueError(
            f"parameter {name!r} has no axis suffix; known letters: {known}"
        )
    return letters


def decayed(name: str) -> bool:
    """Return True for matrices; norms, biases, embeddings and time conditioning never decay."""
    letters = suffix(name)
    is_matrix = len(letters) > 1 and "_bias_" not in name
    return is_matrix and all(TABLE[letter].decay for letter in letters)


def partition(
    name: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> tuple[str | None, ...]:
    """Return the mesh axis of each dimension of a parameter, None where it is not sharded.

    A mesh axis is used once, and only where its size divides the dimension: a few key-value heads
    stay replicated. Stacked layers have a leading None.
    """
    letters = suffix(name)
    stacked = len(shape) - len(letters)
    axes: list[str | None] = [None] * stacked
    for letter, size in zip(letters, shape[stacked:], strict=True):
        mesh = TABLE[letter].mesh
        fits = mesh is not None and mesh not in axes and size % sizes.get(mesh, 1) == 0
        axes.append(mesh if fits else None)
    return tuple(axes)


def name_of(path: tuple) -> str:
    """Return the parameter's own name, the last string key of a JAX tree path."""
    from jax.tree_util import DictKey  # this module is read without JAX, too

    names = [k.key for k in path if isinstance(k, DictKey) and isinstance(k.key, str)]
    return names[-1] if names else ""
