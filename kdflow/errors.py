"""The errors of kdflow. That which a user can mend is one line that says what was expected and what
was received."""

import contextlib
from collections.abc import Iterator


class KdflowError(Exception):
    """Input, stored data or a training that cannot be used as asked; shown without a traceback."""


class Stopped(Exception):
    """A training was given up by whoever watches it: its run ends KILLED."""


@contextlib.contextmanager
def about(parameter: str) -> Iterator[None]:
    """An error from inside the block names the parameter that it is about."""
    try:
        yield
    except KdflowError as error:
        raise KdflowError(f"{parameter}: {error}") from error
