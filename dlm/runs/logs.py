"""What a run says: one live line on stderr, `metrics.jsonl` always, TensorBoard files when tensorboardX is installed."""

import datetime
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from dlm.core import files
from dlm.core.errors import UserError
from dlm.runs import earlier_fields

METRICS, OWED = "metrics.jsonl", "owed.json"


class Logs:
    """Writes a run's metrics; rows past the step that a run resumes from are dropped, since they will come again."""

    def __init__(
        self,
        workdir: Path,
        start: int,
        steps: int,
        stream: TextIO | None = None,
        writes: bool = True,
    ):
        """Of several processes one `writes`; the others keep silent and leave the files alone."""
        self.stream, self.start, self.steps, self._writes = (
            stream or sys.stderr,
            start,
            steps,
            writes,
        )
        self._path = Path(workdir) / METRICS
        self._pending = Path(workdir) / OWED
        self._live = writes and self.stream.isatty()
        if writes:
            _forget(
                self._path,
                start,
                (self.load_pending(start) or {}).get("evaluation", False),
                self.say,
            )
        self._file = self._path.open("a", encoding="utf-8") if writes else io.StringIO()
        self._begin, self._board = time.perf_counter(), _board(workdir, start) if writes else None
        self.stream = self.stream if writes else io.StringIO()
        self._said = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\033[K" if self._live else "") + text + "\n")
        self.stream.flush()

    def write(self, row: dict) -> None:
        """One row of metrics, with its `step`."""
        self._file.write(files.as_json(row) + "\n")
        try:
            self._file.flush()
        except OSError as error:  # what could not be written stays in the buffer and is tried again with the next row
            self.say(f"{self._path} cannot be written now: {error.strerror}")
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, row["step"])

    def save_pending(self, step: int, what: dict) -> None:
        """Keeps what a run that stops after `step` has not written yet."""
        if self._writes:
            files.write(self._pending, files.as_json(dict(what, step=step)))

    def load_pending(self, step: int) -> dict | None:
        """What the process that stopped after `step` has kept for this one."""
        try:
            kept = json.loads(self._pending.read_text(encoding="utf-8"))
            return (
                dict(rows=[_sums(row) for row in kept["rows"]], evaluation=bool(kept["evaluation"]))
                if kept["step"] == step
                else None
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{self._pending} is damaged: delete it, and the row of metrics under way when the run stopped is lost"
            ) from None

    def progress(self, row: dict) -> None:
        """The live line; on a pipe or in a log file at most one every ten seconds."""
        now = time.perf_counter()
        done = row["step"] - self.start
        left = (now - self._begin) / max(done, 1) * (self.steps - row["step"])
        kinds = dict(skipped="updates left out", empty="empty batches")
        scores = (
            f"loss {row['loss']:.3f}"
            if "loss" in row
            else ", ".join(f"{row[k]} {what}" for k, what in kinds.items() if k in row)
        )
        if "bits_per_byte" in row:  # no loss that only trains is told as a likelihood
            scores += f"  {row['bits_per_byte']:.3f} bits/byte"
        line = (
            f"step {row['step']}/{self.steps}  {scores}  "
            f"{row['tokens_per_s'] / 1e3:.1f}k tok/s  {row['share_of_peak']:.0%} of peak  ETA {clock(left)}"
        )
        if self._live:
            self.stream.write("\r\033[K" + line)
            self.stream.flush()
        elif now - self._said > 10 or row["step"] == self.steps:
            self._said = now
            self.say(line)

    def close(self) -> None:
        if self._live:
            self.stream.write("\n")
        self._file.close()
        if self._board is not None:
            self._board.close()


