"""Reading what earlier versions stored: renamed modules, fields, columns, and missing fields.

A run directory keeps every field of its config, under the names of the code that wrote it. These
tables translate it to the names and values of today, so that an old run can be read, resumed and
compared with new ones. Every reader of a stored config or row uses them: `completed` for a
config.json, `renamed_row` for a line of a .jsonl file. Recipes and flags must use today's names:
`check` refuses an old one with a line that gives the new one.

To rename something, add a row (never delete one: old runs stay readable):

    MODULES   a file that a config names moved          'run.optim': 'training.optimizer'
    FIELDS    a field of a section or of a member       Renamed('sampler.edge', 'sampler.window')
    COLUMNS   a column of metrics.jsonl                 'old_loss': 'new_loss'
    MOVES     a function, where a value moved or split  def power(config): … return [(old, new)]
    EARLIER   a field came later, with another default  Earlier('optim.b2', 0.5, 'what runs did')

Modules are renamed first, then fields in the order of the table, then the functions are called;
so a row is written in the names that the rows before it produce.
"""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dlm.core.errors import UserError

Names = list[tuple[str, str]]  # (old, new) of everything that was renamed, for error lines


@dataclass(frozen=True)
class Renamed:
    """One field that has another name, place or spelling today."""

    old: str  # dotted path, such as 'sampler.edge'; paths into the sampler hold for every pass
    new: str  # its path today
    members: tuple[str, ...] = ()  # only in these members of a family, such as ('block',); (): any
    values: dict[str, str] = field(default_factory=dict)  # old value → new value; others stay


@dataclass(frozen=True)
class Earlier:
    """One field that came later."""

    dotted: str  # its path, such as 'optim.skip.norm'
    value: Any  # the value that describes what runs without the field did
    means: str  # the same in words, printed when such a run is opened
    number: str = ""  # the field of its section that a plain number in place of the section sets
    beside: str = ""  # a field of the same section without which this one has no effect
    members: tuple[str, ...] = ()  # only in these members of a family; (): the section is no member


MODULES: dict[str, str] = {
    "run.loop": "training.loop",
    "run.mesh": "machine.mesh",
    "run.optim": "training.optimizer",
    "samplers.config": "samplers.plan",
    "samplers.ancestral": "samplers.rules.ancestral",
    "samplers.confident": "samplers.rules.confident",
    "samplers.correcting": "samplers.rules.correcting",
    "samplers.editing": "samplers.rules.editing",
    "samplers.entropy_bounded": "samplers.rules.entropy_bounded",
    "samplers.factor": "samplers.rules.factor",
    "samplers.first_hitting": "samplers.rules.first_hitting",
    "samplers.maskgit": "samplers.rules.maskgit",
    "samplers.ordered": "samplers.rules.ordered",
    "samplers.planned": "samplers.rules.planned",
    "samplers.threshold": "samplers.rules.threshold",
    "samplers.speculative": "samplers.drivers.speculative",
    "samplers.remask.conf": "samplers.remask.confidence",
    "samplers.remask.doubted": "samplers.remask.low_confidence",
    "samplers.remask.prism": "samplers.remask.quality",
    "training.loop": "training.intervals",
    "machine.mesh": "machine.config",
    "training.optimizer": "training.config",
}

