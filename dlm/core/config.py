"""Configs: from a recipe's plain dictionary to frozen dataclasses, checked field by field at this border and nowhere below.

A recipe file defines `get_config(arg)`, which returns an `ml_collections.ConfigDict` of numbers, strings, tuples and dictionaries.
A dictionary with a `name` is one member of a family: `dict(name='objectives.masked', …)` is the one frozen dataclass that the
module `dlm.objectives.masked` exposes. Every complaint is a `UserError`: one line that names the field and the remedy.

This module imports neither JAX nor anything of ours but the modules that it is made of.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import os
import sys
import types
import typing
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any, Literal, Union

from dlm.core import files, recipe
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed, nearest, one_line, shown
from dlm.core.vocab import Vocab

FAMILIES = (
    "text",
    "data",
    "noise",
    "nn",
    "nn.routers",
    "objectives",
    "samplers",
    "samplers.remask",
    "evals",
    "tasks",
    "machine",
    "training",
)


def member(family: str, default: Any = MISSING) -> Any:
    """A dataclass field that holds a member of `family`, given as 'name', 'family.name' or dict(name=…, …); None if that is the default."""
    return field(default=default, metadata=dict(family=family))


def section(module: str, **says: str) -> Any:
    """A dataclass field that holds the dataclass of one fixed module (a dict without a name), by default with its defaults."""
    return field(default_factory=dict, metadata=dict(module=module, **says))


FREE = dict(update="free")  # metadata of a field on which no update depends


def free(default: Any) -> Any:
    """A dataclass field on which no update depends: a run may go on with another value."""
    return field(default=default, metadata=FREE)


def located(default: Any = MISSING) -> Any:
    """A dataclass field that only says where something is: a run may go on with another place of the same content."""
    return field(default=default, metadata=dict(update="place"))


def standing(made: Any, dotted: str) -> str:
    """'free', 'place' or 'depends': what the field `dotted` of a dataclass is to an update, as it or a section around it says."""
    for name in dotted.split("."):
        entry = (
            {f.name: f for f in dataclasses.fields(made)}.get(name)
            if dataclasses.is_dataclass(made)
            else None
        )
        if entry is None:
            break
        if "update" in entry.metadata:
            return entry.metadata["update"]
        made = getattr(made, name)
    return "depends"


def build_member(config: Any, family: str, vocab: Vocab | None = None, where: str = "") -> Any:
    """One member of a family from 'name' or dict(name=…, …)."""
    return _member(to_plain(config), family, where or family, vocab)


# ---------------------------------------------------------------------------------------------------------------- recipes


def load_recipe(target: str) -> dict:
    """The plain dictionary of `FILE.py` or `FILE.py:key=value,…`; the part after the colon goes to `get_config`."""
    path, arg = recipe.split(target)
    if not Path(path).is_file():
        near = nearest(
            Path(path).name,
            [p.name for p in Path(path).parent.glob("*.py")] if Path(path).parent.is_dir() else [],
        )
        raise UserError(f"no recipe {path}{near}")
    with recipe.told(path):
        get_config = recipe.function(path, "get_config")
        if get_config is None:
            raise UserError(f"{path} has no get_config()")
        if arg is not None and not inspect.signature(get_config).parameters:
            raise UserError(
                f"{path}: get_config() takes no argument, so {arg!r} behind the colon cannot be given to it"
            )
        config = to_plain(recipe.given(get_config, arg))
    if not isinstance(config, dict):
        raise UserError(f"{path}: get_config() returns a ConfigDict, not {type(config).__name__}")
    return config


def choices(arg: str | None, **allowed: tuple[str, ...]) -> types.SimpleNamespace:
    """For recipes: parse 'size=small,data=embedded'. The first value allowed is the default; '*' allows 'prefix:anything'."""
    chosen = {key: values[0] for key, values in allowed.items()}
    for part in filter(None, (arg or "").split(",")):
        key, equals, value = part.partition("=")
        if key not in allowed or not equals:
            raise UserError(
                f"recipe argument {part!r}: expected one of {', '.join(f'{k}=…' for k in allowed)}{nearest(key, allowed)}"
            )
        prefixes = tuple(v[:-1] for v in allowed[key] if v.endswith("*"))
        if value not in allowed[key] and not (prefixes and value.startswith(prefixes)):
            raise UserError(
                f"recipe argument {key}={value}: expected {' | '.join(allowed[key])}{nearest(value, allowed[key])}"
            )
        chosen[key] = value
    return types.SimpleNamespace(**chosen)


def override(config: dict, dotted: str, text: str) -> None:
    """Set `config['a']['b']` from the command line's `a.b` and its text: a Python literal, or the text itself."""
    section, leaf = _section(config, dotted)
    value = literal(text)
    section[leaf] = (
        text
        if isinstance(section.get(leaf), str) and text != "None" and not isinstance(value, dict)
        else value
    )


