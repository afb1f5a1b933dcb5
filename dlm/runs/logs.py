"""The log of a run: a live line on stderr, `metrics.jsonl`, TensorBoard files if installed."""

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
from typing import IO, Any, TextIO

from dlm.core import files
from dlm.core.errors import UserError
from dlm.runs import earlier_fields

METRICS, OWED = "metrics.jsonl", "owed.json"
_QUIET = 10  # seconds between two live lines in a log file
_CLEAR = "\r\033[K"  # erases the live line of a terminal


class Logs:
    """Writes a run's metrics; rows after the step of the checkpoint will be written again."""

    def __init__(
        self,
        workdir: Path,
        start: int,
        steps: int,
        stream: TextIO | None = None,
        writes: bool = True,
    ):
        """Open the log of a run that continues after update `start`.

        Args:
          workdir: the run directory.
          start: updates already done; rows after it are dropped.
          steps: updates of the whole run.
          stream: receives the lines for people; stderr by default.
          writes: False in all processes but one, which print nothing and leave the files alone.
        """
        self.start = start
        self.steps = steps
        self._writes = writes
        self._path = Path(workdir) / METRICS
        self._pending = Path(workdir) / OWED
        self.stream = stream or sys.stderr
        self._live = writes and self.stream.isatty()
        self._file: IO[str] = io.StringIO()
        self._board = None
        if writes:
            pending = self.load_pending(start) or {}
            _drop_rows(self._path, start, pending.get("evaluation", False), self.say)
            self._file = self._path.open("a", encoding="utf-8")
            self._board = _open_board(workdir, start)
        else:
            self.stream = io.StringIO()
        self._began = time.perf_counter()
        self._printed = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        clear = _CLEAR if self._live else ""
        self.stream.write(f"{clear}{text}\n")
        self.stream.flush()

    def write(self, row: dict) -> None:
        """Write one row of metrics, with its `step`."""
        self._file.write(files.as_json(row) + "\n")
        try:
            self._file.flush()
        except OSError as error:
            # The text stays in the buffer and is written with the next row.
            self.say(f"{self._path} cannot be written now: {error.strerror}")
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, row["step"])

    def save_pending(self, step: int, pending: dict) -> None:
        """Save what a run that stops after `step` has not logged yet: {rows, evaluation}."""
        if self._writes:
            rows = [_encoded(row) for row in pending["rows"]]
            content = dict(pending, rows=rows, step=step)
            files.write(self._pending, files.as_json(content))

    def load_pending(self, step: int) -> dict | None:
        """Load what the process that stopped after `step` saved for this one; None if nothing."""
        try:
            content = json.loads(self._pending.read_text(encoding="utf-8"))
            if content["step"] != step:
                return None
            rows, evaluation = content["rows"], bool(content["evaluation"])
            if any("metrics" not in row for row in rows):
                self.say(
                    f"{self._pending} is of an earlier version: its unfinished row is dropped"
                )
                rows = []
            return dict(rows=[_decoded(row) for row in rows], evaluation=evaluation)
        except FileNotFoundError:
            return None
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            loss = "the row of metrics under way when the run stopped is lost"
            raise UserError(
                f"{self._pending} is damaged: delete it, and {loss}"
            ) from None

    def progress(self, row: dict) -> None:
        """Show a row as the live line; in a log file at most one every ten seconds."""
        now = time.perf_counter()
        done = max(row["step"] - self.start, 1)
        left = (now - self._began) / done * (self.steps - row["step"])
        speed = f"{row['tokens_per_s'] / 1e3:.1f}k tok/s  {row['share_of_peak']:.0%} of peak"
        line = f"step {row['step']}/{self.steps}  {_scores(row)}  {speed}  ETA {clock(left)}"
        if self._live:
            self.stream.write(_CLEAR + line)
            self.stream.flush()
        elif now - self._printed > _QUIET or row["step"] == self.steps:
            self._printed = now
            self.say(line)

    def close(self) -> None:
        if self._live:
            self.stream.write("\n")
        self._file.close()
        if self._board is not None:
            self._board.close()


