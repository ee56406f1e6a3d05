"""What the command lines of kdflow and of its sweeps share."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NoReturn

from pydantic import BaseModel

from kdflow import interrupts
from kdflow.config import canonical
from kdflow.errors import KdflowError


class OneLineParser(argparse.ArgumentParser):
    """Errors are one line, which names the sub-command that does not understand."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:  # a sub-command's parser would leave them to the one above
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    config: type[BaseModel],
    *,
    depends_on: str,
    without: tuple[str, ...] = (),
) -> None:
    """A flag for each field of `config`; one that is not given leaves no value.

    Args:
        depends_on: what decides on the fields without a default, in words.
        without: fields that get no flag.
    """
    for field, info in config.model_fields.items():
        if field not in without:
            default = f"depends on {depends_on}" if info.is_required() else canonical(info.default)
            parser.add_argument(
                f"--{field}",
                default=argparse.SUPPRESS,
                metavar="VALUE",
                help=f"{info.description} (default: {default})".replace("%", "%%"),
            )


@contextlib.contextmanager
def loading_quietly() -> Iterator[None]:
    """Hold back what native libraries write to stderr as they load, unless loading fails:
    TensorFlow greets with six lines that no setting silences."""
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def exit_status(name: str, action: Callable[[], object]) -> int:
    """Run what a command line asks for; returns the status to exit with, 1 after an error that the
    user can mend, which is told in one line, and 130 after an interrupt."""
    project_run = os.environ.get("MLFLOW_RUN_ID")  # opened by `mlflow run`; joining it unsets this
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log file is read live
    interrupts.end_on_signals()
    try:
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
