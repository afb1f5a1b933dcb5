"""Checkpoints of the training state: Orbax, asynchronous, sharded; the step is all that the data order needs to go on."""

from functools import cached_property
from pathlib import Path

import jax

from dlm.run.spec import UserError
from dlm.run.state import State

FOLDER = "checkpoints"


def steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints in a run directory, without importing Orbax."""
    return sorted(int(p.name) for p in (Path(workdir) / FOLDER).glob("*") if p.name.isdigit())


class Store:
    """Saves and restores a run's states; the newest `keep` stay. Orbax (2 s to import) is loaded when first needed."""

    def __init__(self, workdir: Path, keep: int = 2):
        self._folder, self._keep = (Path(workdir) / FOLDER).absolute(), keep

    @cached_property
    def _manager(self):
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, enable_async_checkpointing=True)
        return ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: State) -> None:
        """Starts writing `state`; the copy off the device is done when this returns."""
        import orbax.checkpoint as ocp

        self._manager.save(step, args=ocp.args.StandardSave(_tree(state)))

    def restore(self, abstract: State, step: int | None = None) -> State:
        """The state at `step` (default: the newest), laid out as the shapes and shardings of `abstract` say."""
        import orbax.checkpoint as ocp

        known = sorted(self._manager.all_steps())
        step = known[-1] if step is None and known else step
        if step not in known:
            raise UserError(f"no checkpoint of step {step} in {self._folder}; there are {known or 'none'}")
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(_tree(abstract)))
        return State(**{"ema": None, **restored})

    def close(self) -> None:
        """Waits for the last save."""
        if "_manager" in vars(self):
            self._manager.wait_until_finished()
            self._manager.close()


def _tree(state: State) -> dict:
    tree = dict(step=state.step, params=state.params, moments=state.moments, ema=state.ema)
    return {k: v for k, v in tree.items() if v is not None}


def abstract(state_of, shardings_of) -> State:
    """Shapes, dtypes and shardings of the state that `state_of()` would make, without making it."""
    shapes = jax.eval_shape(state_of)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings_of(shapes))
