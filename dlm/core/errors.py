"""The one exception for mistakes of the user."""


class UserError(Exception):
    """A mistake of the user, described in one line.

    The commands print `error: …` and its notes, and exit with status 2.
    """
