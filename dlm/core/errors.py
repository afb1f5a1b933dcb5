"""The one error that is not ours."""


class UserError(Exception):
    """The user's mistake, told in one line: the commands print `error: …` and exit with 2. Its notes, if any, are printed below."""
