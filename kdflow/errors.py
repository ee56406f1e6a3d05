"""The error that a user can mend: its text is one line that says what was expected and received."""


class KdflowError(Exception):
    """Input, stored data or a training that cannot be used as asked; shown without a traceback."""
