"""Find what earlier runs made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import LifecycleStage, ViewType
from mlflow.entities import Run as StoredRun
from mlflow.tracking.context.registry import resolve_tags

from kdflow.config.views import ONE_VIEW, Views
from kdflow.errors import KdflowError, UnfitError
from kdflow.model_file import OWN_MODEL
from kdflow.tags import CODE_TAG, DATASET_DIGEST_TAG, STEP_TAG
from kdflow.tracking.run import FINISHED
from kdflow.tracking.store import address, with_retries

MODELS = f"auto, a network's name, a run id, {OWN_MODEL}"
TEACHERS = f"{MODELS}, or a folder of logits"


@dataclass(frozen=True)
class FoundRun:
    """A finished run of this project."""

    run_id: str
    experiment_id: str
    step: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    artifact_uri: str
    ended_at: int  # milliseconds since 1970

    @property
    def holdout(self) -> float:
        """The share of the training images that it kept for validation."""
        return float(self.params["holdout"])

    @property
    def views(self) -> Views:
        """Those that an export holds, or that a student was shown. Their number is logged as text,
        which may be `2.0`."""
        count = int(float(self.params.get("views", 1)))
        return Views(count, self.params.get("view_set", ONE_VIEW.view_set))

    @property
    def dataset_digest(self) -> str:
        """The SHA-256 of its images and their labels."""
        return self.tags[DATASET_DIGEST_TAG]


def find_runs(tags: dict[str, str]) -> list[FoundRun]:
    """The finished runs with these tags that are not deleted, in any experiment, oldest first.

    Raises:
        UnreachableError: the store does not answer.
    """
    described = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    matching = " and ".join([*described, f"attributes.status = '{FINISHED}'"])
    return [_found(run) for run in with_retries("tracking store", lambda: search(matching))]


def search(matching: str, experiment_id: str | None = None) -> list[StoredRun]:
    """The runs that are not deleted, however many, oldest first. What an unreachable store raises,
    this raises.

    Args:
        matching: a filter in MLflow's words.
        experiment_id: where they are; None for any experiment that is not deleted.
    """
    experiments = [experiment_id] if experiment_id else _experiments()
    found: list[StoredRun] = mlflow.search_runs(  # a client's search ends after 1,000
        experiments,
        matching,
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return found


def _experiments() -> list[str]:
    """The ids of those that are not deleted."""
    found = mlflow.search_experiments(view_type=ViewType.ACTIVE_ONLY)
    return [each.experiment_id for each in found]


def get_run(run_id: str, expected: str = TEACHERS) -> FoundRun:
    """The finished run of this project called `run_id`.

    Args:
        expected: all that could have been named, for the message.

    Raises:
        KdflowError: there is none, it is deleted, it is not FINISHED, or no step of this project
            made it.
        UnreachableError: the store does not answer.
    """
    run = _stored(run_id)
    if run is None:
        raise KdflowError(
            f"expected {expected}; got {run_id!r}, and {address()} has no such run (relative paths"
            f" start in {Path.cwd()})"
        )
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise KdflowError(f"expected a run that is not deleted, got {run_id}, which is deleted")
    if run.info.status != FINISHED:
        raise KdflowError(f"expected a FINISHED run, got {run_id}, which is {run.info.status}")
    if STEP_TAG not in run.data.tags:
        raise KdflowError(f"expected a run of kdflow, got {run_id}, which has no kdflow.step tag")
    return _found(run)


def exists(run_id: str) -> bool:
    """Whether the store has a run of this id that is not deleted.

    Raises:
        UnreachableError: the store does not answer.
    """
    return _not_deleted(run_id) is not None


def is_unfinished(run_id: str) -> bool:
    """Whether the store has a run of this id that is neither deleted nor FINISHED.

    Raises:
        UnreachableError: the store does not answer.
    """
    run = _not_deleted(run_id)
    return run is not None and run.info.status != FINISHED


def _not_deleted(run_id: str) -> StoredRun | None:
    run = _stored(run_id)
    return run if run and run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def _stored(run_id: str) -> StoredRun | None:
    try:
        return with_retries(f"run {run_id}", lambda: mlflow.get_run(run_id))
    except UnfitError:
        return None


def other_code(run: FoundRun, code_sha256: str) -> str:
    """A remark on the code that made `run`, empty if it is what runs now: the git commit, or that
    the code has been edited since."""
    made_by, running = (tags.get("mlflow.source.git.commit") for tags in (run.tags, resolve_tags()))
    if made_by and running and made_by != running:
        return f" (made by commit {made_by[:8]}; this is {running[:8]})"
    if run.tags.get(CODE_TAG, code_sha256) != code_sha256:
        return " (made by kdflow before it was edited)"
    return ""


def _found(run: StoredRun) -> FoundRun:
    data = run.data
    return FoundRun(
        run.info.run_id,
        run.info.experiment_id,
        data.tags[STEP_TAG],
        data.params,
        data.tags,
        data.metrics,
        run.info.artifact_uri,
        run.info.end_time,
    )
