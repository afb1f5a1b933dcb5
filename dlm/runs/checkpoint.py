"""Checkpoints of the training state: Orbax, asynchronous, sharded; the step is all that the data order needs to go on.

When Orbax has finished a checkpoint it is sealed with a manifest of sha256 sums (`manifest`), and only then is an older one deleted.
Every byte is verified before a restore; a damaged checkpoint is named in one line and the newest intact one taken.
"""

import errno
import logging
import shutil
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import jax

from dlm.core import console
from dlm.core.contracts import State
from dlm.core.errors import UserError
from dlm.machine import hosts
from dlm.runs import checksums

FOLDER = "checkpoints"
_GOING = ".going"  # how the name of a folder that is being deleted ends


def steps(workdir: Path) -> list[int]:
    """Steps of the sealed checkpoints in a run directory, without importing Orbax."""
    return [
        n for n in _numbered(workdir) if (Path(workdir) / FOLDER / str(n) / checksums.FILE).exists()
    ]


def _numbered(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (Path(workdir) / FOLDER).glob("*") if p.name.isdigit())


def intact(workdir: Path, say: Callable[[str], None], step: int | None = None) -> int | None:
    """The newest step whose every byte verifies, or `step` if it does; None where there is no checkpoint.

    Damaged ones are told. A run with nothing but damaged checkpoints is refused: to start it over is the user's decision.
    """
    folder, numbered, first = Path(workdir) / FOLDER, _numbered(workdir), None
    if step is not None and step not in numbered:
        raise UserError(
            f"no checkpoint of step {step} in {folder}; there are {steps(workdir) or 'none'}"
        )
    for number in reversed(numbered) if step is None else [step]:
        wrong = checksums.damage(folder / str(number))
        if wrong is None:
            return number
        if step is not None:
            raise UserError(
                f"checkpoint {step} is damaged: {wrong}; without --step the newest intact one is taken"
            )
        first = first or wrong
        say(f"checkpoint {number} is unfinished or damaged, an older one is tried: {wrong}")
    if steps(workdir):
        raise UserError(f"no checkpoint is intact ({first}): delete {folder} to start over")
    return None


def set_aside(workdir: Path, after: int) -> None:
    """Makes room for the checkpoints after step `after`: what stands in their place is renamed, not deleted."""
    for number in _numbered(workdir):
        if number > after:
            folder, n = Path(workdir) / FOLDER / str(number), 0
            while (aside := folder.with_name(f"{number}.damaged{n or ''}")).exists():
                n += 1
            folder.rename(aside)


class Store:
    """Saves and restores a run's states; the newest `keep` stay. Orbax (2 s to import) is loaded when first needed."""

    def __init__(
        self,
        workdir: Path,
        keep: int = 2,
        on_save_failure: str = "stop",
        say: Callable[[str], None] = console.say,
    ):
        if (
            on_save_failure == "continue" and hosts.several()
        ):  # only one process knows of it, and the next save needs all
            raise UserError(
                "config.intervals.on_save_failure=continue is for a single process: set it to stop"
            )
        self._workdir, self._keep, self._on_failure, self._say = (
            Path(workdir).absolute(),
            keep,
            on_save_failure,
            say,
        )
        self._folder = self._workdir / FOLDER
        self._sealing: threading.Thread | None = None
        self._failure: str | None = None

    @cached_property
    def _manager(self):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(
            logging.CRITICAL
        )  # its tracebacks: what failed is told in one line
        _hush()
        return ocp.CheckpointManager(
            self._folder, options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
        )

    def save(self, step: int, state: State) -> None:
        """Starts writing `state`; the copy off the device is done when this returns."""
        import orbax.checkpoint as ocp

        self.wait()
        try:
            manager = self._manager  # makes the folder
            self._check_room(state)
            manager.save(step, args=ocp.args.StandardSave(_tree(state)))
        except (OSError, ValueError) as error:
            self._give_up(step, error)
            self.check()
            return
        self._sealing = threading.Thread(target=self._seal, args=(step,), name="seal")
        self._sealing.start()

    def _check_room(self, state: State) -> None:
        """Notices a full disk before half of a checkpoint is on it."""
        if not hosts.first():
            return
        done = steps(self._workdir)
        need = (
            checksums.room(self._folder / str(done[-1]))
            if done
            else sum(x.nbytes for x in jax.tree.leaves(_tree(state)))
        )
        if shutil.disk_usage(self._folder).free < need:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _seal(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if hosts.first():
                checksums.write(self._folder / str(step))
        except Exception as error:
            self._give_up(step, error)
            return
        if hosts.first():
            self._forget()

    def _forget(self) -> None:
        """Deletes the older checkpoints; one that cannot be deleted is tried again after the next save."""
        try:
            for old in steps(self._workdir)[: -self._keep]:
                _delete(self._folder / str(old))
        except OSError as error:
            self._say(f"an old checkpoint cannot be deleted now: {error}")

    def _give_up(self, step: int, error: Exception) -> None:
        """Leaves nothing of a save that failed, and notes why it did."""
        if hosts.first():
            for left in [
                self._folder / str(step),
                *self._folder.glob(f"{step}.orbax-checkpoint-tmp*"),
            ]:
                shutil.rmtree(left, ignore_errors=True)
        vars(self).pop("_manager", None)
        said = str(error) or type(error).__name__
        full = "No space left" in said or "RESOURCE_EXHAUSTED" in said
        cause = "No space left on the disk" if full else said.splitlines()[0][:200]
        good = (steps(self._workdir) or ["none"])[-1]
        self._failure = f"the checkpoint of step {step} could not be written: {cause}; the last good one is {good}"

    def check(self) -> None:
        """Tells of a save that failed since the last look; stops the run where its config says so."""
        if self._failure is None:
            return
        failure, self._failure = self._failure, None
        if self._on_failure == "stop":
            raise UserError(
                f"{failure}; make room and start again, or set config.intervals.on_save_failure=continue"
            )
        self._say(failure)

    def restore(self, abstract: State, step: int) -> State:
        """The state at `step`, laid out as the shapes and shardings of `abstract` say. `intact` is asked before."""
        import orbax.checkpoint as ocp

        restored = self._manager.restore(step, args=ocp.args.StandardRestore(_tree(abstract)))
        return State(**{"ema": None, "memory": None, **restored})

    def wait(self) -> None:
        """Until the last save is sealed."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        self.check()

    def close(self) -> None:
        """Waits for the last save."""
        self.wait()
        if "_manager" in vars(self):
            self._manager.close()


def _delete(folder: Path) -> None:
    """A folder that is half deleted bears no step's number; what a killed process left of one goes with the next."""
    folder.rename(folder.with_name(f"{folder.name}{_GOING}"))
    for going in folder.parent.glob(f"*{_GOING}"):
        shutil.rmtree(going)


def _hush() -> None:
    """Where one write of a checkpoint fails, Orbax leaves the others, and TensorStore prints a traceback for each that ends later."""
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _tree(state: State) -> dict:
    tree = dict(
        step=state.step,
        params=state.params,
        moments=state.moments,
        ema=state.ema,
        memory=state.memory,
    )
    return {k: v for k, v in tree.items() if v is not None}


def abstract(state_of, shardings_of) -> State:
    """Shapes, dtypes and shardings of the state that `state_of()` would make, without making it."""
    shapes = jax.eval_shape(state_of)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings_of(shapes),
    )
