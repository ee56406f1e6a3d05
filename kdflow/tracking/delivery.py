"""Deliver what journals hold to the tracking store, in a thread: a store that does not answer stops
no training. An entry is in the store once, even if it is delivered twice. Heartbeats have a thread
of their own, since the upload of a large model can take longer than a run without them is thought
alive."""

import shutil
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import mlflow
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelStatus,
    Metric,
    Param,
    RunStatus,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.time import get_current_time_millis
from tqdm import tqdm

from kdflow.errors import reason
from kdflow.tags import ENDED_TAG, HEARTBEAT_TAG, HOST_TAG
from kdflow.tracking import store
from kdflow.tracking.journal import Entry, Journal

HEARTBEAT_EVERY = 60  # seconds
RETRY_FIRST_AFTER, RETRY_AT_MOST_EVERY = 1, 15  # seconds


class Delivery:
    """A queue of entries of all journals of this process, the thread that delivers them, and the
    one that sends the heartbeats of their runs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[tuple[Journal, Entry]] = deque()
        self._open: list[Journal] = []
        self._threads: list[threading.Thread] = []
        self._fault = ""  # what a store that does not take the next entry does
        self._given_up = False

    def put(self, journal: Journal, entry: Entry) -> None:
        """Deliver an entry after those that were put before it."""
        with self._changed:
            self._queue.append((journal, entry))
            self._changed.notify_all()
        if not self._threads:
            for work, name in ((self._work, "delivery"), (self._beat, "heartbeats")):
                self._threads.append(threading.Thread(target=work, name=name, daemon=True))
                self._threads[-1].start()

    def begin(self, journal: Journal) -> None:
        """Send the heartbeat of a journal's run until the journal ends."""
        with self._changed:
            self._open.append(journal)

    def end(self, journal: Journal, *, is_whole: bool) -> None:
        """Send no more heartbeats of a journal's run, and close the journal if it is whole. One
        without its last entry stays, so that a later command ends the run."""
        with self._changed:
            self._open.remove(journal)
            if is_whole:
                journal.close()

    def wait(self, journal: Journal, patience: float, *, counts_all: bool = True) -> bool:
        """Wait until the store has all of a journal; returns whether it has.

        Args:
            patience: seconds.
            counts_all: whether the time of a slow upload counts, or only that in which the store
                does not answer.
        """

        def has_all() -> bool:
            return all(queued is not journal for queued, _ in self._queue)

        waited = 0.0
        with self._changed:
            while not has_all():
                counts = counts_all or bool(self._fault)
                if self._given_up or (counts and waited >= patience):
                    return False
                before = time.monotonic()
                self._changed.wait(min(1.0, patience - waited) if counts else 1.0)
                if counts:
                    waited += time.monotonic() - before
            return True

    def give_up(self) -> str:
        """Let no other run of this process wait, until the store answers again; returns what the
        store does."""
        self._given_up = True
        return self._fault or f"{store.address()} has not taken everything yet"

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                journal, entry = self._queue[0]
            self._deliver(journal, entry)
            with self._changed:
                self._queue.popleft()
                self._given_up = False
                journal.set_delivered(entry)
                self._changed.notify_all()

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_EVERY)
            with self._changed:
                beating = list(self._open)
            for journal in beating:
                _send_heartbeat(journal)

    def _deliver(self, journal: Journal, entry: Entry) -> None:
        pause = float(RETRY_FIRST_AFTER)
        while True:
            try:
                deliver(journal, entry)
                break
            except Exception as error:  # what an unreachable server raises depends on the store
                if not store.is_unreachable(error):
                    journal.rejected = textwrap.shorten(reason(error), 200)
                    break
                was_reachable, self._fault = not self._fault, store.what_it_does(error)
                if was_reachable:
                    tqdm.write(
                        f"tracking store: {self._fault}; the run goes on, and what it logs is kept"
                        f" in {journal.folder}"
                    )
            time.sleep(pause)
            pause = min(2 * pause, RETRY_AT_MOST_EVERY)
        if self._fault:
            self._fault = ""
            tqdm.write(f"tracking store: {store.address()} answers again")


DELIVERY = Delivery()


