"""Beginning a run with the parameters and the tokenizer of another one.

The optimizer starts from zero.
"""

from pathlib import Path

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from dlm.core import console
from dlm.core.errors import UserError
from dlm.runs import checkpoint, directory, weights


def tokenizer(start: str, text):
    """Restore the tokenizer of the run `start` by the config section `text`.

    Raises UserError where that run has no checkpoint.
    """
    _step(start)
    return text.restore(Path(start))


def check(start: str, target: dict) -> tuple[int, str, set]:
    """Compare the parameters of the run `start` with those of `target`.

    Returns (step of its checkpoint, name of its tree, paths that both have). Parameters that the
    other run lacks keep their initial values. One of another shape raises UserError, and so does
    one that only the other run has: it would be lost silently.
    """
    number = _step(start)
    stored = weights.stored(Path(start), number)
    tree = next(iter(stored))[0]
    flat = flatten_dict(target)
    remedy = "make config.nn the same"
    for path, x in flat.items():
        here = (x.shape, x.dtype)
        stored_shape, _ = stored.get((tree, *path), here)
        if stored_shape != x.shape:
            shapes = f"has the shape {stored_shape} there and {x.shape} here"
            raise UserError(
                f"config.start={start}: {'/'.join(path)} {shapes}: {remedy}"
            )
    paths = [path[1:] for path in stored]
    lost = sorted("/".join(path) for path in paths if path not in flat)
    if lost:
        cause = f"has {lost[0]}, which this network has not"
        raise UserError(f"config.start={start} {cause}: {remedy}")
    return number, tree, {path for path in flat if (tree, *path) in stored}


def taken(start: str, target: dict) -> dict:
    """Replace the parameters `target` by those of the run `start`, on the same devices."""
    number, tree, known = check(start, target)
    flat = flatten_dict(target)
    shapes = {}
    for path in known:
        x = flat[path]
        shapes[tree, *path] = jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=x.sharding
        )
    restored = weights.restore(Path(start), number, shapes)
    arrays = {path[1:]: x for path, x in restored.items()}

    # Heads and other parts that the earlier run did not have start fresh.
    fresh = sorted({path[-1] for path in flat.keys() - known})
    note = f"begins with {start}, update {number}"
    if fresh:
        note += f"; new: {', '.join(fresh)}"
    console.say(note)
    return unflatten_dict(flat | arrays)


def _step(start: str) -> int:
    directory.run_of(Path(start))
    step = checkpoint.intact(Path(start), console.say)
    if step is None:
        raise UserError(f"config.start={start} has no finished checkpoint yet")
    return step
