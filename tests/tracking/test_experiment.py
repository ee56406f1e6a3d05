"""Runs go to the experiment that the user has chosen, or to kdflow's own, which is made once."""

import threading
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.tracking import experiment, saved_views
from kdflow.tracking import store as tracking_store
from kdflow.tracking.find import find_runs
from kdflow.tracking.runs import experiment_of, open_run

pytestmark = pytest.mark.usefixtures("store")


def opened(tiny: Dataset, name: str = "a run") -> str:
    """The id of a run that has ended."""
    with open_run(name, "teacher", tiny, {}) as run:
        pass
    return run.run_id


def name_of(run_id: str) -> str:
    return str(mlflow.get_experiment(experiment_of(run_id)).name)


def test_a_run_goes_to_the_experiment_kdflow_and_its_files_beside_the_others(
    tiny: Dataset, store: Path
) -> None:
    run_id = opened(tiny)
    assert name_of(run_id) == "kdflow"
    number = experiment_of(run_id)
    assert number != "0"
    assert mlflow.get_run(run_id).info.artifact_uri == f"{store}/mlruns/{number}/{run_id}/artifacts"
    assert mlflow.get_experiment("0").artifact_location == f"{store}/mlruns/0"


def test_what_the_user_has_chosen_is_kept(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert name_of(opened(tiny)) == "Default"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert name_of(opened(tiny)) == "mine"
    monkeypatch.setenv("MLFLOW_RUN_ID", mlflow.MlflowClient().create_run("0").info.run_id)
    assert name_of(opened(tiny)) == "Default"
    mlflow.set_experiment("of a notebook")
    assert name_of(opened(tiny)) == "of a notebook"


def test_earlier_runs_in_the_default_experiment_are_found(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    earlier = opened(tiny)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    later = opened(tiny)
    assert [run.run_id for run in find_runs({"kdflow.step": "teacher"})] == [earlier, later]


def test_two_threads_that_make_it_at_once_get_the_same_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both_looked = threading.Barrier(2, timeout=30)
    look = mlflow.MlflowClient.get_experiment_by_name
    looks: list[object] = []

    def look_and_wait(client: mlflow.MlflowClient, name: str) -> object:
        found = look(client, name)
        looks.append(found)
        if found is None:
            both_looked.wait()
        return found

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", look_and_wait)
    got: list[str] = []
    threads = [
        threading.Thread(target=lambda: got.append(experiment.chosen_id())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks[:2] == [None, None]
    assert got == [look(mlflow.MlflowClient(), "kdflow").experiment_id] * 2


def test_a_store_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", "60")
    monkeypatch.setattr(tracking_store, "RETRY_EVERY", 0)
    make, calls = mlflow.MlflowClient.create_experiment, []

    def away_at_first(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise MlflowException("API request failed: 503")
        return make(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "create_experiment", away_at_first)
    assert mlflow.get_experiment(experiment.chosen_id()).name == "kdflow"


def test_a_deleted_experiment_is_one_clear_line(tiny: Dataset) -> None:
    number = experiment.chosen_id()
    mlflow.delete_experiment(number)
    expected = (
        f"^experiment kdflow: expected one that is not deleted, got {number}, which is deleted;"
        f" `mlflow experiments restore -x {number}` restores it, or"
    )
    with pytest.raises(KdflowError, match=expected):
        opened(tiny)
    mlflow.MlflowClient().restore_experiment(number)
    assert name_of(opened(tiny)) == "kdflow"


def test_the_experiment_is_described_once_and_others_get_the_views_alone(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = experiment_of(opened(tiny))
    described = {"mlflow.note.content": saved_views.DESCRIPTION}
    assert mlflow.get_experiment(number).tags == saved_views.VIEWS | described
    mlflow.MlflowClient().set_experiment_tag(number, "mlflow.note.content", "a note of my own")
    opened(tiny)
    assert mlflow.get_experiment(number).tags["mlflow.note.content"] == "a note of my own"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    opened(tiny)
    assert mlflow.get_experiment("0").tags == saved_views.VIEWS
