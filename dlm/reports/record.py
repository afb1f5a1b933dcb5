"""A run, read from its directory alone: its config, its logs, scores, samples and provenance."""

import functools
import re
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

from dlm.core import console
from dlm.core.errors import UserError
from dlm.core.named import shown
from dlm.reports import scores
from dlm.reports.scores import Score
from dlm.runs import directory, earlier_fields, logs

Types = tuple[type, ...]

_NUMBER = (int, float)
# The types of fields of config.json that a report relies on.
_CONFIG_TYPES: Mapping[str, Types] = {
    "data": (dict,),
    "data.source": (dict,),
    "evals": (dict,),
    "evals.*": (dict,),
    "nn": (dict,),
    "optim": (dict,),
    "sampler": (dict,),
    "objective": (dict, str),
    "text": (dict, str),
    "objective.name": (str,),
    "text.name": (str,),
    "data.source.name": (str,),
    "sampler.rule.name": (str,),
    "steps": (int,),
    "seed": (int,),
    "data.batch": (int,),
    "data.length": (int,),
}
# Those of environment.json.
_ENVIRONMENT_TYPES: Mapping[str, Types] = {
    "parameters": _NUMBER,
    "flops_per_token": _NUMBER,
    "cores": _NUMBER,
    "python": (str,),
    "processor": (str,),
    "devices": (list,),
}
_DIGITS = re.compile(r"(\d+)")
_VERSION = re.compile(r"(?P<kind>src-)?(?P<name>[^+ ]*)(?P<changes>\+changes)?")
_ONE_SIDED = ("ar", "block", "any_order")


@dataclass(frozen=True)
class Record:
    """One run directory, as the commands left it."""

    workdir: Path
    config: dict
    metrics: list[dict]
    evals: list[dict]  # every score, in the order of writing
    samples: list[dict]
    environment: dict
    commit: str

    @property
    def objective(self) -> str:
        """The name of the objective's file."""
        entry = self.config.get("objective", "?")
        name = entry["name"] if isinstance(entry, dict) else str(entry)
        return name.removeprefix("objectives.")

    @functools.cached_property
    def scores(self) -> dict[str, Score]:
        """The scores of its config's evaluators on its own text, by name (`scores.own`)."""
        return scores.own(self.evals, self.config)

    @functools.cached_property
    def others(self) -> list[Score]:
        """The scores of calls that differed from the config (`scores.others`)."""
        return scores.others(self.evals, self.config)

    @property
    def tokens_per_s(self) -> float | None:
        """The median over the run: the first rows include compilation, and laptops pause."""
        # A row of an evaluation has no speed.
        speeds = []
        for row in self.metrics:
            speed = row.get("tokens_per_s")
            if speed is not None:
                speeds.append(speed)
        return statistics.median(speeds) if speeds else None

    @property
    def updates(self) -> int:
        return self.metrics[-1]["step"]

    def code(self, digits: int = 7) -> str:
        """The version of the code: '83bfaab', '83bfaab+changes', 'src-11a5b45', 'unknown'."""
        # A copy without git has a hash of its sources instead of a commit.
        match = _VERSION.match(self.commit)
        if match is None:
            return "unknown"
        version = match.groupdict(default="")
        name = version["name"][:digits]
        return version["kind"] + name + version["changes"] or "unknown"

    @property
    def tokens(self) -> int | None:
        """The number of tokens read in training."""
        # A config of an earlier version may lack either.
        data = self.config.get("data", {})
        if not {"batch", "length"} <= data.keys():
            return None
        return self.updates * data["batch"] * data["length"]

    @property
    def flops(self) -> float | None:
        """The FLOPs of the training, forward and backward."""
        each = self.environment.get("flops_per_token")
        if each is None or self.tokens is None:
            return None
        return each * self.tokens

    @property
    def seconds(self) -> float | None:
        """The seconds of the training, at its median speed."""
        # A run of a single row has no speed yet.
        if not self.tokens or not self.tokens_per_s:
            return None
        return self.tokens / self.tokens_per_s

    @property
    def parameters(self) -> int | None:
        return self.environment.get("parameters")

    @property
    def one_sided(self) -> bool:
        """Whether the model is autoregressive or blockwise: it sees no text after a hole."""
        return self.objective in _ONE_SIDED

    def text_of(self, score: Score) -> str | None:
        """The name of the text that a score was measured on."""
        if score.get("data") != "held_out":
            return score.get("data")
        source = self.config.get("data", {}).get("source", {})
        name = source.get("name", "the run's data")
        return f"held-out split of {name.removeprefix('data.')}"

    def shown(self) -> list[dict]:
        """The last three samples or solved problems, and the last infilling."""
        return self._samples("sample", "problem")[-3:] + self._samples("infill")[-1:]

    def _samples(self, *kinds: str) -> list[dict]:
        return [sample for sample in self.samples if sample["kind"] in kinds]


