"""The run directory: config, commit, environment, tokenizer, metrics and checkpoints of a run.

It contains everything that is needed to run again, except the data.
"""

import fcntl
import functools
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from dlm.core import console, files
from dlm.core.config import (
    build_member,
    dependence,
    list_differences,
    to_json,
    to_plain,
)
from dlm.core.errors import UserError
from dlm.core.named import SEEDS, one_line, shown
from dlm.core.run import Run, build_run
from dlm.runs import earlier_fields
from dlm.runs.provenance import commit

CONFIG, ENVIRONMENT, COMMIT = "config.json", "environment.json", "commit.txt"
LOCK, DATA, HELD_OUT = "lock", "data.sha256", "held_out.sha256"
CHANGES = "changes"  # in config.json, beside the fields of a run
TOKENIZER = "tokenizer.json"
_BESIDE = {
    "tokenizer_config.json",
    "chat_template.jinja",
}  # further files of published tokenizers
# Files that a run killed while it began may have left.
_BEFORE_CONFIG = {COMMIT, ENVIRONMENT, LOCK, DATA, HELD_OUT, TOKENIZER, *_BESIDE}
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "tokenizers",
)


def belongs(workdir: Path, run: Run) -> bool:
    """Whether `workdir` contains this run; False where it is free for a new one.

    Fields on which no update depends may differ (`core.config.dependence`). Raises UserError where
    the directory contains anything else.
    """
    if not workdir.exists():
        return False
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file")
    names = {p.name for p in workdir.iterdir() if p.suffix != files.PARTIAL}
    if names <= _BEFORE_CONFIG:
        return False
    if not (workdir / CONFIG).is_file():
        remedy = "choose an empty or a new directory"
        raise UserError(f"--workdir={workdir} holds other things: {remedy}")
    for dotted, line in differences(workdir, as_begun(workdir, run)):
        if dependence(run, dotted) == "depends":
            cause = f"belongs to a run with another config ({line})"
            raise UserError(f"--workdir={workdir} {cause}: choose another directory")
    return True


def differences(workdir: Path, run: Run) -> list[tuple[str, str]]:
    """List ('optim.lr', 'optim.lr: 0.01 → 0.5') for what differs from the run in `workdir`."""
    stored = _stored(workdir)
    config = to_plain(run)

    # The text section is built without its vocabulary: a published tokenizer may no longer be
    # where it was, and the run's own copy serves as well.
    text = to_plain(_text(stored, workdir))
    place, own = config["text"].get("path"), (workdir / TOKENIZER).resolve()
    if place and text.get("path") and Path(place).expanduser().resolve() == own:
        text["path"] = place
    filled = to_plain(_built(dict(stored, text=config["text"]), workdir)) | dict(
        text=text
    )
    return [(line.partition(":")[0], line) for line in list_differences(filled, config)]


