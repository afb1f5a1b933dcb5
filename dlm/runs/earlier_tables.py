"""Tables of what was renamed or added since earlier versions; `earlier_fields` applies them.

To rename something, add a row (never delete one: old runs stay readable):

    MODULES   a file that a config names moved          'run.optim': 'training.optimizer'
    FIELDS    a field of a section or of a member       Renamed('sampler.edge', 'sampler.window')
    COLUMNS   a column of metrics.jsonl                 'old_loss': 'new_loss'
    MOVES     a function, where a value moved or split  def power(config): … return [(old, new)]
    EARLIER   a field came later, with another default  Earlier('optim.b2', 0.5, 'what runs did')

Modules are renamed first, then fields in the order of the table, then the functions are called;
so a row is written in the names that the rows before it produce.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dlm.runs import config_paths

Names = list[
    tuple[str, str]
]  # (old, new) of everything that was renamed, for error lines


@dataclass(frozen=True)
class Renamed:
    """One field that has another name, place or spelling today."""

    old: str  # dotted path, such as 'sampler.edge'; paths into the sampler hold for every pass
    new: str  # its path today
    members: tuple[
        str, ...
    ] = ()  # only in these members of a family, such as ('block',); (): any
    values: dict[str, str] = field(
        default_factory=dict
    )  # old value → new value; others stay


@dataclass(frozen=True)
class Earlier:
    """One field that came later."""

    dotted: str  # its path, such as 'optim.skip.norm'
    value: Any  # the value that describes what runs without the field did
    means: str  # the same in words, printed when such a run is opened
    number: str = (
        ""  # the field of its section that a plain number in place of the section sets
    )
    beside: str = ""  # a field of the same section without which this one has no effect
    members: tuple[
        str, ...
    ] = ()  # only in these members of a family; (): the section is no member


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

# The members whose fields these rows rename, by their names of then and of today.
_REMASKS = ("doubted", "low_confidence", "prism", "quality")

FIELDS: tuple[Renamed, ...] = (
    Renamed("every", "intervals"),
    Renamed(
        "intervals.unsaved", "intervals.on_save_failure", values={"go_on": "continue"}
    ),
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
    Renamed("sampler.remask.below", "sampler.remask.threshold", members=_REMASKS),
    Renamed("sampler.remask.share", "sampler.remask.fraction", members=_REMASKS),
)

COLUMNS: dict[str, str] = {}

# The members whose noise schedule was a name beside a field `power`, and where they occur.
_SCHEDULED = {"objective.process": ("mask", "uniform"), "sampler.rule": ("maskgit",)}


def _nest_power(config: dict) -> Names:
    """Moves the power of a noise schedule from the process (or rule) into the schedule."""
    names = []
    for path, members in _SCHEDULED.items():
        parents = path.split(".")
        for top, depth in config_paths.tops(config, parents):
            section = config_paths.existing(top, parents[depth:])
            if section is None or "power" not in section:
                continue
            if not config_paths.is_member(section, members):
                continue
            power = section.pop("power")
            name = section.get("schedule")
            if isinstance(name, str):
                stem = config_paths.stem(name)
                section["schedule"] = dict(name=f"noise.schedules.{stem}")
            # Of the other schedules it was never read.
            if name == "polynomial":
                section["schedule"]["power"] = power
            names.append((f"{path}.power", f"{path}.schedule.power"))
    return names


def _speculative_driver(config: dict) -> Names:
    """Self-speculation was a rule; it is a driver, and a sampler with this driver uses no rule."""
    names = []
    for sampler, _ in config_paths.tops(config, ["sampler"]):
        rule = sampler.get("rule")
        name = rule.get("name") if isinstance(rule, dict) else rule
        if config_paths.stem(name) == "speculative":
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
