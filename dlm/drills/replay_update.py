"""Make the update again that a run could not make: from the newest checkpoint before it, update by update, with the same data and noise.

python -m dlm.bench replay --workdir=RUN [--json]
"""

from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.named import Place

FLAGS = [
    Flag(
        "workdir",
        "a run that stopped after updates without a finite loss or gradient",
        required=True,
        type=Place,
    ),
    Flag("json", "print one JSON object on stdout", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    results = replay(Path(args.workdir))
    kept = "as" if results["same"] else "NOT as"
    say(
        f"update {results['step']}, from the checkpoint of step {results['from_step']}; batch and key {kept} in the file"
    )
    say(
        f"  loss {results['loss']:.6g}, gradient norm {results['grad_norm']:.6g}, left out: {results['skipped']}"
    )
    say(f"  parameters that are not finite before it: {', '.join(results['not_finite']) or 'none'}")
    if args.json:
        cli.emit({k: str(v) if isinstance(v, float) else v for k, v in results.items()})


def replay(workdir: Path) -> dict:
    """What the update at the incident's step does, and whether its batch and key are those of the file."""
    import jax
    import numpy as np

    from dlm.app.experiment import Experiment
    from dlm.core import keys
    from dlm.runs import checkpoint, directory
    from dlm.training import skipped_update

    kept, run = skipped_update.read(workdir), directory.run_of(workdir)
    before = [s for s in checkpoint.steps(workdir) if s < kept["step"]]
    experiment = Experiment(run, run.text.restore(workdir))
    store = checkpoint.Store(workdir)
    start = checkpoint.intact(workdir, say, before[-1]) if before else 0
    state = store.restore(experiment.abstract_state(), start) if start else experiment.new_state()
    store.close()
    batches = experiment.batches(start)
    for _ in range(start + 1, kept["step"]):
        state, _ = experiment.update(state, next(batches))
    batch, key = next(batches), keys.key(experiment.root, "noise", kept["step"] - 1)
    bad = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if not np.isfinite(leaf).all()
    ]
    loss = jax.jit(experiment.loss)(state.params, batch, key)
    sums = experiment.update(state, batch)[1]
    return dict(
        step=kept["step"],
        from_step=start,
        same=skipped_update.rows(batch) == kept["batch"] and keys.words(key) == kept["key"],
        loss=float(loss.nats_sum / loss.weight_sum),
        grad_norm=float(sums["grad_norm"]),
        skipped=bool(sums["skipped_sum"]),
        not_finite=bad,
    )