def as_begun(workdir: Path, run: Run) -> Run:
    """Return the run with the values of an earlier version with which `workdir` began.

    They hold where the recipe leaves a field at today's default (`with_earlier_values`).
    """
    if not (workdir / CONFIG).is_file():
        return run
    config = to_plain(run)
    bare = to_plain(build_run(earlier_fields.without(config), least=0))
    continued = earlier_fields.with_earlier_values(config, bare, _stored(workdir))
    return run if continued == config else build_run(continued, least=0)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Lock `workdir` against other training processes; the kernel frees it when this one ends."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made: {error.strerror}"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            remedy = "wait for it, or choose another directory"
            raise UserError(
                f"--workdir={workdir} is in use by {holder}: {remedy}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def check_data(workdir: Path, training: str, held_out: str, accept: bool) -> list[str]:
    """Compare the fingerprints of the data with those that the run began with, and store them.

    Raises UserError where they differ and the user does not `accept` it; returns what was
    accepted, in words for `go_on`.
    """
    changed = changed_text(workdir, lambda: training, lambda: held_out)
    fingerprints = {DATA: training, HELD_OUT: held_out}
    began = " ".join(_read(workdir, name)[:8] or "unknown" for name in fingerprints)
    now = f"{training[:8]} {held_out[:8]}"
    if changed and not accept:
        cause = f"the {changed} data of {workdir} have changed since it began"
        remedy = "restore them, or go on with the new ones by --accept_data"
        raise UserError(f"{cause} (fingerprints {now}, then {began}): {remedy}")
    for name, fingerprint in fingerprints.items():
        if _read(workdir, name) != fingerprint:
            files.write(workdir / name, fingerprint + "\n")
    return [f"the {changed} data changed: {began} → {now}"] if changed else []


def changed_text(
    workdir: Path, training: Callable[[], str], held_out: Callable[[], str]
) -> str:
    """Return which text has changed since the run began: 'training', 'held-out', both or ''.

    The arguments compute today's fingerprints. Earlier versions stored none of the held-out
    text, and a run that was not trained here has none at all.
    """
    began, began_held_out = _read(workdir, DATA), _read(workdir, HELD_OUT)
    changed = ["training"] if began and began != training() else []
    if began_held_out and began_held_out != held_out():
        changed.append("held-out")
    elif changed and not began_held_out:
        changed.append("perhaps the held-out")
    return " and ".join(changed)


def _read(workdir: Path, name: str) -> str:
    """The text of a small file of the directory; '' where it is missing."""
    path = Path(workdir) / name
    return (
        path.read_text(encoding="utf-8", errors="replace").strip()
        if path.exists()
        else ""
    )


def create(workdir: Path, run: Run, tokenizer, **facts) -> None:
    """Fill a new, locked run directory; `facts` are added to environment.json.

    config.json is written last, since it makes the directory a run's.
    """
    if (workdir / CONFIG).exists():
        cause = "was begun by another process meanwhile"
        raise UserError(f"--workdir={workdir} {cause}: start again to go on with it")
    # Everything that later commands need beside the checkpoints.
    tokenizer.save(workdir)
    (workdir / COMMIT).write_text(commit() + "\n", encoding="utf-8")
    costs = dict(parameters=run.nn.parameters, flops_per_token=run.flops_per_token)
    content = files.as_json(environment() | costs | facts, indent=2)
    (workdir / ENVIRONMENT).write_text(content + "\n", encoding="utf-8")
    write_config(workdir, run)


def write_config(workdir: Path, run: Run) -> None:
    files.write(workdir / CONFIG, to_json(run))


def check_places(workdir: Path, run: Run, accept: bool) -> None:
    """Raise UserError where data have moved and no fingerprint shows that they are the same."""
    for dotted, line in differences(workdir, run):
        name = HELD_OUT if dotted.endswith("held_out_paths") else DATA
        moved = dependence(run, dotted) == "place"
        if moved and not (workdir / name).exists() and not accept:
            cause = f"{workdir} has no {name} that tells whether the data are the same"
            raise UserError(f"config.{line}: {cause}; --accept_data takes them")


def go_on(workdir: Path, run: Run, step: int, accepted: Sequence[str] = ()) -> None:
    """Store the config with which the run continues after update `step`.

    A later evaluation then finds, for instance, today's mesh. What changed is added to `changes`
    in config.json, with what the user `accepted`, and printed in one line.
    """
    lines = [line for _, line in differences(workdir, run)]
    lines += accepted
    changes = (
        json.loads((workdir / CONFIG).read_text(encoding="utf-8")).get(CHANGES) or []
    )
    changes += [dict(after=step, change=line) for line in lines]
    config = to_plain(run)
    if changes:
        config[CHANGES] = changes
    files.write(workdir / CONFIG, to_json(config))
    if lines:
        console.say(f"{workdir} goes on after update {step} with {'; '.join(lines)}")


def read_config(workdir: Path) -> dict:
    """Read the config of a run; the path of a published tokenizer is that of the run's copy."""
    config = _stored(workdir)
    if isinstance(text := config.get("text"), dict) and text.get("path"):
        text["path"] = str(Path(workdir) / TOKENIZER)
    return config


def run_of(workdir: Path) -> Run:
    """Build the run of a directory; fields that it lacks have their defaults."""
    return _built(read_config(workdir), workdir)


def _text(config: dict, workdir: Path):
    """Build the text section of a config without reading a tokenizer."""
    with _naming_the_commit(workdir):
        return build_member(config.get("text") or "bytes", "text")


def _built(config: dict, workdir: Path) -> Run:
    with _naming_the_commit(workdir):
        return build_run(config, least=0)


@contextmanager
def _naming_the_commit(workdir: Path) -> Iterator[None]:
    """Add to the error of a config that this code cannot read the commit that can."""
    try:
        yield
    except UserError as error:
        writer = one_line(_read(workdir, COMMIT) or "unknown")
        cause = f"is a run of another version of dlm (commit {writer})"
        raise UserError(
            f"{workdir} {cause}, which this one cannot read: {error}"
        ) from None


def _stored(workdir: Path) -> dict:
    """Read config.json in today's names, with the values of fields that came later."""
    path = Path(workdir) / CONFIG
    if not path.is_file():
        remedy = f"python -m dlm.train --workdir={workdir} --config=… makes one"
        raise UserError(
            f"{workdir} is not a run directory: it has no {CONFIG}; {remedy}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it holds {shown(config)}")
    config.pop(CHANGES, None)

    # Once a seed could be any integer, of which 32 bits counted.
    earlier = f"{workdir} is of an earlier version of dlm"
    seed = config.get("seed")
    if isinstance(seed, int) and seed != seed % SEEDS:
        config["seed"] = seed % SEEDS
        draws = f"where seed={seed} gave the draws of {config['seed']}: that is its seed now"
        _say_once(f"{earlier}, {draws}")
    for line in earlier_fields.completed(config):
        _say_once(f"{earlier} and keeps {line}")
    return config


@functools.cache
def _say_once(line: str) -> None:
    console.say(line)


def environment() -> dict:
    """Describe the versions of the packages and the machine."""
    import jax

    # What a result may depend on beside the commit.
    versions = {package: metadata.version(package) for package in _PACKAGES}
    devices = [f"{d.platform} {d.device_kind}" for d in jax.local_devices()]
    about = dict(
        python=platform.python_version(),
        machine=platform.platform(),
        processor=_processor(),
        cores=_cores(),
    )
    return dict(about, devices=devices, **versions)


def _processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = (line for line in lines if line.startswith("model name"))
        return next(models).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1
