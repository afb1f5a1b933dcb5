"""Where a run begins: with the parameters of another one, whose tokenizer it shares; the optimizer starts anew."""

from pathlib import Path

import jax

from dlm.run import axes, checkpoint, cli, rundir, weights
from dlm.run.spec import UserError


def step(start: str) -> int:
    """The checkpoint that is taken; raises UserError where there is none."""
    rundir.run_of(Path(start))
    found = checkpoint.intact(Path(start), cli.say)
    if found is None:
        raise UserError(f"config.start={start} has no finished checkpoint yet")
    return found


def taken(start: str, made: dict) -> dict:
    """The parameters `made` with those of the run `start`, where they are laid out; what that run has not stays as it was made.

    A parameter of another shape is an error, and so is one that only the other run has: something would be lost in silence.
    """
    number = step(start)
    stored = weights.stored(Path(start), number)
    tree = next(iter(stored))[0]
    flat = {(tree, *(k.key for k in path)): x for path, x in jax.tree_util.tree_leaves_with_path(made)}
    for path, x in flat.items():
        if path in stored and stored[path][0] != x.shape:
            name = "/".join(path[1:])
            raise UserError(
                f"config.start={start}: {name} has the shape {stored[path][0]} there and {x.shape} here: make config.nn the same"
            )
    if lost := sorted("/".join(path[1:]) for path in stored.keys() - flat.keys()):
        raise UserError(f"config.start={start} has {lost[0]}, which this network has not: make config.nn the same")
    here = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for path, x in flat.items() if path in stored}
    found = flat | weights.restore(Path(start), number, here)
    fresh = sorted({axes.name_of([jax.tree_util.DictKey(path[-1])]) for path in flat.keys() - stored.keys()})
    cli.say(f"begins with {start}, update {number}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    return jax.tree.unflatten(jax.tree.structure(made), [found[path] for path in flat])
