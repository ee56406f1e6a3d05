"""End the runs of processes that have died."""

from collections.abc import Mapping

import mlflow
from mlflow.utils.time import get_current_time_millis

from kdflow.tags import ENDED_TAG, HEARTBEAT_TAG, HOST_TAG, PARENT
from kdflow.tracking.find import search
from kdflow.tracking.run import DIED, FAILED, KILLED, RUNNING

STALE_AFTER = 600  # seconds without a heartbeat


def end_killed(run_id: str) -> None:
    """End a run whose process has died."""
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.status == RUNNING:
        _end_as_died(run_id)


def _end_as_died(run_id: str) -> None:
    client = mlflow.MlflowClient()
    client.set_tag(run_id, ENDED_TAG, DIED)
    client.set_terminated(run_id, KILLED)


def end_stale_runs(host: str) -> list[str]:
    """Mark KILLED the runs of a host that are RUNNING and have sent no heartbeat for long; returns
    their ids."""
    running = search(f"tags.`{HOST_TAG}` = '{host}' and attributes.status = '{RUNNING}'")
    now = get_current_time_millis()
    stale = [
        run.info.run_id
        for run in running
        if now - int(run.data.tags.get(HEARTBEAT_TAG, run.info.start_time)) > STALE_AFTER * 1000
    ]
    for run_id in stale:
        _end_as_died(run_id)
    return stale


def end_abandoned(parent: str, tags: Mapping[str, str]) -> None:
    """Mark FAILED the children of `parent` that carry `tags` and are RUNNING although their process
    has ended, and what they had open themselves."""
    client = mlflow.MlflowClient()
    running = search(
        f"tags.`{PARENT}` = '{parent}' and attributes.status = '{RUNNING}'",
        client.get_run(parent).info.experiment_id,
    )
    for run in running:
        if tags.items() <= run.data.tags.items():
            end_abandoned(run.info.run_id, {})
            client.set_terminated(run.info.run_id, FAILED)
