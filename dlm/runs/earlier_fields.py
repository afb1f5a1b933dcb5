"""Reading what earlier versions stored: renamed modules, fields, columns, and missing fields.

A run directory keeps every field of its config, under the names of the code that wrote it. The
tables of `earlier_tables` translate it to the names and values of today, so that an old run can be
read, resumed and compared with new ones. Every reader of a stored config or row uses them:
`completed` for a config.json, `renamed_row` for a line of a .jsonl file. Recipes and flags must use
today's names: `check` refuses an old one with a line that gives the new one.
"""

import copy
import re
from typing import Any

from dlm.core.errors import UserError
from dlm.runs import config_paths
from dlm.runs.earlier_tables import (
    COLUMNS,
    EARLIER,
    FIELDS,
    MODULES,
    MOVES,
    Earlier,
    Names,
    Renamed,
)

# The family of a bare name such as 'confident', by the path of the field that holds it.
_FAMILIES = {
    "text": "text",
    "data.source": "data",
    "nn.experts.router": "nn.routers",
    "objective": "objectives",
    "objective.process": "noise",
    "evals.exact.rule": "samplers",  # where the rules were
    "sampler.rule": "samplers.rules",
    "sampler.remask": "samplers.remask",
}
_LATER_PASS = re.compile(r"^sampler(\.(then|next_pass))+")


# --------------------------------------------------------------------------------- renamed fields


def completed(config: dict) -> list[str]:
    """Translates a stored config to today's names and adds the fields that it lacks, in place.

    Returns one line about each field that was added.
    """
    rename(config)
    lines = []
    for entry in EARLIER:
        *parents, leaf = entry.dotted.split(".")
        section = config_paths.section(config, parents, entry.number)
        if section is None or leaf in section or not _has_the_field(section, entry):
            continue
        section[leaf] = entry.value
        lines.append(f"{entry.dotted}={entry.value!r}: {entry.means}")
    return lines


def rename(config: dict) -> Names:
    """Translates a config to today's names in place; returns the (old, new) names that it met."""
    names = _rename_modules(config, "")
    for entry in FIELDS:
        names += _rename_field(config, entry)
    for move in MOVES:
        names += move(config)
    return names


def renamed_row(row: dict) -> dict:
    """A row of a .jsonl file, in today's names: its columns, and the settings that it records."""
    row = {COLUMNS.get(name, name): value for name, value in row.items()}
    if isinstance(row.get("sampler"), dict):
        row["sampler"] = _renamed(row["sampler"], ["sampler"])
    if isinstance(row.get("settings"), dict):
        evaluator = ["evals", str(row.get("eval"))]
        row["settings"] = _renamed(row["settings"], evaluator)
    if isinstance(row.get("differs"), dict):
        row["differs"] = _renamed_paths(row["differs"])
    return row


def check(config: dict) -> None:
    """Refuses old names in the plain dictionary of a recipe and its flags."""
    for old, new in rename(copy.deepcopy(config)):
        raise UserError(f"config.{old} is called config.{new} now")


def _rename_modules(config: dict, path: str) -> Names:
    """Renames modules wherever a `name`, or a string in place of a member, refers to one."""
    names = []
    for key, value in config.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            names += _rename_modules(value, here)
        elif isinstance(value, str):
            holder = path if key == "name" else here
            family = _FAMILIES.get(_LATER_PASS.sub("sampler", holder), "")
            if key != "name" and not family:
                continue
            config[key] = _module_today(value, family)
            if config[key] != value:
                names.append((f"{holder}={value}", f"{holder}={config[key]}"))
    return names


def _module_today(name: str, family: str) -> str:
    """Today's name of a module or of a member, which may be given without its family."""
    if "." in name:
        while name in MODULES:
            name = MODULES[name]
        return name
    # A bare name stays bare, so that it is only changed where the file itself is called otherwise.
    return config_paths.stem(_module_today(f"{family}.{name}", family))


def _rename_field(config: dict, entry: Renamed) -> Names:
    *parents, leaf = entry.old.split(".")
    *new_parents, new_leaf = entry.new.split(".")
    names = []
    for top, depth in config_paths.tops(config, parents):
        section = config_paths.existing(top, parents[depth:])
        if section is None or leaf not in section:
            continue
        if not config_paths.is_member(section, entry.members):
            continue
        target = section
        if new_parents != parents:
            target = config_paths.opened(top, new_parents[depth:])
        # Where both names are given the old one stays, and is refused as unknown.
        if new_leaf in target:
            continue
        value = section.pop(leaf)
        if isinstance(value, str):
            value = entry.values.get(value, value)
        target[new_leaf] = value
        names.append((entry.old, entry.new))
    return names


def _renamed(section: dict, parents: list[str]) -> dict:
    """A copy of the section at a path of a config, in today's names."""
    config: dict[str, Any] = {}
    *above, last = parents
    config_paths.opened(config, above)[last] = copy.deepcopy(section)
    rename(config)
    return config_paths.opened(config, parents)


def _renamed_paths(values: dict[str, Any]) -> dict[str, Any]:
    """{'sampler.edge': …} with today's paths; `data` is a file's name here, and stays."""
    nested: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for dotted, value in values.items():
        *parents, leaf = dotted.split(".")
        if parents and parents[0] in ("sampler", "evals"):
            config_paths.opened(nested, parents)[leaf] = copy.deepcopy(value)
        else:
            others[dotted] = value
    rename(nested)
    return others | _flat(nested, "")


def _flat(nested: dict, above: str) -> dict[str, Any]:
    """Return {dotted path: value} of a dictionary of dictionaries below the path `above`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        here = f"{above}.{key}" if above else key
        if isinstance(value, dict):
            flat |= _flat(value, here)
        else:
            flat[here] = value
    return flat


# ------------------------------------------------------------------------- fields that came later


def idle(config: dict) -> None:
    """Removes the fields of EARLIER that have no effect because the field beside them is off.

    Whether a run has such a field depends on its age alone.
    """
    for entry in EARLIER:
        *parents, leaf = entry.dotted.split(".")
        section = config_paths.section(config, parents, entry.number)
        if section and entry.beside and not section.get(entry.beside):
            section.pop(leaf, None)


def with_earlier_values(run: dict, bare: dict, stored: dict) -> dict:
    """The config with which a stored run continues: fields of EARLIER keep the value it began with.

    That holds where the recipe leaves them at today's default; `bare` is the config of the recipe
    with nothing but defaults in these fields (`without`), `stored` the completed one of the run.
    """
    run = copy.deepcopy(run)
    for entry in EARLIER:
        *parents, leaf = entry.dotted.split(".")
        sections = [
            config_paths.section(config, parents) or {}
            for config in (run, bare, stored)
        ]
        now, default, began = sections
        at_default = leaf in now and now[leaf] == default.get(leaf)
        if at_default and leaf in began and began[leaf] == entry.value:
            now[leaf] = entry.value
    return run


def without(config: dict) -> dict:
    """A copy of a config without the fields of EARLIER."""
    config = copy.deepcopy(config)
    for entry in EARLIER:
        *parents, leaf = entry.dotted.split(".")
        section = config_paths.section(config, parents)
        if section is not None:
            section.pop(leaf, None)
    return config


def _has_the_field(section: dict, entry: Earlier) -> bool:
    """Check whether a section of today would have the field, and would use it."""
    if entry.beside and not section.get(entry.beside):
        return False
    member = config_paths.stem(section.get("name", ""))
    return not entry.members or member in entry.members
