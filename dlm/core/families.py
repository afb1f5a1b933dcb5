"""Families of interchangeable parts: one folder each, one member a file.

A member is a file that defines ONE public frozen dataclass; its name in a config is the file's:
`objectives.masked` is the class `Masked` in dlm/objectives/masked.py. `__init__.py`, `base.py` and
files without such a class are no members. Files are recognised by their text, so that listing a
family imports none of it.
"""

import ast
import dataclasses
import functools
import importlib
import sys
import typing
from pathlib import Path

from dlm.core.errors import UserError
from dlm.core.named import nearest, shown

FAMILIES = (
    "text",
    "data",
    "noise",
    "noise.schedules",
    "nn.attend",
    "nn.heads",
    "nn.routers",
    "nn.visibility",
    "objectives",
    "samplers.rules",
    "samplers.remask",
    "samplers.drivers",
    "evals",
    "tasks",
)
SECTIONS = (
    "data.loader",
    "samplers.plan",
)  # config sections that share a folder with a family
_PACKAGE = Path(__file__).parents[1]


def member_names(family: str) -> list[str]:
    """List the members of a family, sorted by name."""
    return [file.stem for file in _files(family) if _is_member(family, file.stem)]


def member_class(name: str, where: str, family: str) -> type:
    """Import the class of a member.

    Args:
      name: the member with its family, such as 'objectives.masked'.
      where: the config field that names it, for error messages.
      family: the family that the field asks for.

    Raises UserError where the family has no such member.
    """
    room, _, stem = name.rpartition(".")
    if room != family or not _is_member(family, stem):
        raise UserError(
            f"config.{where}: no {family} {shown(name)}{_hint(name, family)}"
        )
    return section_class(name, where)


def section_class(name: str, where: str) -> type:
    """Import the one public frozen dataclass of the module dlm.NAME, which must be our own."""
    module = importlib.import_module(f"dlm.{name}")
    classes = exposed(module.__name__)
    if len(classes) != 1:
        count = f"dlm.{name} exposes {len(classes)} public frozen dataclasses"
        raise UserError(f"config.{where}: {count}; a member of a family exposes one")
    return classes[0]


def exposed(module: str) -> list[type]:
    """List a loaded module's public frozen dataclasses, except the types of their fields."""
    classes = [
        value
        for value in vars(sys.modules[module]).values()
        if isinstance(value, type)
        and value.__module__ == module
        and _is_public_frozen(value)
    ]
    nested = [hint for c in classes for hint in typing.get_type_hints(c).values()]
    return [c for c in classes if c not in nested]


def _is_public_frozen(cls: type) -> bool:
    if cls.__name__.startswith("_") or not dataclasses.is_dataclass(cls):
        return False
    # The standard library has no public name for this.
    return cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _files(family: str) -> list[Path]:
    folder = _PACKAGE / family.replace(".", "/")
    return sorted(folder.glob("*.py"))


@functools.cache
def _is_member(family: str, stem: str) -> bool:
    """Whether a file of the family's folder defines a public frozen dataclass, by its text."""
    file = _PACKAGE / family.replace(".", "/") / f"{stem}.py"
    known = file in _files(family)  # a name from a config never leads out of the folder
    if not known or stem in ("__init__", "base") or f"{family}.{stem}" in SECTIONS:
        return False
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return any(c.name[0] != "_" and _looks_frozen(c) for c in classes)


def _looks_frozen(node: ast.ClassDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(text == "pytree" or "frozen=True" in text for text in decorators)


def _hint(name: str, family: str) -> str:
    """Say which other family has a member of this name, or which member of this one is nearest."""
    room, _, stem = name.rpartition(".")
    # A full name of another family is searched there, a bare one everywhere else.
    others = [room] if room in FAMILIES and room != family else []
    others = others or [other for other in FAMILIES if other != family]
    for other in others:
        if _is_member(other, stem):
            return (
                f": {other}.{stem} is one of {other}; {family} has {_listing(family)}"
            )
    return nearest(stem, member_names(family))


def _listing(family: str) -> str:
    return ", ".join(member_names(family))