FIELDS: tuple[Renamed, ...] = (
    Renamed("every", "intervals"),
    Renamed("intervals.unsaved", "intervals.on_save_failure", values={"go_on": "continue"}),
    Renamed("data.mark", "data.marked_characters"),
    Renamed("nn.ahead", "nn.mtp_layers"),
    Renamed("nn.experts.number", "nn.experts.count"),
    Renamed("nn.experts.active", "nn.experts.per_token"),
    Renamed("nn.experts.every", "nn.experts.period"),
    Renamed("nn.experts.dense", "nn.experts.first_dense"),
    Renamed("objective.ahead", "objective.mtp_weight", members=("ar",)),
    Renamed("objective.grow", "objective.block_warmup", members=("block",)),
    Renamed("objective.anneal", "objective.reach_warmup", members=("adapted",)),
    Renamed("objective.judge", "objective.quality_weight", members=("prism",)),
    Renamed("sampler.then", "sampler.next_pass"),
    Renamed("sampler.reopen", "sampler.remask_fraction"),
    Renamed("sampler.edge", "sampler.window"),
    Renamed("sampler.rule.shake", "sampler.rule.choice_noise", members=("maskgit",)),
    Renamed("sampler.rule.trust", "sampler.rule.self_trust", members=("planned",)),
    Renamed("sampler.remask.below", "sampler.remask.threshold"),
    Renamed("sampler.remask.share", "sampler.remask.fraction"),
)

COLUMNS: dict[str, str] = {}

# The members whose noise schedule was a name beside a field `power`, and where they occur.
_SCHEDULED = {"objective.process": ("mask", "uniform"), "sampler.rule": ("maskgit",)}


def _nest_power(config: dict) -> Names:
    """Moves the power of a noise schedule from the process (or rule) into the schedule."""
    names = []
    for path, members in _SCHEDULED.items():
        parents = path.split(".")
        for top, depth in _tops(config, parents):
            section = _existing(top, parents[depth:])
            if section is None or "power" not in section or not _is_member(section, members):
                continue
            power, name = section.pop("power"), section.get("schedule")
            if isinstance(name, str):
                section["schedule"] = dict(name=f"noise.schedules.{_stem(name)}")
            # Of the other schedules it was never read.
            if name == "polynomial":
                section["schedule"]["power"] = power
            names.append((f"{path}.power", f"{path}.schedule.power"))
    return names


def _speculative_driver(config: dict) -> Names:
    """Self-speculation was a rule; it is a driver, and a sampler with this driver uses no rule."""
    names = []
    for sampler, _ in _tops(config, ["sampler"]):
        rule = sampler.get("rule")
        name = rule.get("name") if isinstance(rule, dict) else rule
        if _stem(name) == "speculative":
            sampler |= {"rule": "samplers.rules.ancestral", "driver": rule}
            names.append(("sampler.rule=speculative", "sampler.driver=speculative"))
    return names


MOVES: tuple[Callable[[dict], Names], ...] = (_nest_power, _speculative_driver)

_MASKS = "bounds are estimated under the noise that the model is trained with, which scatters more"
_PROMPTS = "windows that hold nothing but prompts are read too"
_AVERAGES = "averages keep much of the initial parameters for long"
_EQUAL = "equal documents are kept once"
_FORMS = "files named .jsonl and .ndjson are JSON, all others text"

