"""Mutated run directories: files are cut, emptied, retyped, removed, or no UTF-8.

Each is read by report, and opened as by a resume.
"""

import json
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from dlm.app import context, open_run
from dlm.core import files
from dlm.core.config import to_json
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.drills.fuzzed import ACCEPTED, GOOD, REFUSED, Cases, joint
from dlm.reports import groups, record, summary, table
from dlm.runs import directory, logs

FILES = (
    "config.json",
    "metrics.jsonl",
    "evals.jsonl",
    "samples.jsonl",
    "environment.json",
    "commit.txt",
    "data.sha256",
    "owed.json",
)
_ATTENTION = dict(heads=2, kv_heads=1, head_size=8)
_NN = dict(
    layers=1,
    width=16,
    attention=_ATTENTION,
    ffn=dict(width=24),
)
_SOURCE = dict(name="local", paths=("corpus.txt",))
RUN = dict(
    steps=4,
    text="bytes",
    data=dict(source=_SOURCE, batch=8, length=32),
    nn=_NN,
)
# JSON, valid and invalid.
ODD = (
    "null",
    "true",
    "-1",
    "0",
    "NaN",
    "-Infinity",
    "1e999",
    '"x"',
    '""',
    "[]",
    "[1]",
    "{}",
    '{"a": null}',
    "9" * 400,
    '"\\ud800"',
)
CONTENTS = ("", "\n", "null\n", "[]\n", "3\n", "[" * 3000)
BYTES = (b"\xff\xfe", b"\x00", b"\xe2\x80\xa8", b"\r", b"\xef\xbb\xbf")


def cases(seed: int, count: int, folder: Path) -> Cases:
    """Yields (mutation, outcome) of `count` run directories."""
    run = build_run(RUN)
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        # A new directory for each case: a fault may leave locks behind.
        workdir = Path(folder) / f"run {n}"
        written(workdir, run, rng)
        mutations = [damaged(workdir, rng) for _ in range(rng.randint(1, 2))]
        before = _content(workdir)
        outcome = judged(workdir, run)
        after = _content(workdir)
        # Only training may write into a run directory.
        changed = sorted(before.items() ^ after.items())
        if outcome in GOOD and changed:
            outcome = f"reading changed {changed[0][0]}"
        yield ", ".join(mutations), outcome
        shutil.rmtree(workdir)


def _content(workdir: Path) -> dict[str, bytes]:
    content = {}
    for path in workdir.iterdir():
        if path.is_file():
            content[path.name] = path.read_bytes()
    return content


# --------------------------------------------------------------------------------- a run directory


def written(workdir: Path, run: Run, rng: random.Random) -> None:
    """Writes a run as the commands leave it, without its checkpoints."""
    workdir.mkdir(parents=True)
    files.write(workdir / directory.CONFIG, to_json(run))
    logs.append(workdir / logs.METRICS, _metrics())
    logs.append(workdir / "evals.jsonl", _evals(rng))
    logs.append(workdir / "samples.jsonl", _samples())
    environment = dict(
        parameters=1000,
        flops_per_token=2.0,
        python="3.11",
        devices=["cpu cpu"],
        cores=2,
        processor="x",
    )
    text = files.as_json(environment, indent=2)
    files.write(workdir / directory.ENVIRONMENT, text + "\n")
    files.write(workdir / directory.COMMIT, "a" * 40 + "\n")
    files.write(workdir / directory.DATA, "b" * 32 + "\n")
    # A row of the log that is not complete yet.
    row = dict(loss_sum=3.0, weight_sum=2.0, metrics={})
    pending = dict(rows=[row], evaluation=False, step=4)
    files.write(workdir / logs.OWED, files.as_json(pending))


def _metrics() -> list[dict]:
    rows: list[dict] = []
    for step in (2, 4):
        row = dict(
            step=step,
            loss=3.0 - step / 9,
            bits_per_byte=4.0 - step / 9,
            lr=0.1,
            tokens_per_s=9.0,
            share_of_peak=0.1,
        )
        rows.append(row)
    # The last row of a session has its times.
    times = dict(step=4, phases=dict(data=0.1), seconds=1.5)
    return [*rows, times]


def _evals(rng: random.Random) -> list[dict]:
    # Scores as dlm.evaluate writes them; the last one may be NaN.
    score = dict(
        step=4,
        seed=0,
        data="held_out",
        eval="bound",
        seconds=1.0,
        claims="bound",
        settings=dict(samples=2),
        commit="a" * 40,
    )
    results = [
        ("bits_per_byte", 3.5, 0.1),
        ("gzip_bits_per_byte", 2.7, 0.0),
        ("bits_per_byte", rng.choice((3.4, float("nan"))), 0.1),
    ]
    rows = []
    for name, value, se in results:
        row = dict(name=name, value=value, se=se, interval=1.96 * se)
        rows.append(score | row)
    return rows


def _samples() -> list[dict]:
    sample = dict(
        seed=0,
        nfe=4,
        seconds=0.1,
        logprob=-3.0,
        sampler=dict(steps=4),
        text="a b",
        pieces=[["a ", True], ["b", False]],
    )
    return [sample | dict(kind=kind) for kind in ("sample", "infill")]


# --------------------------------------------------------------------------------------- outcomes


