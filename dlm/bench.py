"""Runs a benchmark or a drill: speed as ratios measured side by side, or an exact outcome.

python -m dlm.bench NAME [flags of that bench; --help lists them]
"""

import ast
import importlib
import sys
from pathlib import Path

from dlm.app import cli
from dlm.core.errors import UserError
from dlm.core.named import nearest

FOLDER = Path(__file__).parent
# Drills by the name that calls them: all other names are files of benches/.
DRILLS = dict(
    export="stablehlo",
    fuzz="config_fuzz",
    replay="replay_update",
    resume="resume",
)


def main(argv: list[str] | None = None) -> int | None:
    words = sys.argv[1:] if argv is None else argv
    known = modules()
    if not words or words[0] in ("-h", "--help"):
        print(__doc__ or "")
        for name, module in known.items():
            print(f"  {name:<10} {_summary(module)}")
        return None if words else 2
    name = words[0]
    if name not in known:
        near = nearest(name, known)
        raise UserError(f"no bench {name!r}{near}; there are {', '.join(known)}")
    return importlib.import_module(known[name]).main(words[1:])


def modules() -> dict[str, str]:
    """Returns the module of every bench and drill, by the name that calls it."""
    # A new file in benches/ is a new bench, without an edit here.
    benches = [path.stem for path in (FOLDER / "benches").glob("*.py")]
    modules = {name: f"dlm.benches.{name}" for name in benches if name != "__init__"}
    modules |= {name: f"dlm.drills.{file}" for name, file in DRILLS.items()}
    return dict(sorted(modules.items()))


def _summary(module: str) -> str:
    """Reads the first line of a docstring without importing the module, which may load JAX."""
    path = FOLDER.parent.joinpath(*module.split(".")).with_suffix(".py")
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (doc or "").split("\n")[0]


if __name__ == "__main__":
    cli.main(main)
