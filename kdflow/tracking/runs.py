"""Open runs, resume them, and end them with the right status."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils import name_utils
from mlflow.utils.time import get_current_time_millis

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, NoRoomError, UnfitError, UnreachableError, reason
from kdflow.naming import run_name
from kdflow.tags import (
    ASKED_BY_TAG,
    DATASET_DIGEST_TAG,
    ENDED_TAG,
    HEARTBEAT_TAG,
    HOST_TAG,
    PARENT,
    PLAN_ONLY_TAG,
    STEP_TAG,
)
from kdflow.tracking import experiment, saved_views, store
from kdflow.tracking.run import FAILED, INTERRUPTED, RUNNING, Run

FINISHED_HERE: set[str] = set()  # the runs that this process has finished
FIRST_WAIT = 5  # seconds to wait for the store before a message is printed, or the process ends


@dataclass(frozen=True)
class _Outer:
    """The run that the next one is opened inside, and the tags that the next one carries."""

    run_id: str
    tags: Mapping[str, str]


_OUTER: ContextVar[_Outer | None] = ContextVar("outer", default=None)


@contextlib.contextmanager
def open_run(
    name: str, step: str, dataset: Dataset, tags: Mapping[str, str], *, parent: str | None = None
) -> Iterator[Run]:
    """A run that is open inside the block. It ends as FINISHED unless it is stopped there, as
    KILLED on an interrupt, or as FAILED on any other exception.

    The first run of the process joins the one that `mlflow run` opened, if it did.

    Args:
        parent: the id of the run that it is a child of. Without one, a run opened inside another is
            a run of its own, tagged with the other as `kdflow.asked_by`.

    Raises:
        UnreachableError: the store has stopped answering. What was logged is kept on disk.
    """
    tags = {
        STEP_TAG: step,
        DATASET_DIGEST_TAG: dataset.digest,
        HOST_TAG: socket.gethostname(),
        **tags,
    }
    outer = _OUTER.get() or _active()
    if outer is None:
        run_id = _joined(name, tags) or _created(experiment.chosen_id(), name, tags)
    else:
        related = {PARENT: parent} if parent else {ASKED_BY_TAG: outer.run_id}
        all_tags = {**tags, **related, **outer.tags}
        run_id = _created(experiment_of(outer.run_id), name, all_tags)
    with _until_ended(_with_journal(run_id)) as run:
        if outer is None:
            saved_views.add(experiment_of(run_id))
        run.log_dataset(dataset)
        yield run


@contextlib.contextmanager
def reopened(run_id: str) -> Iterator[Run]:
    """An earlier run, open again inside the block; it ends as one of `open_run` does."""
    _set_running(run_id)
    with _until_ended(_with_journal(run_id)) as run:
        yield run


@contextlib.contextmanager
def resumed(run_id: str, parent: str | None) -> Iterator[Run]:
    """The run of an interrupted step, open again inside the block; see `open_run`."""
    client = mlflow.MlflowClient()

    def last_steps() -> dict[str, int]:
        return {
            name: max(metric.step for metric in client.get_metric_history(run_id, name))
            for name in client.get_run(run_id).data.metrics
        }

    logged = store.with_retries(f"run {run_id}", last_steps)
    _set_running(run_id)
    with _until_ended(_with_journal(run_id, logged)) as run:
        if parent:
            run.set_tags({PARENT: parent})
        yield run


@contextlib.contextmanager
def joined(run_id: str) -> Iterator[Run]:
    """A run that another process has open, and ends. What is opened in the block is opened inside
    it."""
    with _until_ended(Run(run_id, ends_run=False)) as run:
        yield run


@contextlib.contextmanager
def inside(run_id: str, tags: Mapping[str, str]) -> Iterator[None]:
    """A run that is opened directly in the block is opened inside `run_id`, which this process or
    another one has open, and carries `tags` from the start."""
    token = _OUTER.set(_Outer(run_id, tags))
    try:
        yield
    finally:
        _OUTER.reset(token)


def _with_journal(run_id: str, logged: Mapping[str, int] | None = None) -> Run:
    """A run that the store has as RUNNING, for this process to log to. If the cache has no room for
    the run's journal, the run ends as FAILED."""
    try:
        return Run(run_id, logged)
    except BaseException:
        mlflow.MlflowClient().set_terminated(run_id, FAILED)
        raise


