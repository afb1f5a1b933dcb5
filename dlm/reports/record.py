"""A run, read from its directory alone: its config, what it logged, scored and drew, and where."""

import functools
import re
import statistics
import sys
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

from dlm.core import console
from dlm.core.errors import UserError
from dlm.core.named import shown
from dlm.reports import scores
from dlm.runs import directory, earlier_fields, logs

_NUMBER = (int, float)
_SECTIONS = {  # of a config
    **dict.fromkeys(("data", "data.source", "evals", "evals.*", "nn", "optim", "sampler"), (dict,)),
    **dict.fromkeys(("objective", "text"), (dict, str)),
    **dict.fromkeys(
        ("objective.name", "text.name", "data.source.name", "sampler.rule.name"), (str,)
    ),
    **dict.fromkeys(("steps", "seed", "data.batch", "data.length"), (int,)),
}
_ABOUT = {  # of environment.json
    **dict.fromkeys(("parameters", "flops_per_token", "cores"), _NUMBER),
    **dict.fromkeys(("python", "processor"), (str,)),
    "devices": (list,),
}
_DIGITS = re.compile(r"(\d+)")  # of names, which sort by their numbers


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
        entry = self.config.get("objective", "?")
        return (entry["name"] if isinstance(entry, dict) else str(entry)).removeprefix(
            "objectives."
        )

    @functools.cached_property
    def scores(self) -> dict[str, dict]:
        """The scores of its config's evaluators on its own held-out text, by name (`scores.own`)."""
        return scores.own(self.evals, self.config)

    @functools.cached_property
    def others(self) -> list[dict]:
        """The scores for which something else was asked (`scores.others`)."""
        return scores.others(self.evals, self.config)

    @property
    def tokens_per_s(self) -> float | None:
        """The median over the run: the first rows compile, and a laptop is interrupted."""
        speeds = [
            row["tokens_per_s"] for row in self.metrics if row.get("tokens_per_s") is not None
        ]
        return statistics.median(speeds) if speeds else None

    @property
    def updates(self) -> int:
        return self.metrics[-1]["step"]

    def code(self, digits: int = 7) -> str:
        """The version of the code in few signs: '83bfaab', '83bfaab+changes', 'src-11a5b45', 'unknown'."""
        kind, name, changes = re.match(r"(src-)?([^+ ]*)(\+changes)?", self.commit).groups(
            default=""
        )
        return kind + name[:digits] + changes or "unknown"

    @property
    def tokens(self) -> int | None:
        """Read in training."""
        data = self.config.get("data", {})
        return (
            self.updates * data["batch"] * data["length"]
            if {"batch", "length"} <= data.keys()
            else None
        )

    @property
    def flops(self) -> float | None:
        """Of the training, forward and backward."""
        each = self.environment.get("flops_per_token")
        return None if each is None or self.tokens is None else each * self.tokens

    @property
    def seconds(self) -> float | None:
        """Of the training, at its median speed."""
        return self.tokens / self.tokens_per_s if self.tokens and self.tokens_per_s else None

    @property
    def parameters(self) -> int | None:
        return self.environment.get("parameters")

    @property
    def one_sided(self) -> bool:
        """True of an autoregressive or block model, which sees no text after a hole."""
        return self.objective in ("ar", "block", "any_order")

    def text_of(self, score: dict) -> str | None:
        """What the text is called that a score was measured on: the run's own held-out split, or what `--data` named."""
        source = (
            self.config.get("data", {})
            .get("source", {})
            .get("name", "the run's data")
            .removeprefix("data.")
        )
        return (
            f"held-out split of {source}" if score.get("data") == "held_out" else score.get("data")
        )

    def shown(self) -> list[dict]:
        """The latest three samples or solved problems, and the latest infilling."""
        infills = [s for s in self.samples if s["kind"] == "infill"]
        drawn = [s for s in self.samples if s["kind"] in ("sample", "problem")]
        return drawn[-3:] + infills[-1:]


def read(paths: list[str]) -> list[Record]:
    """The records of run directories, and of those inside a folder that holds some, as a sweep's does.

    A run that cannot be read is named and left out; it is an error where no other is left.
    """
    records, wrong = [], []
    for workdir in (workdir for path in paths for workdir in _records_in(Path(path))):
        try:
            records.append(_read(workdir))
        except (UserError, OSError) as error:
            wrong.append(error)
    if not records:
        raise wrong[0]
    for error in wrong:
        console.say(f"left out: {error}")
    return list({record.workdir.resolve(): record for record in records}.values())


def _records_in(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"no run directory {path}: train first, or check the path")
    if (path / "config.json").exists():
        return [path]
    inside = sorted((p.parent for p in path.glob("*/config.json")), key=_natural)
    begun = [p for p in inside if logs.rows(p / "metrics.jsonl", logs.METRIC)]
    if not begun:
        raise UserError(
            f"{path} is not a run directory, and no folder in it is one that has trained: it has no config.json"
        )
    return begun


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part for part in _DIGITS.split(path.name)]


def _read(workdir: Path) -> Record:
    metrics, commit = (
        logs.rows(workdir / "metrics.jsonl", logs.METRIC, console.say),
        workdir / "commit.txt",
    )
    if not metrics:
        raise UserError(f"{workdir} has no metrics.jsonl yet: train it first")
    return Record(
        workdir=workdir,
        config=_config(workdir / "config.json"),
        metrics=metrics,
        evals=logs.rows(workdir / "evals.jsonl", logs.SCORE, console.say),
        samples=logs.rows(workdir / "samples.jsonl", logs.SAMPLE, console.say),
        environment=_shaped(
            workdir / "environment.json", _json(workdir / "environment.json") or {}, _ABOUT
        ),
        commit=commit.read_text(encoding="utf-8", errors="replace").strip()
        if commit.exists()
        else "",
    )


def _config(path: Path) -> dict:
    """A stored config; fields that it has not are what runs of its time did (`runs.earlier_fields`)."""
    config = _json(path)
    _shaped(path, config, _SECTIONS)
    config.pop(directory.CHANGES, None)  # what was before does not tell models apart
    earlier_fields.completed(config)
    earlier_fields.idle(config)
    return config


def _shaped(path: Path, found: Any, shapes: dict[str, tuple[type, ...]]) -> dict:
    """An object whose fields, those that it has, are of the types that a report relies on."""
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it is no JSON object")
    for dotted, types in shapes.items():
        *parents, leaf = dotted.split(".")
        section = functools.reduce(
            lambda section, name: section.get(name, {}) if isinstance(section, dict) else {},
            parents,
            found,
        )
        for name in (
            section if leaf == "*" else {leaf} & section.keys() if isinstance(section, dict) else ()
        ):
            value, number = section[name], int in types
            if (
                not isinstance(value, types)
                or isinstance(value, bool)
                or (number and abs(value) > sys.float_info.max)
            ):
                raise UserError(
                    f"{path} is damaged: {'.'.join([*parents, name])} is {shown(value)}"
                )
    return found


def _json(path: Path) -> dict | None:
    try:
        return loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
