"""Runs, read from their directories and set side by side: what each model scored, beside what gzip makes of the same bytes.

    masked            bound    3.014 ± 0.006    7,012    1,049,600
    ar                exact    2.151            7,390    1,049,600
    gzip -9           exact    2.702

A bound is never printed without its standard error, and a score keeps its claim: bound, or exact.
"""

import csv
import io
import statistics
from dataclasses import asdict, dataclass
from json import JSONDecodeError, loads
from pathlib import Path

from dlm.run.logs import rows as json_lines
from dlm.run.spec import UserError

BASELINES = {"gzip_bits_per_byte": "gzip -9", "xz_bits_per_byte": "xz -9", "order0_bits_per_byte": "order-0 entropy"}


@dataclass(frozen=True)
class Record:
    """One run directory, as the commands left it."""

    workdir: Path
    model: str
    config: dict
    metrics: list[dict]
    scores: dict[str, dict]  # by name, the latest
    samples: list[dict]
    environment: dict
    commit: str

    @property
    def tokens_per_s(self) -> float | None:
        """The median over the run: the first rows compile, and a laptop is interrupted."""
        speeds = [row["tokens_per_s"] for row in self.metrics if "tokens_per_s" in row]
        return statistics.median(speeds) if speeds else None

    @property
    def parameters(self) -> int | None:
        found = self.scores.get("parameters", {}).get("value", self.environment.get("parameters"))
        return None if found is None else int(found)

    @property
    def one_sided(self) -> bool:
        """True of an autoregressive model, which sees no text after a hole."""
        return self.model.partition(" ")[0] == "ar"

    def text_of(self, score: dict) -> str | None:
        """What a score was measured on: the run's own held-out split, or what `--data` named."""
        source = self.config.get("data", {}).get("source", {}).get("name", "the run's data").removeprefix("data.")
        return f"held-out split of {source}" if score.get("data") == "held_out" else score.get("data")

    def shown(self) -> list[dict]:
        """The latest three samples and the latest infilling."""
        infills = [s for s in self.samples if s["kind"] == "infill"]
        return [s for s in self.samples if s["kind"] == "sample"][-3:] + infills[-1:]


@dataclass(frozen=True)
class Row:
    model: str
    claim: str | None = None
    bits_per_byte: float | None = None
    standard_error: float | None = None
    tokens_per_s: float | None = None
    parameters: int | None = None
    step: int | None = None
    seed: int | None = None
    data: str | None = None
    commit: str = ""
    workdir: str = ""


def read(workdirs: list[str]) -> list[Record]:
    """The records of some run directories; two runs of one objective are told apart by their directory."""
    found = [_read(Path(workdir)) for workdir in workdirs]
    names = [record.model for record in found]
    return [r if names.count(r.model) == 1 else Record(**{**vars(r), "model": f"{r.model} ({r.workdir.name})"}) for r in found]


def _read(workdir: Path) -> Record:
    if not workdir.is_dir():
        raise UserError(f"no run directory {workdir}: train first, or check the path")
    config = _json(workdir / "config.json")
    if config is None:
        raise UserError(f"{workdir} is not a run directory: it has no config.json")
    metrics = json_lines(workdir / "metrics.jsonl")
    if not metrics:
        raise UserError(f"{workdir} has no metrics.jsonl yet: train it first")
    objective = config.get("objective", "?")
    commit = workdir / "commit.txt"
    return Record(
        workdir=workdir,
        model=(objective["name"] if isinstance(objective, dict) else str(objective)).removeprefix("objectives."),
        config=config,
        metrics=metrics,
        scores={score["name"]: score for score in json_lines(workdir / "evals.jsonl")},
        samples=json_lines(workdir / "samples.jsonl"),
        environment=_json(workdir / "environment.json") or {},
        commit=commit.read_text(encoding="utf-8").strip() if commit.exists() else "",
    )


def _json(path: Path) -> dict | None:
    try:
        return loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def rows(records: list[Record]) -> list[Row]:
    """A row per model, then one per baseline that any of the runs has scored."""
    return [_model(record) for record in records] + [
        Row(title, "exact", record.scores[name]["value"], data=record.text_of(record.scores[name]))
        for name, title in BASELINES.items()
        for record in [r for r in records if name in r.scores][:1]
    ]


def _model(record: Record) -> Row:
    score = record.scores.get("bits_per_byte", {})
    return Row(
        model=record.model,
        claim=score.get("claims"),
        bits_per_byte=score.get("value"),
        standard_error=score.get("se") if score.get("claims") == "bound" else None,
        tokens_per_s=record.tokens_per_s,
        parameters=record.parameters,
        step=score.get("step", record.metrics[-1]["step"]),
        seed=record.config.get("seed", 0),
        data=record.text_of(score),
        commit=record.commit,
        workdir=str(record.workdir),
    )


def warnings(records: list[Record]) -> list[str]:
    """What makes a comparison unfair, one line each."""
    found = []
    scored = [(r, n) for r in records for n in ("bits_per_byte", *BASELINES) if n in r.scores]
    texts = {r.text_of(r.scores[n]) for r, n in scored} - {None}
    sizes = {f"{r.scores['held_out_bytes']['value']:,.0f} bytes" for r in records if "held_out_bytes" in r.scores}
    if len(texts) > 1 or len(sizes) > 1:
        different = ", ".join(sorted(texts if len(texts) > 1 else sizes))
        found.append(f"scored on different text ({different}): these bits per byte do not compare")
    for record in records:
        scored, last = record.scores.get("bits_per_byte", {}).get("step"), record.metrics[-1]["step"]
        if scored is None:
            found.append(f"{record.model} has no held-out score: python -m dlm.evaluate --workdir={record.workdir}")
        elif scored != last:
            found.append(f"{record.model} was scored at step {scored}, but trained to step {last}")
    return found


HEAD = ("model", "claim", "held-out bits/byte", "tokens/s", "parameters")


def cells(row: Row) -> tuple[str, ...]:
    """A row as shown: unknown is blank, a bound has its standard error."""
    bits = "" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}"
    if row.standard_error is not None:
        bits += f" ± {row.standard_error:.3f}"
    counts = ("" if n is None else f"{n:,.0f}" for n in (row.tokens_per_s, row.parameters))
    return (row.model, row.claim or "", bits, *counts)


def as_text(table: list[Row]) -> str:
    """The table for a terminal; the point of every score stands in one column."""
    lines = [HEAD, *map(cells, table)]
    width = [max(len(line[c]) for line in lines) for c in range(len(HEAD))]
    left = (0, 1, 2)
    shown = ["   ".join(f"{cell:{'<' if c in left else '>'}{width[c]}}" for c, cell in enumerate(line)).rstrip() for line in lines]
    return "\n".join([shown[0], "─" * max(map(len, shown)), *shown[1:]])


def as_csv(table: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, Row.__dataclass_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table)
    return text.getvalue()
