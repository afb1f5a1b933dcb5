"""Measures the cost of verifying a checkpoint, beside that of restoring it.

python -m dlm.bench restore [--millions=100] [--repeats=5] [--json]

The checkpoint has N million parameters with two moments; both are read from the page cache.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError

LIMIT = 0.6  # of the restore's time
ARRAYS = 16  # of the size of a layer's
WIDTH = 1000
FLAGS = [
    Flag("millions", "parameters, in millions", default=100, type=int),
    Flag("repeats", "rounds", default=5, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if min(args.millions, args.repeats) < 1:
        raise UserError("--millions and --repeats must be at least 1")
    results = measure(args.millions, args.repeats)
    size = f"{results['bytes'] / 1e9:.2f} GB"
    say(f"checkpoint of {args.millions}M parameters and two moments, {size}")
    verify = benches.formatted(results["verify"])
    restore = benches.formatted(results["restore"])
    say(f"  verifying {verify} s, restoring {restore} s")
    say(
        f"  verifying / restoring {benches.formatted(results['ratio'])}, limit {LIMIT:g}"
    )
    if args.json:
        cli.emit(results)


def measure(millions: int, repeats: int) -> dict[str, Any]:
    """Measures both in turns; returns seconds, their ratio, and the size of the checkpoint."""
    import jax

    from dlm.runs import checkpoint, checksums

    state = _state(millions)
    with tempfile.TemporaryDirectory() as workdir:
        store = checkpoint.Store(Path(workdir))
        store.save(1, state)
        store.wait()
        folder = Path(workdir) / checkpoint.FOLDER / "1"
        # Shapes alone: restoring must not overwrite the state that it could copy.
        abstract = jax.tree.map(_abstract, state)

        def verify() -> None:
            if wrong := checksums.damage(folder):
                raise RuntimeError(wrong)

        def restore() -> None:
            jax.block_until_ready(store.restore(abstract, 1))

        # Alternately, so that both find the same page cache.
        measures = dict(verify=_timed(verify), restore=_timed(restore))
        seconds = benches.in_turns(measures, repeats)
        # All files count, since all of them are verified.
        paths = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in paths)
        store.close()
    return dict(
        bytes=size,
        verify=benches.spread(seconds["verify"]),
        restore=benches.spread(seconds["restore"]),
        ratio=benches.ratio(seconds["verify"], seconds["restore"]),
    )


def _state(millions: int) -> Any:
    """Returns a state of random numbers, which no file system can compress."""
    import jax
    import jax.numpy as jnp

    from dlm.core.contracts import State

    shape = millions * 1_000_000 // ARRAYS // WIDTH, WIDTH
    tree = {}
    for i in range(ARRAYS):
        tree[f"x{i}_DF"] = jax.random.normal(jax.random.key(i), shape)
    # As large as AdamW's.
    moments = dict(mu=tree, nu=tree)
    return State(jnp.int32(1), tree, moments, None)


def _abstract(x: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return seconds
