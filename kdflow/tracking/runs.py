"""Open runs, resume them, and end them with the right status."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.tracking.run import FAILED, KILLED, RUNNING, Run


@dataclass(frozen=True)
class _Outer:
    """The run that the next one is opened inside, and the tags that the next one carries."""

    run_id: str
    experiment_id: str
    tags: Mapping[str, str]


_OUTER: ContextVar[_Outer | None] = ContextVar("outer", default=None)


@contextlib.contextmanager
def open_run(
    name: str, step: str, dataset: Dataset, tags: Mapping[str, str], *, parent: str | None = None
) -> Iterator[Run]:
    """A run that is open inside the block. It ends with its `status`, as KILLED on an interrupt, or
    as FAILED on any other exception.

    The first run of the process joins the one that `mlflow run` opened, if it did.

    Args:
        parent: the id of the run that it is a child of. Without one, a run opened inside another is
            a run of its own, tagged with the other as `kdflow.asked_by`.
    """
    tags = {"kdflow.step": step, "kdflow.dataset_digest": dataset.digest, **tags}
    outer = _OUTER.get() or _active()
    if outer is None:
        run_id = _start_run(name, tags)
    else:
        related = {"mlflow.parentRunId": parent} if parent else {"kdflow.asked_by": outer.run_id}
        created = mlflow.MlflowClient().create_run(
            outer.experiment_id,
            tags=resolve_tags({**tags, **related, **outer.tags}),
            run_name=name,
        )
        run_id = created.info.run_id
        mlflow.start_run(run_id=run_id, nested=True)
    with _until_ended(Run(run_id)) as run:
        _log_dataset(dataset)
        yield run


@contextlib.contextmanager
def reopened(run_id: str) -> Iterator[Run]:
    """An earlier run, open again inside the block; it ends as one of `open_run` does."""
    mlflow.start_run(run_id=run_id, nested=True)
    with _until_ended(Run(run_id)) as run:
        yield run


@contextlib.contextmanager
def resumed(run_id: str, parent: str | None) -> Iterator[Run]:
    """The run of an interrupted step, open again inside the block; see `open_run`."""
    client = mlflow.MlflowClient()
    logged = {
        name: max(metric.step for metric in client.get_metric_history(run_id, name))
        for name in client.get_run(run_id).data.metrics
    }
    mlflow.start_run(run_id=run_id, nested=True)
    if parent:
        client.set_tag(run_id, "mlflow.parentRunId", parent)
    with _until_ended(Run(run_id, logged)) as run:
        yield run


@contextlib.contextmanager
def inside(run_id: str, tags: Mapping[str, str]) -> Iterator[None]:
    """A run that is opened directly in the block is opened inside `run_id`, which this process or
    another one has open, and carries `tags` from the start."""
    experiment = mlflow.get_run(run_id).info.experiment_id
    token = _OUTER.set(_Outer(run_id, experiment, tags))
    try:
        yield
    finally:
        _OUTER.reset(token)


@contextlib.contextmanager
def _until_ended(run: Run) -> Iterator[Run]:
    token = _OUTER.set(None)  # what is opened from here on is inside this run
    status = FAILED
    try:
        yield run
        status = run.status
    except KeyboardInterrupt:
        status = KILLED
        raise
    finally:
        _OUTER.reset(token)
        mlflow.end_run(status)


def _active() -> _Outer | None:
    run = mlflow.active_run()
    return _Outer(run.info.run_id, run.info.experiment_id, {}) if run else None


def _start_run(name: str, tags: dict[str, str]) -> str:
    """The id of a new run, or of the one that MLFLOW_RUN_ID names, as the active one."""
    try:
        return str(mlflow.start_run(run_name=name, tags=tags).info.run_id)
    except MlflowException as error:  # MLFLOW_RUN_ID or an experiment's name may lead nowhere
        raise KdflowError(f"tracking store: no run can be opened: {error}") from error


def end_killed(run_id: str) -> None:
    """End a run whose process has died."""
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.status == RUNNING:
        client.set_terminated(run_id, KILLED)


def joins_project_run() -> bool:
    """Whether the next run is the one that `mlflow run` has opened."""
    return "MLFLOW_RUN_ID" in os.environ


def label_project_run(title: str) -> None:
    """Label the run that `mlflow run` opened for a plan, if it did: nothing else is logged to
    it."""
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        client = mlflow.MlflowClient()
        client.set_tag(run_id, "mlflow.runName", f"plan of {title}")
        client.set_tag(run_id, "kdflow.plan_only", "true")


def _log_dataset(dataset: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integer columns "may have missing values": these don't
        described = mlflow.data.from_numpy(
            dataset.x_train,
            targets=dataset.y_train,
            name=Path(dataset.name).name,
            digest=dataset.digest[:36],
        )
    mlflow.log_input(described, context="training")


def end_abandoned(parent: str, tags: Mapping[str, str]) -> None:
    """Mark FAILED the children of `parent` that carry `tags` and are RUNNING although their process
    has ended, and what they had open themselves."""
    client = mlflow.MlflowClient()
    running = client.search_runs(
        [client.get_run(parent).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'",
    )
    for run in running:
        if tags.items() <= run.data.tags.items():
            end_abandoned(run.info.run_id, {})
            client.set_terminated(run.info.run_id, FAILED)


def correct_to_killed(run_id: str, patience: float = 60) -> None:
    """Wait until the run is marked FAILED, and set it to KILLED.

    Args:
        patience: seconds after which it is left as it is.
    """
    client = mlflow.MlflowClient()
    give_up = time.monotonic() + patience
    while client.get_run(run_id).info.status != FAILED:
        if time.monotonic() > give_up:
            return
        time.sleep(0.1)
    client.set_terminated(run_id, KILLED)
