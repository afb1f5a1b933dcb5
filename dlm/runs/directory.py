"""The run directory: config.json, commit.txt, environment.json, tokenizer, metrics, checkpoints — enough to run again."""

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
from dlm.core.config import build_member, dependence, list_differences, to_json, to_plain
from dlm.core.errors import UserError
from dlm.core.named import SEEDS, one_line, shown
from dlm.core.run import Run, build_run
from dlm.runs import earlier_fields
from dlm.runs.provenance import commit

CONFIG, ENVIRONMENT, COMMIT = "config.json", "environment.json", "commit.txt"
LOCK, DATA, HELD_OUT = "lock", "data.sha256", "held_out.sha256"
CHANGES = "changes"  # in config.json, beside the fields of a run
TOKENIZER = "tokenizer.json"
_BESIDE = {"tokenizer_config.json", "chat_template.jinja"}  # what a published tokenizer has further
_BEFORE_CONFIG = {
    COMMIT,
    ENVIRONMENT,
    LOCK,
    DATA,
    HELD_OUT,
    TOKENIZER,
    *_BESIDE,
}  # what a run killed while it began may have left
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


def belongs(workdir: Path, run: Run) -> bool:
    """True when `workdir` already holds this run, but for what no update depends on (`core.config.dependence`); False when it is free. Anything else
    there is an error."""
    if not workdir.exists() or (
        workdir.is_dir()
        and {p.name for p in workdir.iterdir() if p.suffix != files.PARTIAL} <= _BEFORE_CONFIG
    ):
        return False
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file")
    if not (workdir / CONFIG).is_file():
        raise UserError(
            f"--workdir={workdir} holds other things: choose an empty or a new directory"
        )
    changed = [
        line
        for dotted, line in differences(workdir, as_begun(workdir, run))
        if dependence(run, dotted) == "depends"
    ]
    if changed:
        raise UserError(
            f"--workdir={workdir} belongs to a run with another config ({changed[0]}): choose another directory"
        )
    return True


def differences(workdir: Path, run: Run) -> list[tuple[str, str]]:
    """[('optim.lr', 'optim.lr: 0.01 → 0.5'), …]: what is other in a run than in the one that `workdir` holds."""
    stored = _stored(workdir)
    # The text section without its vocabulary: a published tokenizer may be gone from where it was, and the run's own copy serves as well.
    text = to_plain(_text(stored, workdir))
    if (
        getattr(run.text, "path", None)
        and Path(run.text.path).expanduser().resolve() == (workdir / TOKENIZER).resolve()
        and text.get("path")
    ):
        text["path"] = run.text.path
    filled = to_plain(_built(dict(stored, text=to_plain(run.text)), workdir)) | dict(text=text)
    return [(line.partition(":")[0], line) for line in list_differences(filled, to_plain(run))]


def as_begun(workdir: Path, run: Run) -> Run:
    """The run, with what the one in `workdir` does in the way of an earlier version, unless the recipe says otherwise."""
    if not (workdir / CONFIG).is_file():
        return run
    asked = to_plain(run)
    kept = earlier_fields.kept(
        asked, to_plain(build_run(earlier_fields.without(asked), least=0)), _stored(workdir)
    )
    return run if kept == asked else build_run(kept, least=0)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes from training in `workdir`; the kernel takes the lock back when its holder ends, however it ends."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"--workdir={workdir} is in use by {holder}: wait for it, or choose another directory"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def check_data(workdir: Path, training: str, held_out: str, accept: bool) -> list[str]:
    """Refuses text other than that which the run began with, unless the user accepts it; it is the run's from then on.

    What was accepted is returned, in words for `go_on`."""
    now = {DATA: training, HELD_OUT: held_out}
    changed = changed_text(workdir, lambda: training, lambda: held_out)
    began = " ".join(_kept(workdir, name)[:8] or "unknown" for name in now)
    if changed and not accept:
        raise UserError(
            f"the {changed} data of {workdir} have changed since it began (fingerprints {training[:8]} {held_out[:8]}, then {began}): "
            "restore them, or go on with the new ones by --accept_data"
        )
    for name, fingerprint in now.items():
        if _kept(workdir, name) != fingerprint:
            files.write(workdir / name, fingerprint + "\n")
    return (
        [f"the {changed} data changed: {began} → {training[:8]} {held_out[:8]}"] if changed else []
    )


def changed_text(workdir: Path, training: Callable[[], str], held_out: Callable[[], str]) -> str:
    """Which text is no longer that which the run began with, by their fingerprints now: 'training', 'held-out', both or ''. An earlier
    version has not kept that of the held-out text, and a run that was not trained here neither."""
    kept = _kept(workdir, DATA), _kept(workdir, HELD_OUT)
    changed = ["training"] if kept[0] and kept[0] != training() else []
    if kept[1] and kept[1] != held_out():
        changed.append("held-out")
    elif changed and not kept[1]:
        changed.append("perhaps the held-out")
    return " and ".join(changed)