EARLIER: tuple[Earlier, ...] = (
    Earlier("data.blank", "served", _PROMPTS, beside="prompt"),
    Earlier("optim.ema.warmup", "none", _AVERAGES, beside="decay", number="decay"),
    Earlier("data.source.unique", True, _EQUAL, members=("local", "problems")),
    Earlier("data.source.form", "suffix", _FORMS, members=("local",)),
    Earlier("evals.bound.pattern", "own", _MASKS),
    Earlier("evals.exact.pattern", "own", _MASKS),
    Earlier("evals.harness.pattern", "own", _MASKS),
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
_PASSES = ("then", "next_pass")  # the field of a sampler that holds its next pass, then and now
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
        section = _section(config, parents, entry.number)
        missing = section is not None and leaf not in section
        if not missing or not _has_the_field(section, entry):
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
    return _stem(_module_today(f"{family}.{name}", family))


def _rename_field(config: dict, entry: Renamed) -> Names:
    *parents, leaf = entry.old.split(".")
    *new_parents, new_leaf = entry.new.split(".")
    names = []
    for top, depth in _tops(config, parents):
        section = _existing(top, parents[depth:])
        present = section is not None and leaf in section
        if not present or not _is_member(section, entry.members):
            continue
        target = section
        if new_parents != parents:
            target = _opened(top, new_parents[depth:])
        # Where both names are given the old one stays, and is refused as unknown.
        if new_leaf in target:
            continue
        value = section.pop(leaf)
        if isinstance(value, str):
            value = entry.values.get(value, value)
        target[new_leaf] = value
        names.append((entry.old, entry.new))
    return names


def _tops(config: dict, path: list[str]) -> Iterator[tuple[dict, int]]:
    """(dictionary, how many names of the path lead to it): one for each pass of a sampler."""
    if path[:1] != ["sampler"]:
        yield config, 0
        return
    sampler = config.get("sampler")
    while isinstance(sampler, dict):
        later = next((sampler[name] for name in _PASSES if sampler.get(name)), None)
        yield sampler, 1
        sampler = later


def _existing(config: dict, parents: list[str]) -> dict | None:
    """The dictionary at a path, None where there is none; nothing is changed."""
    for parent in parents:
        config = config.get(parent)
        if not isinstance(config, dict):
            return None
    return config


def _opened(config: dict, parents: list[str]) -> dict:
    """The dictionary at a path, created where there is none."""
    for parent in parents:
        if not isinstance(config.get(parent), dict):
            config[parent] = {}
        config = config[parent]
    return config


def _renamed(section: dict, parents: list[str]) -> dict:
    """A copy of the section at a path of a config, in today's names."""
    config = {}
    *above, last = parents
    _opened(config, above)[last] = copy.deepcopy(section)
    rename(config)
    return _opened(config, parents)


def _renamed_paths(values: dict[str, Any]) -> dict[str, Any]:
    """{'sampler.edge': …} with today's paths; `data` is a file's name here, and stays."""
    nested, others = {}, {}
    for dotted, value in values.items():
        *parents, leaf = dotted.split(".")
        if parents and parents[0] in ("sampler", "evals"):
            _opened(nested, parents)[leaf] = copy.deepcopy(value)
        else:
            others[dotted] = value
    rename(nested)
    return others | _flat(nested, "")


def _flat(nested: dict, above: str) -> dict[str, Any]:
    flat = {}
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
        section = _section(config, parents, entry.number)
        if section and entry.beside and not section.get(entry.beside):
            section.pop(leaf, None)


def kept(run: dict, bare: dict, stored: dict) -> dict:
    """The config with which a stored run continues: fields of EARLIER keep the value it began with.

    That holds where the recipe leaves them at today's default; `bare` is the config of the recipe
    with nothing but defaults in these fields (`without`), `stored` the completed one of the run.
    """
    run = copy.deepcopy(run)
    for entry in EARLIER:
        *parents, leaf = entry.dotted.split(".")
        sections = [_section(config, parents) or {} for config in (run, bare, stored)]
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
        (_section(config, parents) or {}).pop(leaf, None)
    return config


def _section(config: dict, parents: list[str], number: str = ""):
    """The dictionary at a path; None where there is none.

    A member given by its name alone becomes a dictionary, and so does a number.
    """
    for parent in parents:
        value = config.get(parent)
        if isinstance(value, str):
            value = config[parent] = dict(name=value)
        if number and isinstance(value, (int, float)):
            value = config[parent] = {number: value}
        if not isinstance(value, dict):
            return None
        config = value
    return config


def _has_the_field(section: dict, entry: Earlier) -> bool:
    if entry.beside and not section.get(entry.beside):
        return False
    return not entry.members or _stem(section.get("name", "")) in entry.members


def _is_member(section: dict, members: tuple[str, ...]) -> bool:
    """Whether a section is one of these members; also where it does not name its member."""
    name = section.get("name")
    return not members or name is None or _stem(name) in members


def _stem(name: Any) -> str:
    """'ancestral' of 'samplers.ancestral'."""
    return str(name).rpartition(".")[2]
