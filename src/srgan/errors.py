"""The one exception whose text is written for the user."""


class UserError(ValueError):
    """What was asked for can't work.

    The message says what was found and what to do; entry points print it without a traceback and exit with 1.
    """
