"""What is kept of an update that could not be made: its step, its batch and its key, so that it can be looked at again.

`python -m dlm.bench replay --workdir=DIR` goes from the newest checkpoint before that step to it, update by update.
"""

import json
from pathlib import Path

import numpy as np

from dlm.core import files, keys
from dlm.core.errors import UserError
from dlm.machine import hosts, mesh

FILE = "incident.json"


def describe(workdir: Path, experiment, diverged) -> str:
    """Writes the file; returns the line that says so."""
    batch = next(experiment.batches(diverged.step - 1))
    key = keys.key(experiment.root, "noise", diverged.step - 1)
    content = dict(step=diverged.step, key=keys.words(key), batch=rows(batch))
    if hosts.first():
        files.write(Path(workdir) / FILE, files.as_json(content) + "\n")
    return (
        f"{diverged}: {Path(workdir) / FILE} holds its batch and key, python -m dlm.bench replay --workdir={workdir} makes it again; "
        "try a smaller config.optim.lr, or a longer config.optim.warmup, in a new directory"
    )


def read(workdir: Path) -> dict:
    path = Path(workdir) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {k: content[k] for k in ("step", "key", "batch")}
    except FileNotFoundError:
        raise UserError(
            f"{workdir} has no {FILE}: no update of this run was left out until it stopped"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def rows(batch) -> dict:
    """A batch as plain lists."""
    batch = mesh.fetch(batch)
    named = dict(
        tokens_BL=batch.tokens_BL,
        weights_BL=batch.weights_BL,
        index_B=batch.index_B,
        segments_BL=batch.layout.segments_BL,
        positions_BL=batch.layout.positions_BL,
        marked_BL=batch.marked_BL,
    )
    named = {name: array for name, array in named.items() if array is not None}
    return {name: np.asarray(array).tolist() for name, array in named.items()}