def clock(seconds: float) -> str:
    """'1h02m', '3m07s', '12s'."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"


# --------------------------------------------------------------------------------------------------------- what commands add


class Added:
    """Rows for the end of a .jsonl file, kept as they come: `with Added(path, 'name another file by --out=FILE') as kept: kept(rows)`.

    Whether the file can be written is tried first. Where it cannot be later, the rows are tried again with the next; the end of the block
    raises UserError if some were never kept.
    """

    def __init__(self, path: Path, remedy: str):
        self._path, self._remedy, self._left, self._error = Path(path), remedy, [], None
        files.try_writing(self._path, remedy)

    def __call__(self, new: list[dict]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._left += [dict(time=now, **row) for row in new]
        try:
            append(self._path, self._left)
            self._left = []
        except OSError as error:
            self._error = error

    def __enter__(self) -> "Added":
        return self

    def __exit__(self, kind, *_) -> None:
        if self._left and kind is None:
            lost = f"{len(self._left)} row(s) told above are kept nowhere"
            raise UserError(
                f"{self._path} cannot be written ({self._error.strerror}), so that {lost}: {self._remedy}"
            )


# ---------------------------------------------------------------------------------------------------- rows of the .jsonl files


def _text(value: Any, row: dict) -> bool:
    return isinstance(value, str)


def _word(value: Any, row: dict) -> bool:
    return value is None or isinstance(value, str)


def _step(value: Any, row: dict) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _number(value: Any, row: dict) -> bool:
    """A finite number, or null in a row that says itself that something in it is not finite."""
    known = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )
    return known or (value is None and row.get("finite") is False)


def _known(value: Any, row: dict) -> bool:
    return value is None or _number(value, row)


def _pieces(value: Any, row: dict) -> bool:
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in value
    )


def _object(value: Any, row: dict) -> bool:
    return isinstance(value, dict)


def _content(value: Any, row: dict) -> bool:
    """What `data.digest` says of a text; null of a score that reads none."""
    return value is None or (
        isinstance(value, dict)
        and _text(value.get("sha256"), row)
        and _step(value.get("bytes"), row)
    )


def _asked(value: Any, row: dict) -> bool:
    return isinstance(value, dict) and _text(value.get("sha256"), row)


@dataclass(frozen=True)
class Kind:
    """What a row of a file must hold, and what it may hold but of this kind alone: {name: test(value, row)}."""

    must: dict[str, Callable[[Any, dict], bool]] = field(default_factory=dict)
    may: dict[str, Callable[[Any, dict], bool]] = field(default_factory=dict)

    def __call__(self, row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        tested = self.must | {name: test for name, test in self.may.items() if name in row}
        return all(name in row and test(row[name], row) for name, test in tested.items())


ANY = Kind()
_FIGURES = (
    "loss",
    "bits_per_byte",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "share_of_peak",
    "masked_share",
    "seconds",
)
METRIC = Kind(dict(step=_step), dict.fromkeys(_FIGURES, _known))
SCORE = Kind(
    dict(name=_text, value=_number),
    dict(
        step=_step,
        se=_known,
        nfe=_known,
        seconds=_known,
        eval=_text,
        claims=_text,
        data=_text,
        sampler=_object,
        settings=_object,
    )
    | dict(
        text=_content,
        task=_asked,
        judge=_object,
        differs=_object,
        commit=_text,
        over=_word,
        trials=_step,
        interval=_known,
    ),
)
SAMPLE = Kind(
    dict(kind=_text, text=_text),
    dict(pieces=_pieces, nfe=_known, seconds=_known, logprob=_known, sampler=_object),
)


def rows(path: Path, kind: Kind = ANY, say: Callable[[str], None] | None = None) -> list[dict]:
    """The rows of a .jsonl file that are of this kind, without numbers that are not finite (`files.as_json`).

    Other lines are left out, which `say` is told in one line; not the last one, where a crash cut it short or it is being written.
    """
    path = Path(path)
    if not path.exists():
        return []
    parsed, others = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split(
        "\n"
    )  # text in a row may hold other line separators
    for number, line in enumerate(lines, 1):
        try:
            row = files.finite(json.loads(line)) if line.strip() else None
        except (ValueError, RecursionError):  # also numbers of thousands of digits
            row = None
        if kind(row):
            parsed.append(earlier_fields.renamed_row(row))
        elif line.strip() and number < len(lines):
            others.append(number)
    if others and say:
        say(
            f"{path}: {len(others)} line(s) left out that are no rows of this file, the first is line {others[0]}"
        )
    return parsed


def append(path: Path, added: list[dict]) -> None:
    """Rows at the end of a .jsonl file, in one write; behind a line that a crash cut short they begin a new one."""
    with path.open("ab+") as file:
        cut = b""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut = b"" if file.read(1) == b"\n" else b"\n"
        file.write(cut + "".join(files.as_json(row, ascii=False) + "\n" for row in added).encode())


def _sums(row: dict) -> dict[str, float]:
    """A row under way as it was before it was written as strict JSON."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in row.items()
        if name != "finite"
    }


def _forget(path: Path, after: int, evaluation: bool, say: Callable[[str], None]) -> None:
    """Drops the rows after a step, and where the `evaluation` of that step is still owed, one that was written but not kept."""
    found = rows(path, METRIC, say)
    kept = [
        row
        for row in found
        if row["step"] <= after and not (evaluation and row["step"] == after and "lr" not in row)
    ]
    if path.exists():
        files.write(path, "".join(files.as_json(row) + "\n" for row in kept))


def _board(workdir: Path, start: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(
        str(Path(workdir) / "tensorboard"),
        write_to_disk=True,
        purge_step=start + 1 if start else None,
    )
