"""What verifying a checkpoint costs beside restoring it: a state of N million parameters with two moments, both from the page cache.

python -m dlm.bench restore [--millions=100] [--repeats=5] [--json]
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError

LIMIT = 0.6  # of the restore's time
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
    say(
        f"checkpoint of {args.millions}M parameters and two moments, {results['bytes'] / 1e9:.2f} GB"
    )
    say(
        f"  verifying {benches.formatted(results['verify'])} s, restoring {benches.formatted(results['restore'])} s"
    )
    say(f"  verifying / restoring {benches.formatted(results['ratio'])}, limit {LIMIT:g}")
    if args.json:
        cli.emit(results)


def measure(millions: int, repeats: int) -> dict:
    """Seconds of both, in turns, and their ratio; the size of the checkpoint."""
    import jax
    import jax.numpy as jnp

    from dlm.core.contracts import State
    from dlm.runs import checkpoint, checksums

    rows = 16  # arrays of the size of a layer's
    tree = {
        f"x{i}_DF": jax.random.normal(
            jax.random.key(i), (millions * 1_000_000 // rows // 1000, 1000)
        )
        for i in range(rows)
    }
    moments = dict(mu=tree, nu=tree)
    state = State(jnp.int32(1), tree, moments, None)
    with tempfile.TemporaryDirectory() as workdir:
        store = checkpoint.Store(Path(workdir))
        store.save(1, state)
        store.wait()
        folder = Path(workdir) / checkpoint.FOLDER / "1"
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )

        def verify() -> None:
            if wrong := checksums.damage(folder):
                raise RuntimeError(wrong)

        measures = dict(
            verify=verify, restore=lambda: jax.block_until_ready(store.restore(abstract, 1))
        )
        seconds = benches.in_turns({name: _timed(call) for name, call in measures.items()}, repeats)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        store.close()
    ratio = benches.ratio(seconds["verify"], seconds["restore"])
    return dict(
        bytes=size,
        **{name: benches.spread(values) for name, values in seconds.items()},
        ratio=ratio,
    )


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return seconds