def read(paths: list[str]) -> list[Record]:
    """Reads run directories, and those in a folder that contains some, as a sweep's does.

    A run that cannot be read is reported and left out. Raises UserError where no run is left.
    """
    records = {}
    errors = []
    for path in paths:
        for workdir in _run_directories(Path(path)):
            try:
                record = _read(workdir)
            except (UserError, OSError) as error:
                errors.append(error)
            else:
                # A run that is named twice counts once.
                records[workdir.resolve()] = record
    if not records:
        raise errors[0]
    for reason in errors:
        console.say(f"left out: {reason}")
    return list(records.values())


def _run_directories(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"no run directory {path}: train first, or check the path")
    if (path / "config.json").exists():
        return [path]

    # A run of a sweep that has not begun to train has a config, and nothing to report.
    inside = [config.parent for config in path.glob("*/config.json")]
    begun = []
    for folder in sorted(inside, key=_by_numbers):
        if logs.rows(folder / "metrics.jsonl", logs.METRIC):
            begun.append(folder)
    if not begun:
        raise UserError(
            f"{path} is not a run directory, and no folder in it is one that has trained: "
            "it has no config.json"
        )
    return begun


def _by_numbers(path: Path) -> list[int | str]:
    """Sorts run9 before run10."""
    parts = _DIGITS.split(path.name)
    return [int(part) if part.isdigit() else part for part in parts]


def _read(workdir: Path) -> Record:
    # A run that has logged nothing has nothing to compare.
    metrics = logs.rows(workdir / "metrics.jsonl", logs.METRIC, console.say)
    if not metrics:
        raise UserError(f"{workdir} has no metrics.jsonl yet: train it first")
    config = _config(workdir / "config.json")
    evals = logs.rows(workdir / "evals.jsonl", logs.SCORE, console.say)
    samples = logs.rows(workdir / "samples.jsonl", logs.SAMPLE, console.say)

    # A run of an earlier version has no environment.json.
    path = workdir / "environment.json"
    environment = _json(path) or {}
    _check_types(path, environment, _ENVIRONMENT_TYPES)
    commit = _commit(workdir / "commit.txt")
    return Record(workdir, config, metrics, evals, samples, environment, commit)


def _commit(path: Path) -> str:
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.strip()


def _config(path: Path) -> dict:
    """Reads a stored config; fields that it lacks get the values of its time (`earlier_fields`)."""
    config = _json(path)
    config = _check_types(path, config, _CONFIG_TYPES)
    # Changes since the beginning do not distinguish models.
    config.pop(directory.CHANGES, None)
    earlier_fields.completed(config)
    earlier_fields.idle(config)
    return config


def _check_types(path: Path, stored: Any, types_of: Mapping[str, Types]) -> dict:
    """Returns a JSON object; raises UserError where one of its fields has another type."""
    if not isinstance(stored, dict):
        raise UserError(f"{path} is damaged: it is no JSON object")
    for dotted, types in types_of.items():
        *parents, leaf = dotted.split(".")
        section: Any = stored
        for parent in parents:
            section = section.get(parent, {}) if isinstance(section, dict) else {}
        if not isinstance(section, dict):
            continue
        # A field that is missing is valid: reports leave out what they do not know.
        names: Iterable[str] = section if leaf == "*" else section.keys() & {leaf}
        for name in names:
            if not _is_valid(section[name], types):
                field = ".".join([*parents, name])
                raise UserError(f"{path} is damaged: {field} is {shown(section[name])}")
    return stored


def _is_valid(value: Any, types: Types) -> bool:
    # To Python a bool is an int; and JSON has integers too large for a float.
    if not isinstance(value, types) or isinstance(value, bool):
        return False
    return not isinstance(value, (int, float)) or abs(value) <= sys.float_info.max


def _json(path: Path) -> Any:
    """Reads a file, None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        return loads(text)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
