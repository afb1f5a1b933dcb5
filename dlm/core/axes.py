"""Axis letters: what each means, which mesh axis shards it, whether weight decay may touch it.

A parameter is named with its axes, `q_DHK`; this one table then shards parameters, optimizer moments and EMA, and says what is
decayed. A scan over layers stacks parameters along a leading N that the name does not carry.
"""

import math
from typing import NamedTuple

MESH = ("data", "fsdp", "tensor", "expert")
BATCH = ("data", "fsdp", "expert")  # mesh axes that split the batch


class Axis(NamedTuple):
    meaning: str
    mesh: str | None  # the mesh axis a parameter is sharded over along this letter
    decay: (
        bool  # a parameter is decayed when it has two axes or more and every one of them is decayed
    )


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


def shards(sizes) -> int:
    """Into how many parts a mesh of these axis sizes splits a batch."""
    return math.prod(sizes[axis] for axis in BATCH)


def suffix(name: str) -> str:
    """The axis letters of a parameter name: 'q_DHK' → 'DHK'. Raises ValueError where the name carries none."""
    letters = name.rsplit("_", 1)[-1]
    if "_" not in name or any(c not in TABLE for c in letters):
        raise ValueError(f"parameter {name!r} has no axis suffix; known letters: {''.join(TABLE)}")
    return letters


def decayed(name: str) -> bool:
    """True for matrices; norms, biases, embeddings and time conditioning are left alone."""
    letters = suffix(name)
    return len(letters) > 1 and "_bias_" not in name and all(TABLE[c].decay for c in letters)


def partition(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[str | None, ...]:
    """The mesh axis of each dimension of a parameter, with a leading None where layers are stacked.

    A mesh axis is used once, and only where it divides the dimension (a few key-value heads stay replicated).
    """
    letters = suffix(name)
    spec: list[str | None] = [None] * (len(shape) - len(letters))
    for letter, size in zip(letters, shape[len(spec) :], strict=True):
        mesh = TABLE[letter].mesh
        fits = mesh is not None and mesh not in spec and size % sizes.get(mesh, 1) == 0
        spec.append(mesh if fits else None)
    return tuple(spec)


def name_of(path) -> str:
    """The parameter's own name at the end of a tree path."""
    return next((k.key for k in reversed(path) if isinstance(getattr(k, "key", None), str)), "")
