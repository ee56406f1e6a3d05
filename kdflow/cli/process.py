"""What a command's process does around its work: output, signals, the exit status."""

import gc
import io
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from kdflow import interrupts
from kdflow.errors import KdflowError, reason, without_passwords

BACKENDS = ("tensorflow", "jax")

# Exceptions of these packages, and of the operating system, have a cause outside kdflow.
OUTSIDE = {"alembic", "boto3", "botocore", "mlflow", "optuna", "psycopg", "ray", "sqlalchemy"}


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


def exit_status(
    name: str,
    action: Callable[[], object],
    *,
    resumes: bool = False,
    shows_traceback: bool = False,
) -> int:
    """Run a command's work; returns the status to exit with: 1 after an error, which is one line
    where the user can fix it, and 130 after an interrupt.

    Args:
        resumes: whether the same command, run again, resumes an interrupted one.
        shows_traceback: show where the error was raised, too.
    """
    project_run = os.environ.get("MLFLOW_RUN_ID")  # opened by `mlflow run`; joining it unsets this
    _ignore_output_errors()
    interrupts.end_on_signals(in_mlflow_run=project_run is not None)
    try:
        check_backend()
        action()
    except KeyboardInterrupt:
        if project_run:
            _correct_status_later(project_run, _finished(project_run) or "KILLED")
        what_next = "; the same command resumes it" if resumes else ""
        print(f"{name}: interrupted{what_next}", file=sys.stderr)
        return 130
    except Exception as error:
        if project_run and (status := _finished(project_run)):
            _correct_status_later(project_run, status)
        in_one_line = isinstance(error, KdflowError) or _is_outside(error)
        if shows_traceback or not in_one_line:
            print(without_passwords(traceback.format_exc()), file=sys.stderr, end="")
        if in_one_line:
            kind = "" if isinstance(error, KdflowError) else f"{type(error).__name__}: "
            print(f"{name}: {kind}{reason(error)}", file=sys.stderr)
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """End the process, without the collection of garbage that takes Python seconds once TensorFlow
    is loaded."""
    gc.freeze()
    sys.exit(status)


def _is_outside(error: Exception) -> bool:
    """Whether a disk, a database or a server caused an error."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, (OSError, MemoryError)) or bool(packages & OUTSIDE)


def _finished(run_id: str) -> str:
    """FINISHED if this process has finished that run, and something after it has failed, such as
    the deployment of its student; else empty."""
    runs = sys.modules.get("kdflow.tracking.runs")
    return "FINISHED" if runs and run_id in runs.FINISHED_HERE else ""


def _correct_status_later(run_id: str, status: str) -> None:
    """Start a process that outlives this one and corrects the status that `mlflow run` will give
    its run."""
    subprocess.Popen(
        [sys.executable, "-m", "kdflow.tracking.corrected", run_id, status],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class _Output(io.FileIO):
    """A file descriptor that discards what cannot be written: to a closed pipe or terminal."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _ignore_output_errors() -> None:
    """Let no print end the process, where its output is closed or its encoding is ASCII; write
    lines as they are printed, as a log file is read live."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # `>&-`: it is closed, and the next file that is opened would get it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):  # of a notebook, or of a test
            continue
        if stream is None:  # `>&-`: the descriptor is closed
            setattr(sys, name, io.StringIO())
            continue
        stream.flush()
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(_Output(stream.fileno(), "wb", closefd=False)),
                stream.encoding,
                "backslashreplace",
                line_buffering=True,
            ),
        )
