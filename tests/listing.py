"""What a member of a family must have, read off its Protocol and its file.

A family is a folder of dlm with one member a file. Each check raises AssertionError with the
member and what is missing; `tests/test_families.py` runs them over every member that is found.
"""

import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path
from types import ModuleType

import dlm
from dlm.core.families import FAMILIES, SECTIONS, exposed

PACKAGE = Path(dlm.__file__).parent
SOURCE = re.compile(
    r"arXiv:?\s*\d{4}\.\d{4,5}|\b\d{4}\.\d{4,5}\b|https?://|\bours\b|\b(19|20)\d\d\b",
    re.I,
)


def names(family: str) -> list[str]:
    """List the files of a family's folder that hold a member."""
    folder = PACKAGE / family.replace(".", "/")
    stems = sorted(file.stem for file in folder.glob("*.py"))
    stems = [stem for stem in stems if stem not in ("__init__", "base")]
    return [stem for stem in stems if is_member(family, stem)]


def is_member(family: str, stem: str) -> bool:
    is_section = f"{family}.{stem}" in SECTIONS
    return not is_section and len(exposed(module(family, stem).__name__)) == 1


def module(family: str, stem: str) -> ModuleType:
    return importlib.import_module(f"dlm.{family}.{stem}")


def member(family: str, stem: str) -> type:
    (cls,) = exposed(module(family, stem).__name__)
    return cls


def attributes(protocol: type) -> dict[str, object]:
    """The members that a Protocol declares, with its bases'."""
    bases = [
        base
        for base in reversed(protocol.__mro__)
        if base not in (object, typing.Generic)
    ]
    declared: dict[str, object] = {}
    for base in bases:
        if base is not typing.Protocol:
            declared |= {
                k: v
                for k, v in vars(base).items()
                if not k.startswith("_") or k in ("__call__", "__getitem__", "__len__")
            }
    return declared


def check_attributes(cls: type, protocol: type) -> None:
    """Each attribute is there: as a method, a property, a ClassVar or a field."""
    fields = {field.name for field in dataclasses.fields(cls)}
    for name in attributes(protocol):
        assert name in fields or hasattr(cls, name), f"{cls.__name__} has no {name}"


def check_signatures(cls: type, protocol: type) -> None:
    """Each method has the Protocol's parameters, by name and kind; more need defaults."""
    for name, declared in attributes(protocol).items():
        if not inspect.isfunction(declared):
            continue
        expected = _parameters(declared)
        actual = _parameters(getattr(cls, name))
        same = [(p.name, p.kind) for p in actual[: len(expected)]]
        assert same == [(p.name, p.kind) for p in expected], (
            f"{cls.__name__}.{name}{inspect.signature(getattr(cls, name))}"
        )
        optional = [p.name for p in actual[len(expected) :] if p.default is p.empty]
        assert not optional, f"{cls.__name__}.{name} needs {optional}"


def _parameters(function) -> list[inspect.Parameter]:
    return [
        p for p in inspect.signature(function).parameters.values() if p.name != "self"
    ]


def check_source(family: str, stem: str) -> None:
    """The module's docstring names a paper, a link, a year or says 'ours'."""
    text = inspect.getdoc(module(family, stem)) or ""
    assert SOURCE.search(text), (
        f"dlm/{family.replace('.', '/')}/{stem}.py names no source (arXiv, link, 'ours')"
    )


def other_values(cls: type) -> dict[str, list]:
    """Another value for each field: from its PROBE, or of its type where that is a choice."""
    probe = vars(cls).get("PROBE", {})
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if field.name == "vocab":
            continue
        default = field.default
        if field.name in probe:
            found[field.name] = [probe[field.name]]
        elif typing.get_origin(hints[field.name]) is typing.Literal:
            found[field.name] = [
                v for v in typing.get_args(hints[field.name]) if v != default
            ]
        elif hints[field.name] is bool:
            found[field.name] = [not default]
        else:
            found[field.name] = []
    return found


def probed() -> set[tuple[str, str]]:
    """The fields of members of which another value is known without a list."""
    classes = [member(family, stem) for family in FAMILIES for stem in names(family)]
    return {
        (cls.__name__, field)
        for cls in classes
        for field, values in other_values(cls).items()
        if values
    }
