"""Opens a trained run from its directory: its experiment, its parameters and its sampler."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from dlm.app.experiment import Experiment
from dlm.core import console
from dlm.core.config import override
from dlm.core.contracts import State
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.machine import mesh
from dlm.runs import checkpoint, directory, earlier_fields, weights
from dlm.samplers.plan import Sampler

Opened = tuple[Experiment, State]


def reopen(workdir: Path, step: int | None = None, whole: bool = False) -> Opened:
    """Opens a run at its newest intact checkpoint, or at the checkpoint of update `step`.

    The State contains only the parameters that evaluation uses, unless the `whole` state is wanted.
    Raises UserError where no checkpoint is finished, or where the run's platform is unavailable.
    """
    # The newest checkpoint may be damaged: an older one is used then, with a warning.
    run = directory.run_of(workdir)
    step = checkpoint.intact(workdir, console.say, step)
    if step is None:
        raise UserError(f"{workdir} has no finished checkpoint yet")
    _check_platform(workdir, run.mesh)
    experiment = Experiment(run, run.text.restore(Path(workdir)))
    abstract = experiment.abstract_state()

    # Moments are two thirds of a state, and only training reads them.
    if not whole:
        params = weights.load(workdir, step, abstract.params)
        return experiment, State(jnp.int32(step), params, None, None)
    store = checkpoint.Store(workdir, run.intervals.keep)
    restored = store.restore(abstract, step)
    store.close()
    return experiment, restored


def build_sampler(workdir: Path, overrides: Sequence[tuple[str, str]]) -> Sampler:
    """Returns the run's sampler with `sampler.FIELD=VALUE` applied."""
    # The whole config is built again, so that overrides are checked like a recipe's.
    config = directory.read_config(workdir)
    for dotted, text in overrides:
        override(config, dotted, text)
    earlier_fields.check(config)
    return build_run(config, least=0).sampler


def _check_platform(workdir: Path, mesh_config) -> None:
    try:
        mesh.devices(mesh_config)
    except UserError as error:
        config = Path(workdir) / directory.CONFIG
        elsewhere = f"to compute elsewhere, change mesh.platform in {config}"
        raise UserError(f"{error}; or, {elsewhere}") from None
