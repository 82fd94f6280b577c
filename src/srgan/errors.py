"""The exception whose text is shown to the user."""


class UserError(ValueError):
    """A mistake in the user's input.

    The message says what was found and what to do. Commands print it without a traceback and exit with code 1.
    """
