"""The error that a user can mend: its text is one line that says what was expected and received."""

import contextlib
from collections.abc import Iterator


class KdflowError(Exception):
    """Input, stored data or a training that cannot be used as asked; shown without a traceback."""


@contextlib.contextmanager
def about(parameter: str) -> Iterator[None]:
    """An error from inside the block names the parameter that it is about."""
    try:
        yield
    except KdflowError as error:
        raise KdflowError(f"{parameter}: {error}") from error