def judged(workdir: Path, run: Run) -> str:
    """Returns the outcome of a report, of opening the run, of a resume, and of its logs."""
    readings: dict[str, Callable[[], None]] = dict(
        report=lambda: _report(workdir),
        config=lambda: _open(workdir),
        resume=lambda: _resume(workdir, run),
        logs=lambda: _continue_logs(workdir),
    )
    # Each reading must be right by itself.
    outcomes = []
    for name, read in readings.items():
        with redirect_stderr(StringIO()):
            outcome = _outcome(read, workdir)
        outcomes.append(outcome if outcome in GOOD else f"{name}: {outcome}")
    return joint(outcomes)


def _report(workdir: Path) -> None:
    results = groups.grouped(record.read([str(workdir)]))
    summary.page(results)
    table.as_csv(results)
    table.as_text(table.rows(results))
    table.others_as_text(table.others(results))
    records = [one for group in results for one in group.records]
    files.as_json([sample for one in records for sample in one.shown()])


def _open(workdir: Path) -> None:
    directory.run_of(workdir)
    open_run.build_sampler(workdir, [("sampler.steps", "2")])
    # The evaluators are built from what the directory says.
    config = directory.read_config(workdir)
    context.build_evaluators(config.get("evals", {}), "bound", [])


def _resume(workdir: Path, run: Run) -> None:
    directory.belongs(workdir, directory.as_begun(workdir, run))
    directory.check_places(workdir, run, accept=False)
    directory.changed_text(workdir, lambda: "b" * 32, lambda: "c" * 32)


def _continue_logs(workdir: Path) -> None:
    """Opens the logs of a copy: a resumed log drops the rows that will be written again."""
    copy = workdir.with_name(f"{workdir.name} again")
    shutil.copytree(workdir, copy)
    try:
        log = logs.Logs(copy, 4, 9, StringIO())
        log.load_pending(4)
        log.close()
    finally:
        shutil.rmtree(copy)


def _outcome(read: Callable[[], None], workdir: Path) -> str:
    try:
        read()
    except UserError as error:
        text = str(error)
        # The line must say where the mistake is.
        names = str(workdir) in text or "config." in text
        if text.isprintable() and names:
            return REFUSED
        return f"not one line that names the file or field: {text[:300]!r}"
    except OSError as error:
        return REFUSED if error.filename else f"traceback: {error!r}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, {place.name}, line {place.lineno}"
        return f"traceback: {type(error).__name__}: {str(error)[:200]} in {where}"
    return ACCEPTED


# ----------------------------------------------------------------------------------------- damage


def damaged(workdir: Path, rng: random.Random) -> str:
    """Damages one of the files; returns a description."""
    # Both are drawn in any case: the later draws of a case do not depend on the first.
    path = workdir / rng.choice(FILES)
    damage = rng.choice(DAMAGES)
    if not path.is_file():
        return f"{path.name} is gone already"
    return f"{path.name} {damage(path, rng)}"


def _removed(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


def _emptied(path: Path, rng: random.Random) -> str:
    text = rng.choice(CONTENTS)
    path.write_text(text)
    return f"is {text[:9]!r}"


def _folder(path: Path, rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "is a folder"


def _cut(path: Path, rng: random.Random) -> str:
    # Anywhere, the middle of a character included.
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    path.write_bytes(content[:at])
    return f"cut after {at} bytes"


def _bytes(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    path.write_bytes(content[:at] + rng.choice(BYTES) + content[at:])
    return f"with other bytes at {at}"


def _doubled(path: Path, rng: random.Random) -> str:
    lines = path.read_bytes().split(b"\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    path.write_bytes(b"\n".join(lines))
    return "with a line twice"


def _retyped(path: Path, rng: random.Random) -> str:
    """Removes a field of a JSON file, or gives it another value."""
    if path.suffix not in (".json", ".jsonl"):
        path.write_text(rng.choice(ODD))
        return "of other content"
    text = path.read_text(errors="replace")
    one_a_line = path.suffix == ".jsonl"
    lines = text.splitlines() if one_a_line else [text]
    number = rng.randrange(max(len(lines), 1))
    try:
        value = json.loads(lines[number])
    except (ValueError, IndexError, RecursionError):
        return "is no JSON any more"
    fields = list(_fields(value))
    if not fields:
        return "has no fields"

    parent, key, name = rng.choice(fields)
    indent = None if one_a_line else 2
    if rng.random() < 0.25:
        del parent[key]
        description = f"without {name}"
        lines[number] = json.dumps(value, indent=indent)
    else:
        # Put into the text: not every one of the values can be made by json.dumps.
        parent[key], odd = "ODD", rng.choice(ODD)
        description = f"with {name}={odd[:20]}"
        lines[number] = json.dumps(value, indent=indent).replace('"ODD"', odd)
    path.write_text("\n".join(lines) + "\n")
    return description


def _fields(value: Any, above: str = "") -> Iterator[tuple]:
    """Yields (object, key, dotted name) of every field."""
    if not isinstance(value, dict):
        return
    for key in list(value):
        yield value, key, f"{above}{key}"
        yield from _fields(value[key], f"{above}{key}.")


# Other values find more than other damage.
DAMAGES = (
    _removed,
    _cut,
    _bytes,
    _retyped,
    _retyped,
    _retyped,
    _doubled,
    _emptied,
    _folder,
)