def put(config: dict, dotted: str, value: Any) -> None:
    """Set `config['a']['b']` to a value."""
    section, leaf = _section(config, dotted)
    section[leaf] = value


def _section(config: dict, dotted: str) -> tuple[dict, str]:
    """The dictionary that holds the field `a.b`, made where there is none, and the field's own name."""
    *parents, leaf = dotted.split(".")
    for i, parent in enumerate(parents):
        if (
            isinstance(config.get(parent), str) and parent != "name"
        ):  # a member given by its name alone
            config[parent] = dict(name=config[parent])
        if config.get(parent) is None:
            config[parent] = {}
        if not isinstance(config[parent], dict):
            raise UserError(
                f"config.{'.'.join(parents[: i + 1])} is not a section, so config.{dotted} cannot be set"
            )
        config = config[parent]
    return config, leaf


def literal(text: str) -> Any:
    """The Python literal that `text` spells (numbers, tuples, lists, None, true/false), else the text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def to_plain(value: Any) -> Any:
    """Dictionaries, tuples, numbers, strings and None only: ConfigDicts and dataclasses are unwrapped, with their `name`."""
    if hasattr(value, "items"):
        return {str(k): to_plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value):
        module = type(value).__module__
        named = {"name": module.removeprefix("dlm.")} if exposed(module) == [type(value)] else {}
        own = {
            f.name: to_plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name != "vocab"
        }
        return named | own
    if isinstance(value, (list, tuple)):
        return tuple(to_plain(v) for v in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return (
        value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
    )  # a number of NumPy's


def to_json(value: Any) -> str:
    return files.as_json(to_plain(value), indent=2, ascii=False) + "\n"


def list_differences(a: Any, b: Any, where: str = "") -> list[str]:
    """'optim.lr: 0.001 → 0.002' for every leaf in which two plain configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        rows = [
            list_differences(a.get(k), b.get(k), f"{where}.{k}" if where else k)
            for k in dict.fromkeys([*a, *b])
        ]
        return [line for row in rows for line in row]
    a, b = (list(v) if isinstance(v, tuple) else v for v in (a, b))
    return [] if json.dumps(a) == json.dumps(b) else [f"{where}: {one_line(a)} → {one_line(b)}"]


# ------------------------------------------------------------------------------------------------- dictionaries to dataclasses


def _make(cls: type, config: dict, where: str, vocab: Vocab | None) -> Any:
    try:
        return cls(**_fields(cls, config, where, vocab))
    except ValueError as error:
        raise UserError(f"config{'.' if where else ''}{where}: {error}") from error


def _fields(cls: type, config: dict, where: str, vocab: Vocab | None) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    open_fields = [name for name in fields if name != "vocab"]
    prefix = f"config.{where}." if where else "config."
    for key in config:
        if key not in open_fields and key != "name":
            known = f"{cls.__name__} has {', '.join(open_fields)}"
            raise UserError(
                f"unknown field {prefix}{one_line(key)}{nearest(key, open_fields)}; {known}"
            )
    field_values = {"vocab": vocab} if "vocab" in fields else {}
    for name in open_fields:
        f, here = fields[name], f"{where}.{name}" if where else name
        value = config.get(name, MISSING)
        if value is MISSING:
            value = (
                f.default
                if f.default is not MISSING
                else f.default_factory()
                if f.default_factory is not MISSING
                else MISSING
            )
            if (
                f.default_factory is hints[name]
            ):  # a section left out is built like one that is given, members and all
                value = {}
        if value is MISSING:
            raise UserError(f"{prefix}{name} is missing and has no default")
        field_values[name] = _field(value, f, hints[name], here, vocab)
    return field_values


