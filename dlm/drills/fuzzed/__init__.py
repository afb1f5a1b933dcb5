"""drills.fuzzed: one file for each kind of input that `bench fuzz` mutates.

Each has `cases(seed, count, folder)`, which yields (description of the mutation, outcome). The
outcome is 'accepted', 'refused' (in one line that names the cause), or a description of the fault:
a traceback, several lines, damage to a file, or a value that was ignored in silence.
"""

from collections.abc import Iterable, Iterator

ACCEPTED, REFUSED = "accepted", "refused"
GOOD = (ACCEPTED, REFUSED)

Cases = Iterator[tuple[str, str]]  # (mutation, outcome)


def joint(outcomes: Iterable[str]) -> str:
    """Returns the outcome of several readings of one input: the first fault, if there is one."""
    outcomes = list(outcomes)
    for outcome in outcomes:
        if outcome not in GOOD:
            return outcome
    return REFUSED if REFUSED in outcomes else ACCEPTED
