"""Build frozen dataclasses from plain dictionaries, checked field by field.

Each error is one line that names the field and the remedy. The kinds of fields are declared with
the functions of `core.config`, which put the kind into the field's metadata.
"""

import dataclasses
import sys
import types
import typing
from dataclasses import MISSING
from typing import Any, Literal, Union

from dlm.core.errors import UserError
from dlm.core.families import member_class, member_names, section_class
from dlm.core.named import Place, Seed, nearest, one_line, shown
from dlm.core.vocab import Vocab

_LARGEST_INT = 2**62


def build_section(cls: type, config: dict, where: str, vocab: Vocab | None) -> Any:
    """Build a dataclass from the dictionary at `where`, which is '' for the config as a whole."""
    try:
        return cls(**build_fields(cls, config, where, vocab))
    except ValueError as error:
        dot = "." if where else ""
        raise UserError(f"config{dot}{where}: {error}") from error


def build_fields(
    cls: type, config: dict, where: str, vocab: Vocab | None
) -> dict[str, Any]:
    """Check and build the value of each field of a dataclass.

    A field named `vocab` gets the tokenizer's special ids.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    names = [name for name in fields if name != "vocab"]
    prefix = f"config.{where}." if where else "config."
    for key in config:
        if key not in names and key != "name":
            known = f"{cls.__name__} has {', '.join(names)}"
            hint = nearest(key, names)
            raise UserError(f"unknown field {prefix}{one_line(key)}{hint}; {known}")
    values: dict[str, Any] = {"vocab": vocab} if "vocab" in fields else {}
    for name in names:
        value = config.get(name, MISSING)
        if value is MISSING:
            value = _default(fields[name], hints[name])
        if value is MISSING:
            raise UserError(f"{prefix}{name} is missing and has no default")
        here = f"{where}.{name}" if where else name
        values[name] = build_field(value, fields[name], hints[name], here, vocab)
    return values


def build_field(
    value: Any, field: dataclasses.Field, hint: Any, where: str, vocab: Vocab | None
) -> Any:
    """Check and build one value.

    Args:
      value: the value in the config.
      field: the dataclass field; its metadata says which kind it is.
      hint: the field's type.
      where: the dotted name of the field, for error messages.
      vocab: the tokenizer's special ids, passed on to every section.
    """
    kind = field.metadata
    if "families" in kind:
        return _build_members(value, kind["families"], where, vocab)
    if "family" in kind:
        if value is None and field.default is None:
            return None
        if (
            isinstance(value, dict)
            and "name" not in value
            and field.default is not MISSING
        ):
            value = {"name": _default_name(field.default), **value}
        return build_member_at(value, kind["family"], where, vocab)
    if hint is Place and value == field.default:  # "" means none
        return value
    if "module" in kind:
        section = _as_section(value or {}, where)
        return build_section(
            section_class(kind["module"], where), section, where, vocab
        )
    if kind.get("number") and _is_number(value):
        # A number may stand for a whole section, of which it is the main field.
        value = {kind["number"]: value}
    return _typed(value, hint, where, vocab)


def build_member_at(value: Any, family: str, where: str, vocab: Vocab | None) -> Any:
    """Build one member of a family from 'name' or dict(name=…, …)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value
    config = dict(name=value) if isinstance(value, str) else value
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        example = member_names(family)[0]
        expected = (
            f"must name a member of {family}, such as {example!r}, not {shown(value)}"
        )
        raise UserError(f"config.{where} {expected}")
    name = config["name"]
    if "." not in name:
        name = f"{family}.{name}"
    return build_section(member_class(name, where, family), config, where, vocab)


def _build_members(
    value: Any, family: str, where: str, vocab: Vocab | None
) -> dict[str, Any]:
    """Build a dictionary of members that are keyed by their names."""
    if not isinstance(value, dict):
        raise UserError(
            f"config.{where} must be a dictionary of {family}, not {shown(value)}"
        )
    members = {}
    for name, options in value.items():
        here = f"{where}.{name}"
        options = _as_section(options or {}, here)
        members[name] = build_member_at({"name": name, **options}, family, here, vocab)
    return members


def _as_section(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise UserError(f"config.{where} is a section, not {shown(value)}")
    return value


def _default(field: dataclasses.Field, hint: Any) -> Any:
    if field.default_factory is hint:
        return {}  # an omitted section is built like one that is present, members and all
    if field.default is not MISSING:
        return field.default
    return MISSING if field.default_factory is MISSING else field.default_factory()


def _default_name(default: Any) -> str | None:
    """Returns the name of the member that is a field's default."""
    if default is None or isinstance(default, str):
        return default
    return type(default).__module__.removeprefix("dlm.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ------------------------------------------------------------------------------ values of one type


def _typed(value: Any, hint: Any, where: str, vocab: Vocab | None) -> Any:
    """Convert a value to the type `hint`, or raise UserError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = next(a for a in arguments if a is not type(None))
        return _typed(value, inner, where, vocab)
    if origin is Literal:
        return _choice(value, arguments, where)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else (value,)
        return tuple(
            _typed(v, arguments[0], f"{where}[{i}]", vocab) for i, v in enumerate(items)
        )
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        return build_section(hint, _as_section(value, where), where, vocab)
    if hint in (Place, Seed):
        try:
            return hint(_typed(value, hint.__base__, where, vocab))
        except ValueError as error:
            raise UserError(f"config.{where} {error}") from None
    return _scalar(value, hint, where)


def _choice(value: Any, choices: tuple, where: str) -> Any:
    if value is None and "none" in choices:
        return "none"  # a command line parses 'none' as None
    if value not in choices:
        expected = f"must be {' | '.join(map(str, choices))}, not {shown(value)}"
        raise UserError(f"config.{where} {expected}{nearest(value, choices)}")
    return value


def _scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is int and _is_number(value):
        if abs(value) < _LARGEST_INT and value == int(value):
            return int(value)
    elif hint is float and _is_number(value):
        # JSON has no number that is not finite.
        if abs(value) <= sys.float_info.max:
            return float(value)
    elif hint in (str, bool, dict) and isinstance(value, hint):
        return value
    kind = hint.__name__ if isinstance(hint, type) else hint
    raise UserError(f"config.{where} must be of type {kind}, not {shown(value)}")