def _field(value: Any, f: dataclasses.Field, hint: Any, where: str, vocab: Vocab | None) -> Any:
    if "families" in f.metadata:
        family = f.metadata["families"]
        if not isinstance(value, dict):
            raise UserError(f"config.{where} must be a dictionary of {family}, not {shown(value)}")
        for k, v in value.items():
            if not isinstance(v or {}, dict):
                raise UserError(f"config.{where}.{k} is a section, not {shown(v)}")
        return {
            k: _member({"name": k, **(v or {})}, family, f"{where}.{k}", vocab)
            for k, v in value.items()
        }
    if "family" in f.metadata:
        if value is None and f.default is None:
            return None
        if isinstance(value, dict) and "name" not in value and isinstance(f.default, str):
            value = {"name": f.default, **value}
        return _member(value, f.metadata["family"], where, vocab)
    if hint is Place and value == f.default:  # "": none
        return value
    if "module" in f.metadata:
        value = value or {}
        if not isinstance(value, dict):
            raise UserError(f"config.{where} is a section, not {shown(value)}")
        return _make(_dataclass(f.metadata["module"], where), value, where, vocab)
    if f.metadata.get("number") and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = {
            f.metadata["number"]: value
        }  # the field of that section which a number in its place stands for
    return _typed(value, hint, where, vocab)


def _member(value: Any, family: str, where: str, vocab: Vocab | None) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value
    value = dict(name=value) if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise UserError(
            f"config.{where} must name a member of {family}, such as {_names(family)[0]!r}, not {shown(value)}"
        )
    name = value["name"] if "." in value["name"] else f"{family}.{value['name']}"
    return _make(_dataclass(name, where, family), value, where, vocab)


def _names(family: str) -> list[str]:
    folder = Path(__file__).parents[1] / family.replace(".", "/")
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def _dataclass(name: str, where: str, family: str | None = None) -> type:
    """The one public frozen dataclass of module dlm.NAME; a name resolves inside our own family folders only."""
    room, _, stem = name.rpartition(".")
    if room not in FAMILIES or (family and room != family) or stem not in _names(room):
        known = _names(family or room) if (family or room) in FAMILIES else list(FAMILIES)
        raise UserError(
            f"config.{where}: no {family or 'module'} {shown(name)}{nearest(stem, known)}"
        )
    importlib.import_module(f"dlm.{name}")
    classes = exposed(f"dlm.{name}")
    if len(classes) != 1:
        raise UserError(
            f"config.{where}: dlm.{name} exposes {len(classes)} public frozen dataclasses; a member of a family exposes one"
        )
    return classes[0]


def exposed(module: str) -> list[type]:
    """The public frozen dataclasses a loaded module defines, less those that only serve as fields of another."""
    classes = [
        c
        for c in vars(sys.modules[module]).values()
        if isinstance(c, type) and c.__module__ == module
    ]
    classes = [
        c
        for c in classes
        if dataclasses.is_dataclass(c)
        and c.__dataclass_params__.frozen
        and not c.__name__.startswith("_")
    ]
    nested = [hint for c in classes for hint in typing.get_type_hints(c).values()]
    return [c for c in classes if c not in nested]


def _typed(value: Any, hint: Any, where: str, vocab: Vocab | None) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _typed(value, next(a for a in arguments if a is not type(None)), where, vocab)
    if origin is Literal:
        value = (
            "none" if value is None and "none" in arguments else value
        )  # how a command line reads 'none'
        if value not in arguments:
            raise UserError(
                f"config.{where} must be {' | '.join(map(str, arguments))}, not {shown(value)}{nearest(value, arguments)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            value = (value,)
        return tuple(_typed(v, arguments[0], f"{where}[{i}]", vocab) for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, (dict, hint)):
            raise UserError(f"config.{where} is a section, not {shown(value)}")
        return value if isinstance(value, hint) else _make(hint, value, where, vocab)
    if hint in (Place, Seed):
        try:
            return hint(_typed(value, hint.__base__, where, vocab))
        except ValueError as error:
            raise UserError(f"config.{where} {error}") from None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int and number and abs(value) < 2**62 and value == int(value):
        return int(value)
    if (
        hint is float and number and abs(value) <= sys.float_info.max
    ):  # JSON has no number that is not finite
        return float(value)
    if hint in (str, bool, dict) and isinstance(value, hint):
        return value
    raise UserError(
        f"config.{where} must be of type {getattr(hint, '__name__', hint)}, not {shown(value)}"
    )
