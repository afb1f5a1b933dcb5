"""drills.fuzzed — one file for each kind of input that `bench fuzz` mutates; each has `cases(seed, count, folder)`.

`cases` yields (description of the mutation, outcome). The outcome is 'accepted', 'refused' (one line that names the cause), or a
description of the fault: a traceback, several lines, something harmed that was already written, something ignored in silence.
"""

ACCEPTED, REFUSED = "accepted", "refused"
GOOD = (ACCEPTED, REFUSED)
