"""The command line of the studies: python -m sweeps <study> --trials 40 --dataset digits ..."""

from typing import Any

from pydantic import ValidationError

from kdflow.cli.arguments import OneLineParser, add_flags
from kdflow.cli.process import exit_status, leave
from kdflow.config.base import first_problem
from kdflow.errors import KdflowError
from kdflow.quiet import native_output_suppressed
from kdflow.steps.distill import DistillConfig
from sweeps.driver import control
from sweeps.driver.config import FIXED_FIELDS, SweepConfig, trial_config
from sweeps.driver.study import Study, load, names


def build_parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m sweeps",
        description="Search parameters of `distill` on cached logits, and compare the best settings"
        " with training from labels alone.",
        allow_abbrev=False,
    )
    parser.add_argument("study", help=", ".join(names()))
    add_flags(
        parser.add_argument_group("the sweep"),
        SweepConfig,
        depends_on="the study",
        without=("study",),
    )
    add_flags(
        parser.add_argument_group("every trial, see python -m kdflow distill --help"),
        DistillConfig,
        depends_on="the data set and the network",
        without=FIXED_FIELDS,
    )
    return parser


def parse(argv: list[str] | None) -> tuple[SweepConfig, Study, DistillConfig]:
    """The sweep's config, its study, and what all trials have in common; exits with status 2 if an
    argument is invalid."""
    parser = build_parser()
    values: dict[str, Any] = vars(parser.parse_args(argv))
    given = {name: values.pop(name) for name in DistillConfig.model_fields if name in values}
    try:
        study = load(values["study"])
        config = SweepConfig(**{"trials": study.trials, **values})
        base = trial_config(study, given)
        if config.control == "searched":
            control.baseline_study(study)  # refuses one without a parameter of the baseline
        return config, study, base
    except ValidationError as error:
        parser.exit(2, f"sweeps: {first_problem(error)}\n")
    except KdflowError as error:
        parser.exit(2, f"sweeps: {error}\n")


def main(argv: list[str] | None = None) -> int:
    config, study, base = parse(argv)

    def run() -> None:
        with native_output_suppressed(shown_if_it_fails=True):
            from kdflow.tracking import runs, saved_views
            from sweeps.driver import sweep  # Keras and MLflow, only once the input is valid

        run_id = sweep.run(config, study, base)
        if run_id:
            print(
                f"run {run_id}; all runs: {saved_views.link_or_command(runs.experiment_of(run_id))}"
            )

    return exit_status("sweeps", run, resumes=True, shows_traceback=base.traceback)


if __name__ == "__main__":
    leave(main())
