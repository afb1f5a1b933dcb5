"""What a stored config without a field stands for, where the field came later with another default.

A run directory keeps every field of its config. A field that is not there is one that the code of that time had not: it behaved in one
fixed way, which need not be today's default. The table `EARLIER` names that way, so that an old run goes on and is evaluated as it began:
what its stored config has not is filled in, and what the recipe that it goes on with leaves at today's default is taken from it.

`MOVED` names modules that have moved since: a stored config is read with their names of today, so that equal runs are equal.
"""

import copy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Earlier:
    """One field that came later."""

    dotted: str  # where it stands, such as 'optim.skip.norm'
    value: Any  # what runs without it did
    means: str  # the same in words, for the line that is said when such a run is opened
    number: str = (
        ""  # a field of the same section which a number in the place of that section stood for
    )
    beside: str = ""  # a field of the same section without which this one means nothing
    members: tuple[
        str, ...
    ] = ()  # names of the members of a family that have the field, such as 'local'; (): the section is no member


_MASKS = "bounds are estimated under the noise that the model is trained with, which scatters more"

EARLIER: tuple[Earlier, ...] = (
    Earlier(
        "data.blank",
        "served",
        "windows that hold nothing but prompts are read too",
        beside="prompt",
    ),
    Earlier(
        "optim.ema.warmup",
        "none",
        "averages keep much of the initial parameters for long",
        beside="decay",
        number="decay",
    ),
    Earlier(
        "data.source.unique", True, "equal documents are kept once", members=("local", "problems")
    ),
    Earlier(
        "data.source.form",
        "suffix",
        "files named .jsonl and .ndjson are JSON, all others text",
        members=("local",),
    ),
    *(Earlier(f"evals.{name}.pattern", "own", _MASKS) for name in ("bound", "exact", "harness")),
)


MOVED = {"run.loop": "training.loop", "run.mesh": "machine.mesh", "run.optim": "training.optimizer"}


def completed(config: dict) -> list[str]:
    """Puts the value of every missing field, and today's names, into a stored config; returns one line about each field."""
    _rename(config)
    lines = []
    for field in EARLIER:
        *parents, leaf = field.dotted.split(".")
        section = _section(config, parents, field.number)
        if section is None or leaf in section or not _has_the_field(section, field):
            continue
        section[leaf] = field.value
        lines.append(f"{field.dotted}={field.value!r}: {field.means}")
    return lines


def _rename(config: dict) -> None:
    """Gives a stored config, and all sections in it, the names that their modules have today."""
    if isinstance(name := config.get("name"), str):
        config["name"] = MOVED.get(name, name)
    for value in config.values():
        if isinstance(value, dict):
            _rename(value)


def idle(config: dict) -> None:
    """Takes the table's fields that mean nothing without another out where that one is off: a run has them or not by its age alone."""
    for field in EARLIER:
        *parents, leaf = field.dotted.split(".")
        section = _section(config, parents, field.number)
        if section and field.beside and not section.get(field.beside):
            section.pop(leaf, None)


def kept(run: dict, bare: dict, stored: dict) -> dict:
    """The config of a run as it goes on: the table's fields are as in its completed `stored` config where that has the table's value, and
    the `run` as it was asked for has today's default. `bare` is that run with nothing but defaults in these fields (`without`)."""
    run = copy.deepcopy(run)
    for field in EARLIER:
        *parents, leaf = field.dotted.split(".")
        asked, default, began = (_section(config, parents) or {} for config in (run, bare, stored))
        if (
            leaf in asked
            and asked[leaf] == default.get(leaf)
            and leaf in began
            and began[leaf] == field.value
        ):
            asked[leaf] = field.value
    return run


def without(config: dict) -> dict:
    """A config with the table's fields left out."""
    config = copy.deepcopy(config)
    for field in EARLIER:
        *parents, leaf = field.dotted.split(".")
        (_section(config, parents) or {}).pop(leaf, None)
    return config


def _section(config: dict, parents: list[str], number: str = "") -> dict | None:
    """The dictionary below `config` that a path of names leads to; a member given by its name alone is opened, and so is a number."""
    for parent in parents:
        found = config.get(parent)
        if isinstance(found, str):
            found = config[parent] = dict(name=found)
        if number and isinstance(found, (int, float)):
            found = config[parent] = {number: found}
        if not isinstance(found, dict):
            return None
        config = found
    return config


def _has_the_field(section: dict, field: Earlier) -> bool:
    if field.beside and not section.get(field.beside):
        return False
    return not field.members or str(section.get("name", "")).rpartition(".")[2] in field.members