def _kept(workdir: Path, name: str) -> str:
    path = Path(workdir) / name
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


def create(workdir: Path, run: Run, tokenizer, **facts) -> None:
    """Fills a new run directory, which is locked; config.json comes last, since it is what makes a directory a run's.

    `facts` are kept in environment.json as well."""
    if (workdir / CONFIG).exists():
        raise UserError(
            f"--workdir={workdir} was begun by another process meanwhile: start again to go on with it"
        )
    tokenizer.save(workdir)
    (workdir / COMMIT).write_text(commit() + "\n", encoding="utf-8")
    costs = dict(parameters=run.nn.parameters, flops_per_token=run.flops_per_token)
    (workdir / ENVIRONMENT).write_text(
        files.as_json(environment() | costs | facts, indent=2) + "\n", encoding="utf-8"
    )
    write_config(workdir, run)


def write_config(workdir: Path, run: Run) -> None:
    files.write(workdir / CONFIG, to_json(run))


def check_places(workdir: Path, run: Run, accept: bool) -> None:
    """Refuses data at another place than before, where nothing tells whether they are the same (`check_data`)."""
    for dotted, line in differences(workdir, run):
        tells = HELD_OUT if dotted.endswith("held_out_paths") else DATA
        if dependence(run, dotted) == "place" and not (workdir / tells).exists() and not accept:
            raise UserError(
                f"config.{line}: {workdir} has no {tells} that tells whether the data are the same; --accept_data takes them"
            )


def go_on(workdir: Path, run: Run, step: int, accepted: Sequence[str] = ()) -> None:
    """Takes what is other in the run now: on another mesh, for instance, its evaluation finds the devices that it has now.

    config.json keeps in `changes` what was before, beside what the user `accepted`, and after which update; one line says so."""
    found = [*(line for _, line in differences(workdir, run)), *accepted]
    before = json.loads((workdir / CONFIG).read_text(encoding="utf-8")).get(CHANGES) or []
    changes = [*before, *(dict(after=step, change=line) for line in found)]
    files.write(workdir / CONFIG, to_json(to_plain(run) | ({CHANGES: changes} if changes else {})))
    if found:
        console.say(f"{workdir} goes on after update {step} with {'; '.join(found)}")


def read_config(workdir: Path) -> dict:
    """The config a run directory was made with; a published tokenizer is read from the copy that the run keeps."""
    config = _stored(workdir)
    if isinstance(text := config.get("text"), dict) and text.get("path"):
        text["path"] = str(Path(workdir) / TOKENIZER)
    return config


def run_of(workdir: Path) -> Run:
    """The run that a directory holds. Fields that the code has got since then have their defaults."""
    return _built(read_config(workdir), workdir)


def _text(config: dict, workdir: Path):
    """The text section of a config, with its defaults; no file is read."""
    with _provenance(workdir):
        return build_member(config.get("text") or "bytes", "text")


def _built(config: dict, workdir: Path) -> Run:
    with _provenance(workdir):
        return build_run(config, least=0)


@contextmanager
def _provenance(workdir: Path) -> Iterator[None]:
    """Of a config that this code cannot read it tells the commit that could."""
    try:
        yield
    except UserError as error:
        commit_made = one_line(_kept(workdir, COMMIT) or "unknown")
        raise UserError(
            f"{workdir} is a run of another version of dlm (commit {commit_made}), which this one cannot read: {error}"
        ) from None


def _stored(workdir: Path) -> dict:
    path = Path(workdir) / CONFIG
    if not path.is_file():
        raise UserError(
            f"{workdir} is not a run directory: it has no {CONFIG}; python -m dlm.train --workdir={workdir} --config=… makes one"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it holds {shown(config)}")
    config.pop(CHANGES, None)
    if isinstance(seed := config.get("seed"), int) and seed != seed % SEEDS:
        config["seed"] = seed % SEEDS
        _say_once(
            f"{workdir} is of an earlier version of dlm, where seed={seed} gave the draws of {config['seed']}: that is its seed now"
        )
    for line in earlier_fields.completed(config):
        _say_once(f"{workdir} is of an earlier version of dlm and keeps {line}")
    return config


@functools.cache
def _say_once(line: str) -> None:
    console.say(line)


def environment() -> dict:
    """Versions and machine."""
    import jax

    versions = {p: metadata.version(p) for p in _PACKAGES}
    devices = [f"{d.platform} {d.device_kind}" for d in jax.local_devices()]
    about = dict(
        python=platform.python_version(),
        machine=platform.platform(),
        processor=_processor(),
        cores=_cores(),
    )
    return dict(about, devices=devices, **versions)


def _processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