def deliver(journal: Journal, entry: Entry) -> None:
    """Deliver an entry to the tracking store. What the store raises, this raises.

    An entry that is refused is delivered again, once: between MLflow's look whether a row exists
    and its insertion, another process may have inserted the same one, such as a data set.
    """
    try:
        DELIVER[entry.kind](journal, entry)
    except MlflowException as error:
        if store.is_unreachable(error):
            raise
        DELIVER[entry.kind](journal, entry)


def _metrics(journal: Journal, entry: Entry) -> None:
    step, timestamp = entry.content["step"], entry.content["timestamp"]
    metrics = [
        Metric(name, value, timestamp, step) for name, value in entry.content["values"].items()
    ]
    mlflow.MlflowClient().log_batch(journal.opened.run_id, metrics=metrics)


def _params(journal: Journal, entry: Entry) -> None:
    """Those that `mlflow run` has logged already stay as they are."""
    client = mlflow.MlflowClient()
    logged = client.get_run(journal.opened.run_id).data.params
    params = [Param(*pair) for pair in entry.content.items() if pair[0] not in logged]
    client.log_batch(journal.opened.run_id, params=params)


def _tags(journal: Journal, entry: Entry) -> None:
    if ENDED_TAG in entry.content and is_taken_over(journal):
        return
    tags = [RunTag(*pair) for pair in entry.content.items()]
    mlflow.MlflowClient().log_batch(journal.opened.run_id, tags=tags)


def _dataset(journal: Journal, entry: Entry) -> None:
    logged = DatasetInput(Dataset(**entry.content), [InputTag("mlflow.data.context", "training")])
    mlflow.MlflowClient().log_inputs(journal.opened.run_id, [logged])


def _files(journal: Journal, entry: Entry) -> None:
    mlflow.MlflowClient().log_artifacts(
        journal.opened.run_id, str(journal.files(entry.number)), entry.content["folder"]
    )


def _model(journal: Journal, entry: Entry) -> None:
    """A model that was saved as an MLflow model. One that was delivered in part is deleted."""
    client, name = mlflow.MlflowClient(), entry.content["name"]
    run = client.get_run(journal.opened.run_id)
    experiment, run_id = run.info.experiment_id, run.info.run_id
    for logged in store.logged_models(experiment, run_id, name):
        if logged.status == LoggedModelStatus.READY:
            return
        client.delete_logged_model(logged.model_id)
    created = client.create_logged_model(
        experiment, name, run_id, params=run.data.params, tags=resolve_tags()
    )
    saved = journal.files(entry.number)
    Model.log(None, _Saved, model_id=created.model_id, run_id=run_id, saved=saved)


class _Saved:
    """What `Model.log` takes for a flavor: it saves a model by copying one that was saved."""

    @staticmethod
    def save_model(path: str, mlflow_model: Model, saved: Path) -> None:
        shutil.copytree(saved, path)
        stored = Model.load(str(saved))
        mlflow_model.flavors, mlflow_model.signature = stored.flavors, stored.signature
        mlflow_model.model_size_bytes = stored.model_size_bytes
        mlflow_model.metadata = stored.metadata
        mlflow_model.save(str(Path(path) / "MLmodel"))


def _status(journal: Journal, entry: Entry) -> None:
    """A finished run of which the store has refused something has failed: it lacks a result. Only
    the machine that opened the run last sets its status."""
    if is_taken_over(journal):
        return
    status, ended_at = entry.content["status"], entry.content["timestamp"]
    if journal.rejected and status == RunStatus.to_string(RunStatus.FINISHED):
        status = RunStatus.to_string(RunStatus.FAILED)
    mlflow.MlflowClient().set_terminated(journal.opened.run_id, status, ended_at)


DELIVER: dict[str, Callable[[Journal, Entry], None]] = {
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "dataset": _dataset,
    "files": _files,
    "model": _model,
    "status": _status,
}


def is_taken_over(journal: Journal) -> bool:
    """Whether another machine has opened the run since, and ends it."""
    opened = journal.opened
    host = mlflow.MlflowClient().get_run(opened.run_id).data.tags.get(HOST_TAG, opened.host)
    return bool(opened.host) and host != opened.host


def _send_heartbeat(journal: Journal) -> None:
    now = str(get_current_time_millis())
    try:
        mlflow.MlflowClient().set_tag(journal.opened.run_id, HEARTBEAT_TAG, now)
    except Exception:  # the next entry shows whether the store answers
        return
