"""The command line: arguments -> config -> step."""

from typing import Any

from pydantic import ValidationError

from kdflow.cli.arguments import OneLineParser, add_flags
from kdflow.cli.process import exit_status, leave
from kdflow.commands import COMMANDS
from kdflow.commands.command import CommandConfig
from kdflow.config.base import Config, first_problem
from kdflow.quiet import native_output_suppressed
from kdflow.steps import STEPS

CONFIGS: dict[str, type[Config] | type[CommandConfig]] = {
    **{name: step.config for name, step in STEPS.items()},
    **{name: command.config for name, command in COMMANDS.items()},
}


def build_parser() -> OneLineParser:
    """One sub-command per step and per command, one flag per field of its config."""
    parser = OneLineParser(prog="python -m kdflow", description="Knowledge distillation on MLflow.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="step")
    for name, config in CONFIGS.items():
        words = config.__doc__
        command = steps.add_parser(name, help=words, description=words, allow_abbrev=False)
        depends_on = "the data set and the network" if issubclass(config, Config) else None
        add_flags(command, config, depends_on=depends_on)
    return parser


def parse(argv: list[str] | None) -> tuple[str, Config | CommandConfig]:
    """The step or command asked for and its validated config; exits with status 2 on what it
    refuses."""
    parser = build_parser()
    values: dict[str, Any] = vars(parser.parse_args(argv))
    step = values.pop("step")
    try:
        return step, CONFIGS[step](**values)
    except ValidationError as error:
        parser.exit(2, f"kdflow {step}: {first_problem(error)}\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    step, config = parse(argv)

    def run() -> None:
        with native_output_suppressed(shown_if_it_fails=True):
            from kdflow.steps.run import run_step  # Keras and MLflow, only for valid input

        if isinstance(config, CommandConfig):
            COMMANDS[step].run(config)
        else:
            run_step(step, config)

    return exit_status(
        f"kdflow {step}",
        run,
        resumes=not isinstance(config, CommandConfig),
        shows_traceback=config.traceback,
    )


if __name__ == "__main__":
    leave(main())
