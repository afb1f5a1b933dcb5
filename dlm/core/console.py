"""Lines for people."""

import sys


def say(text: str = "") -> None:
    """Prints a line on stderr: stdout is for the one JSON object of `--json`."""
    print(text, file=sys.stderr, flush=True)
