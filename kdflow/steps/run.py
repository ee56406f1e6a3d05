"""Run a step that a user asked for: load the data, plan, show the plan, carry it out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdflow.artifacts import checkpoints
from kdflow.catalogue.datasets import find_dataset
from kdflow.config.base import Config, validated
from kdflow.config.deploy import DeployConfig
from kdflow.dataset import Dataset, split
from kdflow.errors import KdflowError
from kdflow.needs import Step
from kdflow.reuse import Resolver
from kdflow.steps import STEPS, plan
from kdflow.steps.bundled import BUNDLED
from kdflow.steps.estimate import duration_estimator
from kdflow.tags import upstream_tag
from kdflow.tracking import runs, saved_views, store
from kdflow.tracking.find import get_run
from kdflow.tracking.sync import deliver_left_over

ALL_STEPS: dict[str, Step] = {**STEPS, "bundled": BUNDLED}


def load(name: str, holdout: float, options: Mapping[str, Any] | None = None) -> Dataset:
    """The images that a step works on, which can be split as asked.

    Args:
        options: see `Config.dataset_options`.

    Raises:
        KdflowError: they cannot be loaded, or are too few for the holdout.
    """
    record = find_dataset(name)
    if record is None:
        raise KdflowError(f"dataset: expected a data set of the catalogue, got {name!r}")
    options = options or {}
    dataset = replace(record.load(name, **options), options=options)
    split(dataset.y_train, holdout)
    return dataset


def _deploy(run_id: str, asked: Config, resolver: Resolver) -> None:
    """Deploy the student of a run, as a child of it; of `main`, the student that had hints."""
    trained = get_run(run_id)
    student = run_id if trained.step == "distill" else trained.tags[upstream_tag("hint_kd")]
    resolver.parent = run_id
    with runs.inside(run_id, {}):
        resolver.make(resolver.plan_step("deploy", _deployment(asked, resolver.dataset, student)))


def _deployment(asked: Config, dataset: Dataset, student: str) -> DeployConfig:
    """How the student of a step with `deploy=true` is deployed."""
    values = {**dataset.parameters, "holdout": asked.holdout, "model": student}
    return validated(DeployConfig, values)


def run_step(name: str, config: Config) -> str | None:
    """Run a step, and say how to see the result; returns the id of its run, or None if only the
    plan was asked for."""
    store.open_store()
    deliver_left_over()
    checkpoints.remove_old()
    dataset = load(config.dataset, config.holdout, config.dataset_options)
    reuse = getattr(config, "reuse", "same_code")
    resolver = Resolver(ALL_STEPS, dataset, reuse, config.resume)
    planned = resolver.plan_step(name, config)
    deploys = getattr(config, "deploy", False)
    if deploys:  # what can be refused before the training is
        ALL_STEPS["deploy"].check(_deployment(config, dataset, "auto"), dataset, {})
    print("plan:", *plan.lines(resolver, [planned], duration_estimator(dataset)), sep="\n")
    if deploys:
        print("  run     deploy the student of that run")
    if config.plan_only:
        runs.label_project_run(planned.title)
        return None
    run_id, _ = resolver.make(planned)
    if deploys:
        _deploy(run_id, config, resolver)
    print(f"run {run_id}; all runs: {saved_views.link_or_command(runs.experiment_of(run_id))}")
    return run_id
