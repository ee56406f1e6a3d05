"""The errors that a user can fix. Each is one line: what was expected, what was received."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

IN_A_URL = re.compile(r"(://[^\s:/@]*:)[^\s@]+(?=@)")
IN_A_QUERY = re.compile(r"(?i)\b(password=)[^\s&'\"]+")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it


class KdflowError(Exception):
    """Input, stored data or a training that cannot be used as asked; shown without a traceback."""


class ParameterError(KdflowError):
    """A value that does not fit; the message begins with its parameter, whose name is the same in
    every command."""


class UnfitError(KdflowError):
    """A stored result that is proven to be missing, damaged or of something else."""


class UnreachableError(KdflowError):
    """A store or server that does not answer, so that nothing is known about the result."""


class ChangedError(KdflowError):
    """Something that a command builds on has changed while it runs."""


class NoRoomError(KdflowError):
    """A disk that is full or cannot be written to: the same may succeed once there is room."""


@contextlib.contextmanager
def about(parameter: str) -> Iterator[None]:
    """Prefix an error from inside the block with the parameter that caused it, if there is one. An
    error that names another one, and a full disk, which no parameter causes, are left alone."""
    try:
        yield
    except KdflowError as error:
        if not parameter or isinstance(error, ParameterError | NoRoomError):
            raise
        raise type(error)(f"{parameter}: {error}") from error


def is_disk_full(error: BaseException) -> bool:
    """Whether this error, of Python or of native code, is that of a full disk or quota."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    return any(os.strerror(number) in str(error) for number in DISK_FULL)


def without_passwords(text: str) -> str:
    """`text` with the passwords of its URLs replaced by asterisks."""
    return IN_A_QUERY.sub(r"\1***", IN_A_URL.sub(r"\1***", text))


def reason(error: BaseException) -> str:
    """An error's message as one line of printable characters without passwords; its type if it has
    no message."""
    line = " ".join(str(error).split()) or type(error).__name__
    return without_passwords("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
