"""Frozen dataclasses that JAX takes apart: a field is a leaf unless it is declared `static`."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declares a field of the tree's structure: hashable, and constant in a program."""
    return dataclasses.field(default=default, metadata=dict(static=True))


def leaf(default: Any = None) -> Any:
    """Declares an array that no config names, absent by default."""
    return dataclasses.field(default=default, metadata=dict(leaf=True))


@dataclass_transform(
    frozen_default=True, field_specifiers=(static, leaf, dataclasses.field)
)
def pytree(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and registers it with JAX."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))
