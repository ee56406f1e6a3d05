"""Trainings that are compared with others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdflow.dataset import Dataset
from kdflow.needs import Need, Training
from kdflow.results.records import StepResult, current_model
from kdflow.tracking.find import FoundRun

if TYPE_CHECKING:
    from kdflow.reuse import Resolver

COMPARED = ("baseline", "distill")  # a hint run is verified by content, whatever code made it


def named(need: Training, dataset: Dataset) -> None:
    """No path names a training."""


def candidates(need: Training, resolver: Resolver) -> list[FoundRun]:
    """The runs with its key that may be compared."""
    values = dict(need.values)
    later = {key: resolver.plan(value) for key, value in values.items() if isinstance(value, Need)}
    if any(planned.result is None for planned in later.values()):
        return []  # it learns from a run that has yet to be made
    ids = {key: planned.result.source for key, planned in later.items()}
    config = resolver.steps[need.step].config(**values | ids)
    if need.step in COMPARED:
        return resolver.same_code_runs(need.step, config)
    return resolver.same_runs(need.step, config)


def opened(need: Training, run: FoundRun, dataset: Dataset) -> StepResult:
    """The figures of a run whose model is sound and computes what its network computes now."""
    current_model(run, run.params.get("student") or run.params["arch"], dataset)
    return StepResult(run.run_id, run.metrics, run.tags["mlflow.runName"])


def made_by(need: Training, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """The step and its parameters."""
    return need.step, dict(need.values)
