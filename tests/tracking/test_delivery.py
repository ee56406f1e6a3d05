"""A store that goes away stops no run: what it logs is delivered later, in order and once."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import wait_for_it
from mlflow.entities import Run
from mlflow.exceptions import BAD_REQUEST, MlflowException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from mlflow.tracking._tracking_service.utils import _get_store

from kdflow.dataset import Dataset, Images
from kdflow.errors import KdflowError, UnreachableError
from kdflow.network import build, weights_sha256
from kdflow.tracking import artifacts, dead, delivery, find, journal, runs, store, sync
from kdflow.tracking import run as run_module
from kdflow.tracking.runs import open_run

pytestmark = pytest.mark.usefixtures("shared_store", "cache")

CALLS = ("log_batch", "log_artifacts", "log_inputs", "set_terminated", "create_logged_model")


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is set, the store takes nothing. It is cleared at the end."""
    event = threading.Event()

    def unless_away(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            if event.is_set():
                raise MlflowException("connection refused")
            return call(*given, **named)

        return called

    for name in CALLS:
        call = getattr(mlflow.MlflowClient, name)
        monkeypatch.setattr(mlflow.MlflowClient, name, unless_away(call))
    monkeypatch.setattr(delivery, "RETRY_AT_MOST_EVERY", 0.05)
    monkeypatch.setattr(delivery, "RETRY_FIRST_AFTER", 0.05)
    monkeypatch.setattr(runs, "FIRST_WAIT", 0.1)
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", "60")
    yield event
    event.clear()
    wait_for_it(lambda: not delivery.DELIVERY._queue)


def history(run_id: str, metric: str) -> list[tuple[int, float]]:
    measured = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return [(each.step, each.value) for each in measured]


def ended(run_id: str) -> Run:
    return mlflow.get_run(run_id)


def test_a_run_goes_on_while_the_store_is_away_and_nothing_is_lost(
    away: threading.Event, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run("goes on", "distill", tiny, {}) as run:
        run.log({"loss": 3}, 1)
        away.set()
        run.log({"loss": 2}, 2)
        run.log_params({"temp": "8"})
        wait_for_it(lambda: delivery.DELIVERY._fault != "")
        run.log({"loss": 1}, 3)
        away.clear()
    shown = capsys.readouterr().out
    assert shown.count("does not answer (connection refused); the run goes on") == 1
    assert shown.count("answers again") == 1
    assert history(run.run_id, "loss") == [(1, 3), (2, 2), (3, 1)]
    assert ended(run.run_id).info.status == "FINISHED"
    assert ended(run.run_id).data.params == {"temp": "8"}


def test_a_run_goes_on_while_the_store_denies_access_and_nothing_is_lost(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_batch, denies = mlflow.MlflowClient.log_batch, threading.Event()

    def unless_denied(*given: Any, **named: Any) -> Any:
        if denies.is_set():
            raise MlflowException("the token has expired", UNAUTHENTICATED)
        return log_batch(*given, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", unless_denied)
    monkeypatch.setattr(delivery, "RETRY_FIRST_AFTER", 0.05)
    with open_run("denied", "distill", tiny, {}) as run:
        denies.set()
        run.log({"loss": 2}, 1)
        wait_for_it(lambda: delivery.DELIVERY._fault != "")
        assert delivery.DELIVERY._fault.endswith("denies access (the token has expired)")
        denies.clear()
        assert run.wait(60)
    assert "denies access (the token has expired); the run goes on" in capsys.readouterr().out
    assert history(run.run_id, "loss") == [(1, 2)]
    assert ended(run.run_id).info.status == "FINISHED"


def test_a_run_waits_at_its_end_for_as_long_as_the_user_allows(
    away: threading.Event, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    timer = threading.Timer(1, away.clear)
    with open_run("waits", "distill", tiny, {}) as run:
        away.set()
        timer.start()
    shown = capsys.readouterr().out
    assert "waiting for sqlite" in shown
    assert ", at most 60 s where it does not answer" in shown
    assert ended(run.run_id).info.status == "FINISHED"


def test_what_a_run_has_kept_is_delivered_later(
    away: threading.Event,
    tiny: Dataset,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", "0")
    opened = []

    def log_in_vain() -> None:
        with open_run("is kept", "distill", tiny, {}) as run:
            opened.append(run.run_id)
            away.set()
            run.log({"loss": 1}, 1)
            run.log_text("a text", "text.txt")

    with pytest.raises(
        UnreachableError,
        match=r"refused\); all that run .* `python -m kdflow sync` delivers it later",
    ):
        log_in_vain()
    assert ended(opened[0]).info.status == "RUNNING"
    as_if_the_process_had_ended(monkeypatch)
    away.clear()
    assert sync.deliver_left_over() == []
    assert f"waiting entries of run {opened[0]}" in capsys.readouterr().out
    assert ended(opened[0]).info.status == "FINISHED"
    assert history(opened[0], "loss") == [(1, 1)]
    text = mlflow.artifacts.load_text(f"{ended(opened[0]).info.artifact_uri}/text.txt")
    assert text == "a text"
    assert list((cache / "journal").glob("*-*")) == []


def as_if_the_process_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the thread that delivers, and unlock the journals of this process."""
    delivering = delivery.DELIVERY

    def exit_thread(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "deliver", exit_thread)
        patch.setattr(threading, "excepthook", lambda _: None)
        delivering._threads[0].join()
    for written, _ in delivering._queue:
        written._lock.release()
    delivering._queue.clear()
    delivering._threads.clear()
    delivering._fault, delivering._given_up = "", False


def test_what_is_delivered_twice_is_in_the_store_once(tiny: Dataset, train: Images) -> None:
    network = build("pupil", train, 3, seed=0)
    entries: list[tuple[journal.Journal, journal.Entry]] = []
    real = delivery.deliver

    def twice(written: journal.Journal, entry: journal.Entry) -> None:
        real(written, entry)
        real(written, entry)
        entries.append((written, entry))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(delivery, "deliver", twice)
        with open_run("twice", "distill", tiny, {}) as run:
            run.log({"loss": 2, "test_accuracy": float("nan")}, 1)
            run.log_params({"temp": "8"})
            run.log_table({"a": [1, 2]}, "table.json")
            run.log_array(np.arange(3), "array.npy")
            run.log_model(network, tiny.class_names)
    assert {entry.kind for _, entry in entries} == set(delivery.DELIVER)
    assert history(run.run_id, "loss") == [(1, 2)]
    stored = ended(run.run_id)
    assert len(stored.inputs.dataset_inputs) == 1
    assert len(stored.outputs.model_outputs) == 1
    client = mlflow.MlflowClient()
    table = client.load_table(stored.info.experiment_id, "table.json", [run.run_id])
    assert list(table["a"]) == [1, 2]
    (logged,) = client.search_logged_models(
        [stored.info.experiment_id], f"source_run_id = '{run.run_id}'"
    )
    assert logged.params == {"temp": "8"}
    loaded = artifacts.load_model(find.get_run(run.run_id))
    assert weights_sha256(loaded) == weights_sha256(network)


def test_a_model_is_where_its_run_is_whatever_the_default_experiment(
    tiny: Dataset, train: Images
) -> None:
    experiment = mlflow.create_experiment("another")
    with mlflow.start_run(experiment_id=experiment), open_run("it", "distill", tiny, {}) as run:
        run.log_model(build("pupil", train, 3, seed=0), tiny.class_names)
    (logged,) = mlflow.MlflowClient().search_logged_models([experiment])
    assert logged.source_run_id == run.run_id


def test_two_processes_that_log_one_data_set_at_once_both_succeed(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_inputs = mlflow.MlflowClient.log_inputs

    def after_another_process(*given: Any) -> None:
        monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", log_inputs)
        # what MLflow makes of two insertions of one row
        raise MlflowException("UNIQUE constraint failed: datasets.digest", BAD_REQUEST)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", after_another_process)
    with open_run("second", "distill", tiny, {}) as run:
        pass
    assert mlflow.MlflowClient.log_inputs is log_inputs
    (logged,) = ended(run.run_id).inputs.dataset_inputs
    assert logged.dataset.digest == tiny.digest[:36]
    assert ended(run.run_id).info.status == "FINISHED"


def test_a_run_that_was_deleted_takes_nothing_and_says_so(tiny: Dataset) -> None:
    def log_to_a_deleted_run() -> None:
        with open_run("is deleted", "distill", tiny, {}) as run:
            wait_for_it(lambda: not delivery.DELIVERY._queue)
            mlflow.MlflowClient().delete_run(run.run_id)
            run.log({"loss": 1}, 1)
            wait_for_it(lambda: not delivery.DELIVERY._queue)
            run.log({"loss": 1}, 2)

    with pytest.raises(KdflowError, match=r"^tracking store: it rejected what run .* logged"):
        log_to_a_deleted_run()


def test_the_run_of_a_killed_process_is_ended_by_the_next_command(tiny: Dataset) -> None:
    running = mlflow.MlflowClient().create_run("0").info.run_id
    written = journal.new(running, str(mlflow.get_tracking_uri()), ends_run=True)
    written.add("metrics", {"values": {"loss": 1.0}, "step": 1, "timestamp": 5})
    written._lock.release()
    sync.deliver_left_over()
    assert ended(running).info.status == "KILLED"
    assert history(running, "loss") == [(1, 1)]


def test_the_run_of_a_killed_process_that_was_deleted_for_good_stops_no_command() -> None:
    client = mlflow.MlflowClient()
    purged = client.create_run("0").info.run_id
    left = journal.new(purged, store.address(), ends_run=True)
    left._lock.release()
    client.delete_run(purged)
    _get_store()._hard_delete_run(purged)  # as `mlflow gc` does
    assert sync.deliver_left_over() == []
    assert not left.folder.exists()


def test_how_a_run_ended_is_for_the_machine_to_say_that_had_it_open_last(tiny: Dataset) -> None:
    """One that was cut off delivers its values later, and not its status."""
    with open_run("taken over", "sweep", tiny, {}) as run:
        mlflow.MlflowClient().set_tag(run.run_id, "kdflow.host", socket.gethostname())
    for ends in ("by an error", "by a kill"):
        left = journal.new(run.run_id, store.address(), ends_run=True)
        left.add("metrics", {"values": {ends: 1.0}, "step": 1, "timestamp": 5})
        if ends == "by an error":
            left.add("tags", {"kdflow.ended": "interrupted"})
            left.add("status", {"status": "FAILED", "timestamp": 5})
        opened = left.opened._replace(host="elsewhere")
        (left.folder / journal.OPENED).write_text(json.dumps(opened._asdict()))
        left._lock.release()
    mlflow.MlflowClient().update_run(run.run_id, status="RUNNING")  # here
    assert sync.deliver_left_over() == []
    assert ended(run.run_id).data.metrics == {"by an error": 1, "by a kill": 1}
    assert ended(run.run_id).info.status == "RUNNING"
    assert "kdflow.ended" not in ended(run.run_id).data.tags


def test_a_run_that_is_opened_again_has_the_host_and_a_heartbeat_of_this_machine(
    tiny: Dataset,
) -> None:
    tags = {"kdflow.host": "elsewhere", "kdflow.heartbeat": "5", "kdflow.ended": "killed"}
    run_id = mlflow.MlflowClient().create_run("0", tags=tags).info.run_id
    with runs.reopened(run_id):
        found = ended(run_id).data.tags
        assert found["kdflow.host"] == socket.gethostname()
        assert time.time() - int(found["kdflow.heartbeat"]) / 1000 < 60
        assert dead.end_stale_runs(socket.gethostname()) == []
        assert "kdflow.ended" not in found
    with open_run("new", "distill", tiny, {}) as run:
        assert ended(run.run_id).data.tags["kdflow.host"] == socket.gethostname()


def test_entries_that_another_process_delivers_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = mlflow.MlflowClient().create_run("0").info.run_id
    left = journal.new(running, store.address(), ends_run=True)
    left.add("tags", {"a": "1"})
    left._lock.release()
    monkeypatch.setattr(journal, "MADE_HERE", set())  # as in another process
    begun, goes_on = threading.Event(), threading.Event()

    def deliver_slowly() -> None:
        with journal.locked(left.folder) as lock:
            assert lock
            begun.set()
            goes_on.wait(60)

    with ThreadPoolExecutor() as pool:
        other = pool.submit(deliver_slowly)
        assert begun.wait(60)
        assert sync.deliver_left_over() == []  # not the run that is about to be resumed
        assert "a" not in ended(running).data.tags
        waiting = pool.submit(sync.deliver_left_over, running)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        goes_on.set()
        other.result(60)
        waiting.result(60)
    assert ended(running).data.tags["a"] == "1"


def test_what_is_left_over_is_delivered_but_for_what_the_store_refuses(
    tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    running = mlflow.MlflowClient().create_run("0").info.run_id
    written = journal.new(running, store.address(), ends_run=True)
    written.add("metrics", {"values": {"?": 1.0}, "step": 1, "timestamp": 5})  # no name of one
    written.add("metrics", {"values": {"loss": 1.0}, "step": 1, "timestamp": 5})
    written._lock.release()
    assert sync.deliver_left_over() == []
    assert history(running, "loss") == [(1, 1)]
    assert ended(running).info.status == "KILLED"
    expected = f"sync: the store rejected 1 of 2 entries of run {running}: "
    assert capsys.readouterr().out.startswith(expected)


def test_a_relative_store_is_another_one_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "sqlite:///mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert store.address() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://me:secret@there:5000")
    assert store.uri() == "http://me:secret@there:5000"


@pytest.mark.parametrize("given", ["10m", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", given)
    with pytest.raises(KdflowError, match=f"expected a number of seconds, got '{given}'"):
        store.open_store()


def test_what_another_store_is_to_have_waits_for_it(tiny: Dataset) -> None:
    written = journal.new("0" * 32, "http://elsewhere:5000", ends_run=True)
    written.add("tags", {"a": "1"})
    written._lock.release()
    (waiting,) = sync.deliver_left_over()
    assert waiting.opened.store == "http://elsewhere:5000"
    assert len(waiting.waiting()) == 1


def test_a_heartbeat_is_sent_for_every_open_run_even_during_an_upload(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "HEARTBEAT_EVERY", 0.1)
    monkeypatch.setattr(run_module, "DELIVERY", delivery.Delivery())
    is_over = threading.Event()
    monkeypatch.setitem(delivery.DELIVER, "metrics", lambda journal, entry: is_over.wait(60))
    with (
        open_run("outer", "compare", tiny, {}) as outer,
        open_run("inner", "distill", tiny, {}) as inner,
    ):
        inner.log({"loss": 1})

        def both() -> bool:
            tags = [ended(run.run_id).data.tags for run in (outer, inner)]
            return all("kdflow.heartbeat" in each for each in tags)

        wait_for_it(both)
        is_over.set()


def test_silent_runs_of_another_host_are_ended_if_asked() -> None:
    client = mlflow.MlflowClient()
    now = int(time.time() * 1000)

    def run_of(host: str, beat: int) -> str:
        tags = {"kdflow.host": host, "kdflow.heartbeat": str(beat)}
        return str(client.create_run("0", tags=tags).info.run_id)

    silent, alive = run_of("there", now - 700_000), run_of("there", now)
    here = run_of("here", now - 700_000)
    assert dead.end_stale_runs("there") == [silent]
    assert [ended(run).info.status for run in (silent, alive, here)] == [
        "KILLED",
        "RUNNING",
        "RUNNING",
    ]


def test_a_run_of_which_the_store_refuses_something_is_not_finished(tiny: Dataset) -> None:
    def log_what_is_refused() -> None:
        with open_run("lacks a metric", "distill", tiny, {}) as run:
            ids.append(run.run_id)
            run.log({"?": 1}, 1)  # no name of a metric

    ids: list[str] = []
    with pytest.raises(KdflowError, match=r"^tracking store: it rejected what run .* logged"):
        log_what_is_refused()
    assert ended(ids[0]).info.status == "FAILED"


def test_what_is_delivered_later_does_not_finish_a_run_either_if_the_store_refuses_a_part() -> None:
    running = mlflow.MlflowClient().create_run("0").info.run_id
    written = journal.new(running, store.address(), ends_run=True)
    written.add("metrics", {"values": {"?": 1.0}, "step": 1, "timestamp": 5})  # no name of one
    written.add("status", {"status": "FINISHED", "timestamp": 6})
    written._lock.release()
    assert sync.deliver_left_over() == []
    assert ended(running).info.status == "FAILED"


@pytest.mark.parametrize("patience", [0, 0.1])
def test_a_slow_upload_is_waited_for_and_a_silent_store_for_as_long_as_the_user_allows(
    patience: float, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run("slow", "distill", tiny, {}) as run:
        queue = delivery.Delivery()
        queue._queue.append((run._journal, journal.Entry(0, "tags", {})))
        threading.Timer(0.5, queue._queue.clear).start()
        assert queue.wait(run._journal, patience, counts_all=False)
        queue._queue.append((run._journal, journal.Entry(0, "tags", {})))
        assert not queue.wait(run._journal, patience)
        queue._fault = "the store does not answer"
        assert not queue.wait(run._journal, patience, counts_all=False)