@contextlib.contextmanager
def _until_ended(run: Run) -> Iterator[Run]:
    try:
        with inside(run.run_id, {}), _system_metrics(run):
            yield run
    except BaseException as error:
        try:
            _end_early(run, error)
        except NoRoomError as full:
            print(reason(full), file=sys.stderr)
        raise
    if not run.end(FIRST_WAIT):
        print(
            f"tracking store: waiting for {store.address()}, at most {store.patience():.0f} s where"
            " it does not answer; Ctrl-C stops waiting, and `python -m kdflow sync` then delivers"
            " what the run logged"
        )
        if not run.wait(store.patience(), counts_all=False):
            raise UnreachableError(run.give_up())
    run.check()
    FINISHED_HERE.add(run.run_id)


def _end_early(run: Run, error: BaseException) -> None:
    """End the run that an error, or an interrupt, has ended."""
    try:
        if isinstance(error, KeyboardInterrupt):
            run.stop(INTERRUPTED)
        else:
            run.fail()
    finally:
        has_all = run.end(FIRST_WAIT)
    if not has_all:
        print(run.give_up(), file=sys.stderr)


@contextlib.contextmanager
def _system_metrics(run: Run) -> Iterator[None]:
    """What MLflow measures of the machine, if the user has switched that on."""
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _active() -> _Outer | None:
    """The run that the user has opened in this process."""
    run = mlflow.active_run()
    return _Outer(run.info.run_id, {}) if run else None


def experiment_of(run_id: str) -> str:
    """The id of a run's experiment."""
    run = store.with_retries(f"run {run_id}", lambda: mlflow.get_run(run_id))
    return str(run.info.experiment_id)


def _created(experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of a new run."""
    client, known = mlflow.MlflowClient(), resolve_tags(dict(tags))
    created = store.with_retries(
        "a new run", lambda: client.create_run(experiment_id, tags=known, run_name=name)
    )
    return str(created.info.run_id)


def _joined(name: str, tags: Mapping[str, str]) -> str | None:
    """The id of the run that `mlflow run` has opened, which takes these tags, and this name unless
    the user has given it one."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id is None:
        return None
    client = mlflow.MlflowClient()
    try:
        run = store.with_retries(f"MLFLOW_RUN_ID: run {run_id}", lambda: client.get_run(run_id))
    except UnfitError as error:
        raise KdflowError(f"tracking store: no run can be opened: {error}") from error
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise KdflowError(f"MLFLOW_RUN_ID: expected a run that is not deleted, got {run_id}")
    _set_running(run_id)
    for tag, value in {**_named(run.info.run_name, name), **tags}.items():
        client.set_tag(run_id, tag, value)
    return run_id


def _named(given: str | None, name: str) -> dict[str, str]:
    """The tag with a run's name; none if the user named it. MLflow's names are like bold-owl-12."""
    adjective, _, rest = (given or "").partition("-")
    is_random = (
        adjective in name_utils._GENERATOR_PREDICATES
        and rest.partition("-")[0] in name_utils._GENERATOR_NOUNS
    )
    return {"mlflow.runName": name} if is_random or not given else {}


def _set_running(run_id: str) -> None:
    """State that the run is open on this machine."""
    client = mlflow.MlflowClient()

    def set_running() -> None:
        client.update_run(run_id, status=RUNNING)
        client.set_tag(run_id, HOST_TAG, socket.gethostname())
        client.set_tag(run_id, HEARTBEAT_TAG, str(get_current_time_millis()))
        if ENDED_TAG in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, ENDED_TAG)

    store.with_retries(f"run {run_id}", set_running)


def joins_project_run() -> bool:
    """Whether the next run is the one that `mlflow run` has opened."""
    return "MLFLOW_RUN_ID" in os.environ


def label_project_run(title: str) -> None:
    """Label the run that `mlflow run` opened for a plan, if it did: nothing else is logged to
    it."""
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        client = mlflow.MlflowClient()
        named = _named(client.get_run(run_id).info.run_name, run_name("plan of", title))
        for tag, value in {**named, PLAN_ONLY_TAG: "true"}.items():
            client.set_tag(run_id, tag, value)
