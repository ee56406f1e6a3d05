"""The storage of studies: its URL, and what happens if it does not answer."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sweeping import all_runs, noise, sweep

from kdflow.errors import KdflowError
from sweeps.driver.storage import open_storage, parsed, shown, text_of


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "an SQLAlchemy URL such as sqlite:///sweeps/studies.db, got an invalid"),
        (
            "postgresql://me:sec@ret:x@host/db",
            "an SQLAlchemy URL such as sqlite:///sweeps/studies.db, got an invalid",
        ),
        ("sqlite://", "a file, got sqlite://, which ends with the process"),
        (
            "sqlite:////proc/none/studies.db",
            "a working store at sqlite:////proc/none/studies.db, got ",
        ),
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            r"a working store at postgresql://me:\*\*\*@127.0.0.1:1/x, got",
        ),
    ],
)
def test_a_storage_that_does_not_answer_is_one_line(url: str, message: str) -> None:
    with pytest.raises(KdflowError) as refused:
        open_storage(parsed(url), heartbeat=1)
    line = str(refused.value)
    assert re.match("storage: expected " + message, line)
    assert "secret" not in line
    assert "sec@ret" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@host/studies", "postgresql://host/studies?user=me&password=secret"],
)
def test_no_password_is_shown(url: str) -> None:
    assert "secret" in text_of(parsed(url))
    assert "secret" not in shown(parsed(url))


def test_a_sweep_whose_storage_does_not_answer_makes_no_run(
    store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]
    assert sweep("notebook_grid", *flags, "--storage", "sqlite:////proc/none/studies.db") == 1
    refused = capsys.readouterr().err
    assert refused.startswith("sweeps: storage: expected a working store at sqlite:////proc/none/")
    assert refused.count("\n") == 1
    assert all_runs() == []


def test_a_file_is_the_same_in_any_working_folder_and_a_password_is_for_other_processes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(parsed("sqlite:///here.db")) == f"sqlite:///{tmp_path}/here.db"
    server = parsed("postgresql://me:secret@host/studies")
    assert str(server) == "postgresql://me:***@host/studies"
    assert text_of(server) == "postgresql://me:secret@host/studies"


def test_a_trial_in_the_queue_is_started_by_one_process_alone(tmp_path: Path) -> None:
    url = parsed(f"sqlite:///{tmp_path}/studies.db")
    storages = [open_storage(url, heartbeat=60) for _ in range(2)]  # as two processes have them
    study = optuna.create_study(storage=storages[0], study_name="s")
    together = threading.Barrier(2)

    def started(storage: RDBStorage, trial_id: int) -> bool:
        together.wait()
        return storage.set_trial_state_values(trial_id, TrialState.RUNNING)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(30):
            study.enqueue_trial({"x": 1})
            trial = study.get_trials(states=[TrialState.WAITING])[0]
            assert sorted(pool.map(started, storages, [trial._trial_id] * 2)) == [False, True]


@pytest.mark.parametrize("folder", ["real", "link"])
def test_the_database_of_the_tracking_store_is_refused_and_left_as_it_is(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    file = tmp_path / "real" / "mlflow.db"
    file.write_bytes(b"of MLflow")
    of_mlflow = f"sqlite:///{tmp_path}/link/mlflow.db"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: of_mlflow)
    with pytest.raises(KdflowError, match=r"^storage: expected a database of Optuna's own"):
        open_storage(parsed(f"sqlite:///{tmp_path}/{folder}/mlflow.db"), 20)
    assert file.read_bytes() == b"of MLflow"
