"""The command line: arguments -> config -> step."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn

from pydantic import ValidationError

from kdflow import interrupts
from kdflow.config import STEPS, Config, canonical, first_problem
from kdflow.errors import KdflowError


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """One sub-command per step, one flag per field of its config."""
    parser = OneLineParser(prog="python -m kdflow", description="Knowledge distillation on MLflow.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="step")
    for name, config in STEPS.items():
        step = steps.add_parser(
            name, help=config.__doc__, description=config.__doc__, allow_abbrev=False
        )
        for field, info in config.model_fields.items():
            default = "depends on the data set" if info.is_required() else canonical(info.default)
            step.add_argument(
                f"--{field}",
                default=argparse.SUPPRESS,
                metavar="VALUE",
                help=f"{info.description} (default: {default})".replace("%", "%%"),
            )
    return parser


def parse(argv: list[str] | None) -> tuple[str, Config]:
    """The step asked for and its validated config; exits with status 2 on what it refuses."""
    parser = build_parser()
    values: dict[str, Any] = vars(parser.parse_args(argv))
    step = values.pop("step")
    try:
        return step, STEPS[step](**values)
    except ValidationError as error:
        parser.exit(2, f"kdflow {step}: {first_problem(error)}\n")


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


def main(argv: list[str] | None = None) -> int:
    step, config = parse(argv)
    project_run = os.environ.get("MLFLOW_RUN_ID")  # opened by `mlflow run`; joining it unsets this
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log file is read live
    interrupts.end_on_signals()
    try:
        with loading_quietly():
            from kdflow.steps import run_step  # Keras and MLflow, only once the input is valid

        run_step(step, config)
    except KdflowError as error:
        print(f"kdflow {step}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if project_run:
            interrupts.correct_status_later(project_run)
        print(f"kdflow {step}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
