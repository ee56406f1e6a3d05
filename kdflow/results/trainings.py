"""Trainings that are compared with others."""

from typing import Any

from kdflow.dataset import Dataset
from kdflow.errors import UnfitError
from kdflow.needs import Lookup, Need, Training
from kdflow.results.records import StepResult, current_model, remark
from kdflow.tracking.find import FoundRun
from kdflow.tracking.models import class_names_of

COMPARED = ("baseline", "distill")  # a hint run is verified by content, whatever code made it


def named(need: Training, dataset: Dataset) -> None:
    """No path names a training."""


def candidates(need: Training, lookup: Lookup) -> list[FoundRun]:
    """The runs with its key that may be compared."""
    values = dict(need.values)
    results = {k: lookup.plan(v).result for k, v in values.items() if isinstance(v, Need)}
    if None in results.values():
        return []  # it learns from a run that has yet to be made
    values |= {key: result.source for key, result in results.items()}
    if need.step in COMPARED:
        return lookup.same_code_runs(need.step, values)
    return lookup.same_runs(need.step, values)


def verified(need: Training, run: FoundRun, dataset: Dataset) -> StepResult:
    """The figures of a run, after a check that its model is intact, computes what its network
    computes now, and has the names of the classes."""
    values = dict(need.values)  # a user's own network may have been elsewhere then
    trained = values.get("student") or values.get("arch") or run.params["student"]
    current_model(run, str(trained), dataset)
    if (names := class_names_of(run)) and names != dataset.class_names:
        raise UnfitError(
            f"run {run.run_id}: expected the class names {', '.join(dataset.class_names)}, got"
            f" {', '.join(names)}"
        )
    return StepResult(run.run_id, run.metrics, run.tags["mlflow.runName"], remark(run))


def made_by(need: Training, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """The step and its parameters."""
    return need.step, dict(need.values)
