"""What a run says: one live line on stderr, `metrics.jsonl` always, TensorBoard files when tensorboardX is installed."""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from dlm.run import files
from dlm.run.spec import UserError

METRICS, OWED = "metrics.jsonl", "owed.json"


class Logs:
    """Writes a run's metrics; rows past the step that a run resumes from are dropped, since they will come again."""

    def __init__(self, workdir: Path, start: int, steps: int, stream: TextIO | None = None, writes: bool = True):
        """Of several processes one `writes`; the others keep silent and leave the files alone."""
        self.stream, self.start, self.steps, self._writes = stream or sys.stderr, start, steps, writes
        self._path = Path(workdir) / METRICS
        self._owed = Path(workdir) / OWED
        if writes:
            _forget(self._path, start, (self.owed(start) or {}).get("evaluation", False))
        self._file = self._path.open("a", encoding="utf-8") if writes else io.StringIO()
        self._begin, self._board = time.perf_counter(), _board(workdir, start) if writes else None
        self.stream = self.stream if writes else io.StringIO()
        self._live = self.stream.isatty()
        self._said = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\033[K" if self._live else "") + text + "\n")
        self.stream.flush()

    def write(self, row: dict) -> None:
        """One row of metrics, with its `step`."""
        self._file.write(json.dumps(row) + "\n")
        try:
            self._file.flush()
        except OSError as error:  # what could not be written stays in the buffer and is tried again with the next row
            self.say(f"{self._path} cannot be written now: {error.strerror}")
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, row["step"])

    def owe(self, step: int, what: dict) -> None:
        """Keeps what a run that stops after `step` has not written yet."""
        if self._writes:
            files.write(self._owed, json.dumps(dict(what, step=step)))

    def owed(self, step: int) -> dict | None:
        """What the process that stopped after `step` has kept for this one."""
        try:
            kept = json.loads(self._owed.read_text(encoding="utf-8"))
            return {k: kept[k] for k in ("rows", "evaluation")} if kept["step"] == step else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{self._owed} is damaged: delete it, and the row of metrics under way when the run stopped is lost") from None

    def progress(self, row: dict) -> None:
        """The live line; on a pipe or in a log file at most one every ten seconds."""
        now = time.perf_counter()
        done = row["step"] - self.start
        left = (now - self._begin) / max(done, 1) * (self.steps - row["step"])
        scores = f"loss {row['loss']:.3f}" if "loss" in row else f"{row['skipped']} updates left out"
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


def rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file; a line cut short by a crash is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # text in a row may hold other line separators
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def append(path: Path, added: list[dict]) -> None:
    """Rows at the end of a .jsonl file, in one write; behind a line that a crash cut short they begin a new one."""
    with path.open("ab+") as file:
        cut = b""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut = b"" if file.read(1) == b"\n" else b"\n"
        file.write(cut + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in added).encode())


def _forget(path: Path, after: int, evaluation: bool) -> None:
    """Drops the rows after a step, and where the `evaluation` of that step is still owed, one that was written but not kept."""
    kept = [row for row in rows(path) if row["step"] <= after and not (evaluation and row["step"] == after and "lr" not in row)]
    if path.exists():
        files.write(path, "".join(json.dumps(row) + "\n" for row in kept))


def _board(workdir: Path, start: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(Path(workdir) / "tensorboard"), write_to_disk=True, purge_step=start + 1 if start else None)
