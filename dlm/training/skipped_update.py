"""Records an update that could not be made: its step, its batch and its key.

`python -m dlm.bench replay --workdir=DIR` repeats it, from the newest checkpoint before it on.
"""

import json
from pathlib import Path

import numpy as np

from dlm.core import files, keys
from dlm.core.errors import UserError
from dlm.machine import hosts, mesh

FILE = "incident.json"


def describe(workdir: Path, experiment, diverged) -> str:
    """Write the file of the first update that was left out; return an error line for the user."""
    batch = next(experiment.batches(diverged.step - 1))
    key = keys.key(experiment.root, "noise", diverged.step - 1)
    content = dict(step=diverged.step, key=keys.words(key))
    content["batch"] = rows(batch)
    path = Path(workdir) / FILE
    if hosts.first():
        files.write(path, files.as_json(content) + "\n")
    command = f"python -m dlm.bench replay --workdir={workdir}"
    advice = "try a smaller config.optim.lr, or a longer config.optim.warmup, in a new directory"
    return f"{diverged}: {path} holds its batch and key, {command} makes it again; {advice}"


def read(workdir: Path) -> dict:
    """Read {step, key, batch}; raises UserError where there is no such file, or it is damaged."""
    path = Path(workdir) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {k: content[k] for k in ("step", "key", "batch")}
    except FileNotFoundError:
        cause = "no update of this run was left out until it stopped"
        raise UserError(f"{workdir} has no {FILE}: {cause}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def rows(batch) -> dict:
    """Convert a batch to plain lists."""
    batch = mesh.fetch(batch)
    named = dict(
        tokens_BL=batch.tokens_BL,
        weights_BL=batch.weights_BL,
        index_B=batch.index_B,
        segments_BL=batch.layout.segments_BL,
        positions_BL=batch.layout.positions_BL,
        marked_BL=batch.marked_BL,
    )
    lists = {}
    for name, array in named.items():
        if array is not None:
            lists[name] = np.asarray(array).tolist()
    return lists
