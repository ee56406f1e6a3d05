"""What a command's process does around its work: quiet imports, signals, the exit status."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

from kdflow import interrupts
from kdflow.errors import KdflowError

BACKENDS = ("tensorflow", "jax")


@contextlib.contextmanager
def loading_quietly() -> Iterator[None]:
    """Hold back what native libraries write to stderr while they load, unless loading fails:
    TensorFlow writes six lines that no setting silences."""
    with tempfile.TemporaryFile() as written:
        stderr = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(stderr, written.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def check_backend() -> None:
    """Refuse a Keras backend that is not installed.

    Raises:
        KdflowError: KERAS_BACKEND names none, or a package that is not there.
    """
    import importlib.util

    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if wanted not in BACKENDS:
        raise KdflowError(f"KERAS_BACKEND: expected {' or '.join(BACKENDS)}, got {wanted!r}")
    if importlib.util.find_spec(wanted) is None:
        raise KdflowError(
            f"KERAS_BACKEND: expected an installed backend, got {wanted}, which is not installed;"
            f" unset the variable for TensorFlow, or install {wanted}"
        )


def exit_status(name: str, action: Callable[[], object]) -> int:
    """Run a command's work; returns the status to exit with: 1 after an error that the user can
    fix, which is printed as one line, and 130 after an interrupt."""
    project_run = os.environ.get("MLFLOW_RUN_ID")  # opened by `mlflow run`; joining it unsets this
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log file is read live
    interrupts.end_on_signals()
    try:
        check_backend()
        action()
    except KdflowError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if project_run:
            interrupts.correct_status_later(project_run)
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0
