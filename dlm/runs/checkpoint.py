"""Checkpoints of the training state: asynchronous and sharded, by Orbax.

The step is all that the order of the data depends on. When Orbax has finished a checkpoint, it is
sealed with a manifest of sha256 sums (`runs.checksums`); only then is an older one deleted. Every
byte is verified before a restore: a damaged checkpoint is reported in one line, and the newest
intact one is taken.
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
    """List the steps of the sealed checkpoints in a run directory, without importing Orbax."""
    folder = Path(workdir) / FOLDER
    return [
        n for n in _numbered(workdir) if (folder / str(n) / checksums.FILE).exists()
    ]


def _numbered(workdir: Path) -> list[int]:
    return sorted(
        int(p.name) for p in (Path(workdir) / FOLDER).glob("*") if p.name.isdigit()
    )


def intact(
    workdir: Path, say: Callable[[str], None], step: int | None = None
) -> int | None:
    """Find the newest step whose every byte verifies, or verify `step`; None: no checkpoint.

    Damaged ones are reported by `say`. A run with nothing but damaged checkpoints raises
    UserError: to start it over is the user's decision.
    """
    folder, numbered, first = Path(workdir) / FOLDER, _numbered(workdir), None
    if step is not None and step not in numbered:
        known = steps(workdir) or "none"
        raise UserError(f"no checkpoint of step {step} in {folder}; there are {known}")
    for number in reversed(numbered) if step is None else [step]:
        wrong = checksums.damage(folder / str(number))
        if wrong is None:
            return number
        if step is not None:
            remedy = "without --step the newest intact one is taken"
            raise UserError(f"checkpoint {step} is damaged: {wrong}; {remedy}")
        first = first or wrong
        say(
            f"checkpoint {number} is unfinished or damaged, an older one is tried: {wrong}"
        )
    if steps(workdir):
        raise UserError(
            f"no checkpoint is intact ({first}): delete {folder} to start over"
        )
    return None


def set_aside(workdir: Path, after: int) -> None:
    """Rename the folders of checkpoints after step `after`, so that new ones can be written."""
    for number in _numbered(workdir):
        if number <= after:
            continue
        folder, n = Path(workdir) / FOLDER / str(number), 0
        while (aside := folder.with_name(f"{number}.damaged{n or ''}")).exists():
            n += 1
        folder.rename(aside)


class Store:
    """Saves and restores a run's states; the newest `keep` stay.

    Orbax, which takes 2 s to import, is loaded when it is first needed.
    """

    def __init__(
        self,
        workdir: Path,
        keep: int = 2,
        on_save_failure: str = "stop",
        say: Callable[[str], None] = console.say,
    ):
        # Only one process would know of the failure, and the next save needs all of them.
        if on_save_failure == "continue" and hosts.several():
            field = "config.intervals.on_save_failure=continue"
            raise UserError(f"{field} is for a single process: set it to stop")
        self._workdir = Path(workdir).absolute()
        self._keep = keep
        self._on_failure = on_save_failure
        self._say = say
        self._folder = self._workdir / FOLDER
        self._sealing: threading.Thread | None = None
        self._failure: str | None = None

    @cached_property
    def _manager(self):
        import orbax.checkpoint as ocp

        # A failure is reported in one line, not by Orbax's tracebacks.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        _silence_closed_loops()
        options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: State) -> None:
        """Start writing `state`; it is copied off the device when this returns."""
        import orbax.checkpoint as ocp

        self.wait()
        try:
            manager = self._manager  # creates the folder
            self._check_room(state)
            manager.save(step, args=ocp.args.StandardSave(_tree(state)))
        except (OSError, ValueError) as error:
            self._give_up(step, error)
            self.check()
            return
        self._sealing = threading.Thread(target=self._seal, args=(step,), name="seal")
        self._sealing.start()

    def _check_room(self, state: State) -> None:
        """Raise OSError on a full disk before half of a checkpoint is written."""
        if not hosts.first():
            return
        # An earlier checkpoint says what one takes on this disk, with all its blocks.
        done = steps(self._workdir)
        if done:
            need = checksums.room(self._folder / str(done[-1]))
        else:
            need = sum(x.nbytes for x in jax.tree.leaves(_tree(state)))
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
        """Delete the older checkpoints; one that fails is tried again after the next save."""
        try:
            for old in steps(self._workdir)[: -self._keep]:
                _delete(self._folder / str(old))
        except OSError as error:
            self._say(f"an old checkpoint cannot be deleted now: {error}")

    def _give_up(self, step: int, error: Exception) -> None:
        """Remove what is left of a save that failed, and note the cause for `check`."""
        if hosts.first():
            shutil.rmtree(self._folder / str(step), ignore_errors=True)
            for partial in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
        # The next save needs a new manager.
        vars(self).pop("_manager", None)
        cause = (str(error) or type(error).__name__).splitlines()[0][:200]
        if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
            cause = "No space left on the disk"
        intact_steps = steps(self._workdir)
        good = str(intact_steps[-1]) if intact_steps else "none"
        failed = f"the checkpoint of step {step} could not be written"
        self._failure = f"{failed}: {cause}; the last good one is {good}"

    def check(self) -> None:
        """Report a save that failed since the last call; raise UserError if the run is to stop."""
        if self._failure is None:
            return
        failure, self._failure = self._failure, None
        if self._on_failure == "stop":
            field = "config.intervals.on_save_failure=continue"
            raise UserError(f"{failure}; make room and start again, or set {field}")
        self._say(failure)

    def restore(self, abstract: State, step: int) -> State:
        """Load the state at `step` with the shapes and shardings of `abstract`; see `intact`."""
        import orbax.checkpoint as ocp

        restored = self._manager.restore(
            step, args=ocp.args.StandardRestore(_tree(abstract))
        )
        return State(**{"ema": None, "memory": None, **restored})

    def wait(self) -> None:
        """Wait until the last save is sealed."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        self.check()

    def close(self) -> None:
        """Wait for the last save, and end Orbax's threads."""
        self.wait()
        if "_manager" in vars(self):
            self._manager.close()


def _delete(folder: Path) -> None:
    """Delete a checkpoint under another name, so that a half-deleted folder has no step.

    A folder that a killed process left half deleted is removed with the next.
    """
    folder.rename(folder.with_name(f"{folder.name}{_GOING}"))
    for going in folder.parent.glob(f"*{_GOING}"):
        shutil.rmtree(going)


def _silence_closed_loops() -> None:
    """Suppress the tracebacks of writes that end after another one failed.

    Orbax abandons them, and TensorStore prints a traceback for each.
    """
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
    """Return shapes, dtypes and shardings of the state `state_of()`, without computing it."""
    shapes = jax.eval_shape(state_of)

    def described(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(described, shapes, shardings_of(shapes))
