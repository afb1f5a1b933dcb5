"""Configs: from a recipe's plain dictionary to frozen dataclasses.

A recipe file defines `get_config(arg)`, which returns an `ml_collections.ConfigDict` of numbers,
strings, tuples and dictionaries. A dictionary with a `name` is one member of a family:
`dict(name='objectives.masked', …)` builds the class of `dlm.objectives.masked`. Values are
checked here and nowhere below; each error is a `UserError`, one line with the field and the remedy.

Imports neither JAX nor any room but core.
"""

import ast
import dataclasses
import inspect
import json
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dlm.core import files, recipe
from dlm.core.builder import build_member_at
from dlm.core.errors import UserError
from dlm.core.families import exposed
from dlm.core.named import nearest, one_line
from dlm.core.vocab import Vocab

FREE = dict(update="free")  # metadata of a field on which no update depends


def member(family: str, default: Any = MISSING) -> Any:
    """Declare a field that holds a member of a family.

    Its value is 'name', 'family.name' or dict(name=…, …). None is allowed where it is the default.
    """
    return field(default=default, metadata=dict(family=family))


def section(module: str, **metadata: str) -> Any:
    """Declare a field that holds the dataclass of one fixed module; it has a default."""
    return field(default_factory=dict, metadata=dict(module=module, **metadata))


def free(default: Any) -> Any:
    """Declare a field on which no update depends: a run may continue with another value."""
    return field(default=default, metadata=FREE)


def located(default: Any = MISSING) -> Any:
    """Declare a field that is a location: a run may continue with the same content elsewhere."""
    return field(default=default, metadata=dict(update="place"))


def dependence(instance: Any, dotted: str) -> str:
    """Return how updates depend on the field `dotted` of a dataclass: 'free', 'place' or 'depends'.

    The field itself, or a section around it, declares it with `free` or `located`.
    """
    for name in dotted.split("."):
        fields = (
            dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()
        )
        entry = {f.name: f for f in fields}.get(name)
        if entry is None:
            break
        if "update" in entry.metadata:
            return entry.metadata["update"]
        instance = getattr(instance, name)
    return "depends"


def build_member(
    config: Any, family: str, vocab: Vocab | None = None, where: str = ""
) -> Any:
    """Build one member of a family from 'name' or dict(name=…, …)."""
    return build_member_at(to_plain(config), family, where or family, vocab)


# ---------------------------------------------------------------------------------------- recipes


def load_recipe(target: str) -> dict:
    """Load the plain dictionary of `FILE.py` or `FILE.py:key=value,…`.

    The text after the colon is the argument of the file's `get_config`.
    """
    path, arg = recipe.split(target)
    if not Path(path).is_file():
        raise UserError(f"no recipe {path}{_similar_file(Path(path))}")
    with recipe.errors_in(path):
        get_config = recipe.load_function(path, "get_config")
        if get_config is None:
            raise UserError(f"{path} has no get_config()")
        if arg is not None and not inspect.signature(get_config).parameters:
            cause = "get_config() takes no argument"
            raise UserError(
                f"{path}: {cause}, so {arg!r} behind the colon cannot be given to it"
            )
        config = to_plain(recipe.call(get_config, arg))
    if not isinstance(config, dict):
        raise UserError(
            f"{path}: get_config() returns a ConfigDict, not {type(config).__name__}"
        )
    return config


def _similar_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    recipes = [file.name for file in path.parent.glob("*.py")]
    return nearest(path.name, recipes)


def choices(arg: str | None, **allowed: tuple[str, ...]) -> types.SimpleNamespace:
    """Parse a recipe's argument, such as 'size=small,data=embedded'.

    The first allowed value is the default; a value 'prefix:*' allows any text after the prefix.
    """
    chosen = {key: values[0] for key, values in allowed.items()}
    for part in filter(None, (arg or "").split(",")):
        key, equals, value = part.partition("=")
        if key not in allowed or not equals:
            known = ", ".join(f"{k}=…" for k in allowed)
            hint = nearest(key, allowed)
            raise UserError(f"recipe argument {part!r}: expected one of {known}{hint}")
        values = allowed[key]
        open_values = [v for v in values if v.endswith("*")]
        prefixes = tuple(v[:-1] for v in open_values)
        if value not in values and not (prefixes and value.startswith(prefixes)):
            known = f"{' | '.join(values)}{nearest(value, values)}"
            raise UserError(f"recipe argument {key}={value}: expected {known}")
        chosen[key] = value
    return types.SimpleNamespace(**chosen)


# -------------------------------------------------------------------------------------- overrides


def override(config: dict, dotted: str, text: str) -> None:
    """Set `config['a']['b']` from the command line's `a.b` and its text.

    The text is parsed as a Python literal, unless the field holds a string already.
    """
    parent, leaf = _parent_section(config, dotted)
    value = literal(text)
    is_text = isinstance(parent.get(leaf), str) and text != "None"
    parent[leaf] = text if is_text and not isinstance(value, dict) else value


def put(config: dict, dotted: str, value: Any) -> None:
    """Set `config['a']['b']` to a value."""
    parent, leaf = _parent_section(config, dotted)
    parent[leaf] = value


def _parent_section(config: dict, dotted: str) -> tuple[dict, str]:
    """Return the dictionary around the field `a.b`, created if missing, and the field's name."""
    *parents, leaf = dotted.split(".")
    for i, parent in enumerate(parents):
        if isinstance(config.get(parent), str) and parent != "name":
            # A member given by its name alone becomes a section.
            config[parent] = dict(name=config[parent])
        if config.get(parent) is None:
            config[parent] = {}
        if not isinstance(config[parent], dict):
            here = ".".join(parents[: i + 1])
            raise UserError(
                f"config.{here} is not a section, so config.{dotted} cannot be set"
            )
        config = config[parent]
    return config, leaf


def literal(text: str) -> Any:
    """Parse a Python literal (numbers, tuples, lists, None, true/false); other text stays text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


# ------------------------------------------------------------------------------------ plain values


def to_plain(value: Any) -> Any:
    """Convert ConfigDicts and dataclasses to dictionaries, tuples, numbers, strings and None.

    A dataclass that is a member of a family gets its `name`; `vocab` is left out.
    """
    if isinstance(value, (Mapping, ConfigDict)):
        return {str(key): to_plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = _name_in_config(value)
        for f in dataclasses.fields(value):
            if f.name != "vocab":
                plain[f.name] = to_plain(getattr(value, f.name))
        return plain
    if isinstance(value, (list, tuple)):
        return tuple(to_plain(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.ndarray, np.generic)) and value.shape == ():
        return value.item()
    return value


def _name_in_config(instance: Any) -> dict[str, str]:
    cls = type(instance)
    if exposed(cls.__module__) != [cls]:
        return {}
    return {"name": cls.__module__.removeprefix("dlm.")}


def to_json(value: Any) -> str:
    """Write a config as the text of config.json."""
    return files.as_json(to_plain(value), indent=2, ascii=False) + "\n"


def list_differences(a: Any, b: Any, where: str = "") -> list[str]:
    """List 'optim.lr: 0.001 → 0.002' for every leaf in which two plain configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        lines = []
        for key in dict.fromkeys([*a, *b]):
            here = f"{where}.{key}" if where else key
            lines += list_differences(a.get(key), b.get(key), here)
        return lines
    # JSON has no tuples: these count as the lists that a stored config has.
    before, after = json.loads(json.dumps([a, b]))
    if json.dumps(before) == json.dumps(after):
        return []
    return [f"{where}: {one_line(before)} → {one_line(after)}"]
