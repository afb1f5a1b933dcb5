"""Messages for people."""

import sys


def say(text: str = "") -> None:
    """Print a line on stderr; stdout is reserved for the one JSON object of `--json`."""
    print(text, file=sys.stderr, flush=True)
