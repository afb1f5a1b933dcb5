"""Measure speed, side by side in one run: ratios with their spread, since seconds alone say little on a shared machine.

python -m dlm.bench NAME [flags of that bench; --help lists them]
"""

import ast
import importlib
import sys
from pathlib import Path

from dlm.app import cli
from dlm.core.errors import UserError
from dlm.core.named import nearest

FOLDER = Path(__file__).parent / "benches"


def main(argv: list[str] | None = None) -> int | None:
    words = sys.argv[1:] if argv is None else argv
    benches = names()
    if not words or words[0] in ("-h", "--help"):
        print(
            (__doc__ or "")
            + "\n"
            + "\n".join(f"  {name:<10} {idea}" for name, idea in benches.items())
        )
        return None if words else 2
    if words[0] not in benches:
        raise UserError(
            f"no bench {words[0]!r}{nearest(words[0], benches)}; there are {', '.join(benches)}"
        )
    return importlib.import_module(f"dlm.benches.{words[0]}").main(words[1:])


def names() -> dict[str, str]:
    """Every bench and its idea, read off the files without importing them."""
    files = sorted(p for p in FOLDER.glob("*.py") if p.stem != "__init__")
    return {
        p.stem: ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))).splitlines()[0]
        for p in files
    }


if __name__ == "__main__":
    cli.main(main)