def clock(seconds: float) -> str:
    """Format a duration: '1h02m', '3m07s', '12s'."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"


def _scores(row: dict) -> str:
    """The loss of a row, or why it has none; bits per byte only of a likelihood."""
    if "loss" in row:
        text = f"loss {row['loss']:.3f}"
    else:
        kinds = dict(skipped="updates left out", empty="empty batches")
        text = ", ".join(f"{row[k]} {what}" for k, what in kinds.items() if k in row)
    if "bits_per_byte" in row:
        text += f"  {row['bits_per_byte']:.3f} bits/byte"
    return text


# ------------------------------------------------------------------------- rows added by commands


class Added:
    """Appends rows to a .jsonl file as they come: `with Added(path, remedy) as add: add(rows)`.

    The file is tried before anything is computed. Rows that cannot be written later are tried
    again with the next ones; the end of the block raises UserError if some were never written.
    """

    def __init__(self, path: Path, remedy: str):
        """Try to write the file; `remedy` ends the error, such as 'name another by --out=FILE'."""
        self._path = Path(path)
        self._remedy = remedy
        self._left: list[dict] = []
        self._error: OSError | None = None
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
        if self._left and kind is None and self._error is not None:
            lost = f"{len(self._left)} row(s) printed above are lost"
            cause = f"{self._path} cannot be written ({self._error.strerror})"
            raise UserError(f"{cause}, so that {lost}: {self._remedy}")


# -------------------------------------------------------------------------- kinds of stored rows

Test = Callable[[Any, dict], bool]  # of a value, and of the row around it


def _text(value: Any, row: dict) -> bool:
    return isinstance(value, str)


def _text_or_null(value: Any, row: dict) -> bool:
    return value is None or isinstance(value, str)


def _count(value: Any, row: dict) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _number(value: Any, row: dict) -> bool:
    """A finite number, or null in a row that declares a number that is not finite."""
    if value is None:
        return row.get("finite") is False
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _number_or_null(value: Any, row: dict) -> bool:
    return value is None or _number(value, row)


def _pieces(value: Any, row: dict) -> bool:
    """The pieces of a sample: [text, whether it is an anchor]."""
    return isinstance(value, list) and all(map(_piece, value))


def _piece(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _object(value: Any, row: dict) -> bool:
    return isinstance(value, dict)


def _content(value: Any, row: dict) -> bool:
    """A text as `data.digest` describes it; null of a score that reads none."""
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    return _text(value.get("sha256"), row) and _count(value.get("bytes"), row)


def _hashed(value: Any, row: dict) -> bool:
    return isinstance(value, dict) and _text(value.get("sha256"), row)


@dataclass(frozen=True)
class Kind:
    """The fields that a row must have and those it may have, each with a test of its value."""

    must: dict[str, Test] = field(default_factory=dict)
    may: dict[str, Test] = field(default_factory=dict)

    def __call__(self, row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        optional = {name: test for name, test in self.may.items() if name in row}
        tests = self.must | optional
        return all(name in row and test(row[name], row) for name, test in tests.items())


_SPEEDS = ("tokens_per_s", "share_of_peak", "seconds")
_FIGURES = ("loss", "bits_per_byte", "lr", "grad_norm", "masked_share", *_SPEEDS)

ANY = Kind()
METRIC = Kind(dict(step=_count), dict.fromkeys(_FIGURES, _number_or_null))
SCORE = Kind(
    dict(name=_text, value=_number),
    dict.fromkeys(("step", "trials"), _count)
    | dict.fromkeys(("se", "nfe", "seconds", "interval"), _number_or_null)
    | dict.fromkeys(("eval", "claims", "data", "commit"), _text)
    | dict.fromkeys(("sampler", "settings", "judge", "differs"), _object)
    | dict(text=_content, task=_hashed, over=_text_or_null),
)
SAMPLE = Kind(
    dict(kind=_text, text=_text),
    dict.fromkeys(("nfe", "seconds", "logprob"), _number_or_null)
    | dict(pieces=_pieces, sampler=_object),
)


def rows(
    path: Path, kind: Kind = ANY, say: Callable[[str], None] | None = None
) -> list[dict]:
    """Read the rows of this kind from a .jsonl file, in today's names (`earlier_fields`).

    Numbers that are not finite are read as null (`files.as_json`). Other lines are skipped, which
    `say` reports in one line; the last one, which a crash may have cut short, is not reported.
    """
    path = Path(path)
    if not path.exists():
        return []
    parsed, others = [], []
    # Text in a row may contain other line separators, so only "\n" ends a row.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        row = _parsed(line)
        if kind(row):
            parsed.append(earlier_fields.renamed_row(row))
        elif line.strip() and number < len(lines):
            others.append(number)
    if others and say:
        first = f"the first is line {others[0]}"
        say(
            f"{path}: {len(others)} line(s) left out that are no rows of this file, {first}"
        )
    return parsed


def _parsed(line: str) -> Any:
    """The JSON value of a line; None where it is none."""
    try:
        return files.finite(json.loads(line)) if line.strip() else None
    except (ValueError, RecursionError):  # also numbers of thousands of digits
        return None


def append(path: Path, added: list[dict]) -> None:
    """Append rows to a .jsonl file in one write; after a line that was cut short, on a new one."""
    text = "".join(files.as_json(row, ascii=False) + "\n" for row in added)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())


def _encoded(row: dict) -> dict:
    """The sums of an update as JSON."""
    metrics = {name: [m.value_sum, m.count_sum] for name, m in row["metrics"].items()}
    return dict(row, metrics=metrics)


def _decoded(row: dict) -> dict:
    """The sums of an update from strict JSON, where a number that is not finite is null."""
    from dlm.core.contracts import Mean  # reports read logs without JAX

    sums: dict[str, Any] = {}
    for name, value in row.items():
        if name not in ("finite", "metrics"):
            sums[name] = _or_nan(value)
    sums["metrics"] = {
        name: Mean(*map(_or_nan, parts))
        for name, parts in row["metrics"].items()
        if name != "finite"
    }
    return sums


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _drop_rows(
    path: Path, after: int, evaluation: bool, say: Callable[[str], None]
) -> None:
    """Drop the rows after a step, since they will be written again.

    Where the `evaluation` of that step is still to be made up for, its row is dropped, too.
    """
    if not path.exists():
        return
    lines = []
    for row in rows(path, METRIC, say):
        is_owed = evaluation and row["step"] == after and "lr" not in row
        if row["step"] <= after and not is_owed:
            lines.append(files.as_json(row) + "\n")
    files.write(path, "".join(lines))


def _open_board(workdir: Path, start: int):
    """Open the writer of TensorBoard files; None where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    folder = str(Path(workdir) / "tensorboard")
    return SummaryWriter(
        folder, write_to_disk=True, purge_step=start + 1 if start else None
    )
