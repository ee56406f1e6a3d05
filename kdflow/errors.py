"""The errors that a user can fix. Each is one line: what was expected, what was received."""

import contextlib
from collections.abc import Iterator


class KdflowError(Exception):
    """Input, stored data or a training that cannot be used as asked; shown without a traceback."""


class Unfit(KdflowError):
    """A stored result that is proven to be missing, damaged or of something else."""


class Unreachable(KdflowError):
    """A store or server that does not answer, so that nothing is known about the result."""


@contextlib.contextmanager
def about(parameter: str) -> Iterator[None]:
    """Prefix an error from inside the block with the parameter that caused it, if there is one."""
    try:
        yield
    except KdflowError as error:
        if not parameter:
            raise
        raise type(error)(f"{parameter}: {error}") from error
