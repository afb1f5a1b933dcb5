"""Small run directories whose files are cut, emptied, retyped, removed or no UTF-8: read by report, and opened as by a resume."""

import json
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from dlm.app import context, open_run
from dlm.core import files
from dlm.core.config import to_json
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.drills.fuzzed import ACCEPTED, REFUSED
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
RUN = dict(
    steps=4,
    text="bytes",
    data=dict(source=dict(name="local", paths=("corpus.txt",)), batch=8, length=32),
    nn=dict(
        layers=1, width=16, attention=dict(heads=2, kv_heads=1, head_size=8), ffn=dict(width=24)
    ),
)
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


def cases(seed: int, count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """(what was done to a run directory, what came of reading it)."""
    run = build_run(RUN)
    for n in range(count):
        rng, workdir = random.Random(f"{seed} {n}"), Path(folder) / f"run {n}"
        written(workdir, run, rng)
        done = ", ".join(damaged(workdir, rng) for _ in range(rng.randint(1, 2)))
        before = {p.name: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
        outcome = judged(workdir, run)
        after = {p.name: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
        if outcome in (ACCEPTED, REFUSED) and before != after:
            outcome = f"reading changed {sorted(set(before.items()) ^ set(after.items()))[0][0]}"
        yield done, outcome
        shutil.rmtree(workdir)


def written(workdir: Path, run: Run, rng: random.Random) -> None:
    """A run as the commands leave it, but for its checkpoints."""
    workdir.mkdir(parents=True)
    files.write(workdir / directory.CONFIG, to_json(run))
    rows = [
        dict(
            step=s,
            loss=3.0 - s / 9,
            bits_per_byte=4.0 - s / 9,
            lr=0.1,
            tokens_per_s=9.0,
            share_of_peak=0.1,
        )
        for s in (2, 4)
    ]
    logs.append(workdir / logs.METRICS, [*rows, dict(step=4, phases=dict(data=0.1), seconds=1.5)])
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
    logs.append(
        workdir / "evals.jsonl",
        [
            dict(score, name=name, value=value, se=se, interval=1.96 * se)
            for name, value, se in results
        ],
    )
    sample = dict(
        seed=0,
        nfe=4,
        seconds=0.1,
        logprob=-3.0,
        sampler=dict(steps=4),
        text="a b",
        pieces=[["a ", True], ["b", False]],
    )
    logs.append(
        workdir / "samples.jsonl", [dict(sample, kind=kind) for kind in ("sample", "infill")]
    )
    about = dict(
        parameters=1000,
        flops_per_token=2.0,
        python="3.11",
        devices=["cpu cpu"],
        cores=2,
        processor="x",
    )
    files.write(workdir / directory.ENVIRONMENT, files.as_json(about, indent=2) + "\n")
    files.write(workdir / directory.COMMIT, "a" * 40 + "\n")
    files.write(workdir / directory.DATA, "b" * 32 + "\n")
    files.write(
        workdir / logs.OWED,
        files.as_json(dict(rows=[dict(loss_sum=3.0, weight_sum=2.0)], evaluation=False, step=4)),
    )


def judged(workdir: Path, run: Run) -> str:
    """What comes of the directory in a report, opened, and where a training would go on."""
    reads = {
        "report": _reported,
        "config": _opened,
        "resume": lambda w: _resumed(w, run),
        "logs": _logged,
    }
    outcomes = []
    for name, read in reads.items():
        with redirect_stderr(StringIO()):
            outcome = _outcome(lambda read=read: read(workdir), workdir)
        outcomes.append(outcome if outcome in (ACCEPTED, REFUSED) else f"{name}: {outcome}")
    return next(
        (o for o in outcomes if o not in (ACCEPTED, REFUSED)),
        REFUSED if REFUSED in outcomes else ACCEPTED,
    )


def _reported(workdir: Path) -> None:
    results = groups.grouped(record.read([str(workdir)]))
    summary.page(results)
    table.as_csv(results)
    table.as_text(table.rows(results))
    table.others_as_text(table.others(results))
    files.as_json([sample for group in results for one in group.records for sample in one.shown()])


def _opened(workdir: Path) -> None:
    directory.run_of(workdir)
    open_run.build_sampler(workdir, [("sampler.steps", "2")])
    context.build_evaluators(directory.read_config(workdir).get("evals", {}), "bound", [])


def _resumed(workdir: Path, run: Run) -> None:
    directory.belongs(workdir, directory.as_begun(workdir, run))
    directory.check_places(workdir, run, accept=False)
    directory.changed_text(workdir, lambda: "b" * 32, lambda: "c" * 32)


def _logged(workdir: Path) -> None:
    """On a copy: a log that goes on drops what will come again."""
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
        said = str(error)
        names = str(workdir) in said or "config." in said
        return (
            REFUSED
            if said.isprintable() and names
            else f"not one line that names the file or field: {said[:300]!r}"
        )
    except OSError as error:
        return REFUSED if error.filename else f"traceback: {error!r}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__}: {str(error)[:200]} in {Path(place.filename).name}, {place.name}, line {place.lineno}"
    return ACCEPTED


# ------------------------------------------------------------------------------------------------------------------ damage


def damaged(workdir: Path, rng: random.Random) -> str:
    """Does something to one of the files; what it was."""
    path = workdir / rng.choice(FILES)
    kind = rng.choice(
        (_removed, _cut, _bytes, _retyped, _retyped, _retyped, _doubled, _emptied, _folder)
    )
    if not path.is_file():
        return f"{path.name} is gone already"
    return f"{path.name} {kind(path, rng)}"


def _removed(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


def _emptied(path: Path, rng: random.Random) -> str:
    text = rng.choice(("", "\n", "null\n", "[]\n", "3\n", "[" * 3000))
    path.write_text(text)
    return f"is {text[:9]!r}"


def _folder(path: Path, rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "is a folder"


def _cut(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    path.write_bytes(content[:at])
    return f"cut after {at} bytes"


def _bytes(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    path.write_bytes(
        content[:at]
        + rng.choice((b"\xff\xfe", b"\x00", b"\xe2\x80\xa8", b"\r", b"\xef\xbb\xbf"))
        + content[at:]
    )
    return f"with other bytes at {at}"


def _doubled(path: Path, rng: random.Random) -> str:
    lines = path.read_bytes().split(b"\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    path.write_bytes(b"\n".join(lines))
    return "with a line twice"


def _retyped(path: Path, rng: random.Random) -> str:
    """A value somewhere is another, or gone."""
    if path.suffix not in (".json", ".jsonl"):
        path.write_text(rng.choice(ODD))
        return "of other content"
    lines = (
        path.read_text(errors="replace").splitlines()
        if path.suffix == ".jsonl"
        else [path.read_text(errors="replace")]
    )
    number = rng.randrange(max(len(lines), 1))
    try:
        value = json.loads(lines[number])
    except (ValueError, IndexError, RecursionError):
        return "is no JSON any more"
    places = list(_places(value))
    if not places:
        return "has no fields"
    parent, key, name = rng.choice(places)
    if rng.random() < 0.25:
        del parent[key]
        told = f"without {name}"
    else:
        parent[key], odd = "ODD", rng.choice(ODD)
        told = f"with {name}={odd[:20]}"
    text = json.dumps(value, indent=None if path.suffix == ".jsonl" else 2)
    lines[number] = text if told.startswith("without") else text.replace('"ODD"', odd)
    path.write_text("\n".join(lines) + "\n")
    return told


def _places(value, above: str = ""):
    """(object, key, dotted name) of every field."""
    if isinstance(value, dict):
        for key in list(value):
            yield value, key, f"{above}{key}"
            yield from _places(value[key], f"{above}{key}.")
