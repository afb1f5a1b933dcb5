"""Repeats the update that a run had to leave out, with the same data and noise.

python -m dlm.bench replay --workdir=RUN [--json]

Starts from the newest checkpoint before it and makes every update up to it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.named import Place

if TYPE_CHECKING:  # these load JAX, which --help need not
    from dlm.app.experiment import Experiment
    from dlm.core.contracts import State

_WORKDIR_HELP = "a run that stopped after updates without a finite loss or gradient"
FLAGS = [
    Flag("workdir", _WORKDIR_HELP, required=True, type=Place),
    Flag("json", "print one JSON object on stdout", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    result = replay(Path(args.workdir))
    same = "as" if result["same"] else "NOT as"
    start = f"from the checkpoint of step {result['from_step']}"
    say(f"update {result['step']}, {start}; batch and key {same} in the file")
    loss = f"loss {result['loss']:.6g}, gradient norm {result['grad_norm']:.6g}"
    say(f"  {loss}, left out: {result['skipped']}")
    not_finite = ", ".join(result["not_finite"]) or "none"
    say(f"  parameters that are not finite before it: {not_finite}")
    if args.json:
        for name in ("loss", "grad_norm"):
            result[name] = str(result[name])  # JSON has no infinity and no NaN
        cli.emit(result)


def replay(workdir: Path) -> dict[str, Any]:
    """Repeats the update of a run's incident; checks that batch and key are those of its file."""
    import jax

    from dlm.app.experiment import Experiment
    from dlm.core import keys
    from dlm.runs import directory
    from dlm.training import skipped_update

    # Written when the run stopped: step, batch and key.
    incident = skipped_update.read(workdir)
    step = incident["step"]
    run = directory.run_of(workdir)
    experiment = Experiment(run, run.text.restore(workdir))

    # Every update up to the one in question.
    start, state = _state_before(workdir, experiment, step)
    batches = experiment.batches(start)
    for _ in range(start + 1, step):
        state, _ = experiment.update(state, next(batches))

    # The update in question, with the run's own batch and key.
    batch = next(batches)
    key = keys.key(experiment.root, "noise", step - 1)
    same_batch = skipped_update.rows(batch) == incident["batch"]
    same_key = keys.words(key) == incident["key"]
    # All that needs the state comes first: an update overwrites it.
    not_finite = _not_finite(state.params)
    loss = jax.jit(experiment.loss)(state.params, batch, key)
    _, sums = experiment.update(state, batch)
    return dict(
        step=step,
        from_step=start,
        same=same_batch and same_key,
        loss=float(loss.nats_sum / loss.weight_sum),
        grad_norm=float(sums["grad_norm"]),
        skipped=bool(sums["skipped_sum"]),
        not_finite=not_finite,
    )


def _state_before(
    workdir: Path,
    experiment: "Experiment",
    step: int,
) -> tuple[int, "State"]:
    """Restores the newest intact checkpoint before an update; returns (its step, the state)."""
    from dlm.runs import checkpoint

    # Without one the run begins at its first update.
    earlier = [number for number in checkpoint.steps(workdir) if number < step]
    start = checkpoint.intact(workdir, say, earlier[-1]) if earlier else None
    if not start:
        return 0, experiment.new_state()
    store = checkpoint.Store(workdir)
    state = store.restore(experiment.abstract_state(), start)
    store.close()
    return start, state


def _not_finite(params: Any) -> list[str]:
    """Names the parameters with a value that is not finite."""
    import jax
    import numpy as np

    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(leaf).all():
            names.append(jax.tree_util.keystr(path))
    return names
