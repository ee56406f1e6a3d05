"""The command line: arguments -> config -> step."""

import argparse
import os
import signal
import subprocess
import sys
from typing import Any, NoReturn

from pydantic import ValidationError

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


def interrupt(*_: object) -> None:
    """End as on Ctrl-C, once: `mlflow run` sends SIGTERM after the terminal's own SIGINT."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def correct_status_later(run_id: str) -> None:
    """Start the process that makes an interrupted `mlflow run` KILLED: once this one has ended,
    MLflow 3.17 marks it FAILED, whatever its status is by then."""
    subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from kdflow import tracking; tracking.correct_to_killed('{run_id}')",
        ],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main(argv: list[str] | None = None) -> int:
    step, config = parse(argv)
    project_run = os.environ.get("MLFLOW_RUN_ID")  # opened by `mlflow run`; joining it unsets this
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log file is read live
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        from kdflow.steps import run_step  # Keras and MLflow load only once the input is valid

        run_step(step, config)
    except KdflowError as error:
        print(f"kdflow {step}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if project_run:
            correct_status_later(project_run)
        print(f"kdflow {step}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
