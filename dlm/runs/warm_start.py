"""Where a run begins: with the parameters of another one, whose tokenizer it shares; the optimizer starts anew."""

from pathlib import Path

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from dlm.core import console
from dlm.core.errors import UserError
from dlm.runs import checkpoint, directory, weights


def tokenizer(start: str, text):
    """The tokenizer of the run `start`, as the section `text` reads it; raises UserError where there is nothing to begin with."""
    _step(start)
    return text.restore(Path(start))


def check(start: str, target: dict) -> tuple[int, str, set]:
    """(the checkpoint that is taken, its tree, paths of `made` that it has); what that run has not stays as it was made.

    A parameter of another shape is an error, and so is one that only the other run has: something would be lost in silence.
    """
    number = _step(start)
    stored = weights.stored(Path(start), number)
    tree, flat = next(iter(stored))[0], flatten_dict(target)
    for path, x in flat.items():
        stored_shape = stored.get((tree, *path), (x.shape,))[0]
        if stored_shape != x.shape:
            raise UserError(
                f"config.start={start}: {'/'.join(path)} has the shape {stored_shape} there and {x.shape} here: make config.nn the same"
            )
    if lost := sorted("/".join(path[1:]) for path in stored if path[1:] not in flat):
        raise UserError(
            f"config.start={start} has {lost[0]}, which this network has not: make config.nn the same"
        )
    return number, tree, {path for path in flat if (tree, *path) in stored}


def taken(start: str, target: dict) -> dict:
    """The parameters `made` with those of the run `start`, where they are laid out."""
    number, tree, known = check(start, target)
    flat = flatten_dict(target)
    here = {
        (tree, *path): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for path, x in flat.items()
        if path in known
    }
    stored_arrays = {path[1:]: x for path, x in weights.restore(Path(start), number, here).items()}
    fresh = sorted({path[-1] for path in flat.keys() - known})
    console.say(
        f"begins with {start}, update {number}" + (f"; new: {', '.join(fresh)}" if fresh else "")
    )
    return unflatten_dict({path: stored_arrays.get(path, x) for path, x in flat.items()})


def _step(start: str) -> int:
    directory.run_of(Path(start))
    step = checkpoint.intact(Path(start), console.say)
    if step is None:
        raise UserError(f"config.start={start} has no finished checkpoint yet")
    return step
