"""A sqlite store is made whole or not at all."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from helpers import ROOT

from kdflow.errors import KdflowError
from kdflow.tracking import first_use, store

OPEN = "from kdflow.tracking import store; store.open_store()"


@pytest.mark.slow
def test_a_new_store_is_mlflows_own_and_nothing_else_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri("sqlite:///new.db")
    store.open_store()
    with mlflow.start_run() as run:
        mlflow.log_param("a", 1)
    assert mlflow.get_run(run.info.run_id).data.params == {"a": "1"}
    assert mlflow.get_experiment("0").artifact_location == f"{tmp_path}/mlruns/0"
    assert {path.name for path in tmp_path.iterdir()} <= {"new.db", ".new.db.lock", "mlruns"}
    mlflow.set_tracking_uri(None)


def test_a_store_whose_making_failed_is_made_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    def killed(new: Path) -> None:
        new.write_bytes(b"half a database")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first_use.make_whole(path, killed)
    assert not path.exists()

    def make(new: Path) -> None:
        new.write_bytes(b"whole")

    first_use.make_whole(path, make)
    assert path.read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == [tmp_path / ".store.db.lock", path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "half made",
            r"which an interrupted first use left incomplete and without runs; move it away",
        ),
        ("damaged", r"which is damaged \(.*\); restore it from a copy, or move it away"),
        ("half upgraded", r"holds 1 runs and whose upgrade .* is running or was interrupted"),
    ],
)
def test_an_unusable_store_is_named_with_what_to_do(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    if content.startswith("half"):
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE _alembic_tmp_params (a INTEGER)")
            database.execute("CREATE TABLE runs (a INTEGER)")
            if content == "half upgraded":
                database.execute("INSERT INTO runs VALUES (1)")
        database.close()
    else:
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    with pytest.raises(KdflowError, match=message):
        store.open_store()
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_four_processes_at_once_make_one_store(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN]
    environment = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }
    started = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    assert first_use.fault(tmp_path / "mlflow.db", whole=True) == ""


def sound(path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (a INTEGER)")
    return path


def test_a_sound_store_has_no_fault_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "c#?%20 d"
    folder.mkdir()
    assert first_use.fault(sound(folder / "mlflow.db"), whole=True) == ""
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.slow  # SQLite waits five seconds for the lock
def test_a_locked_store_is_not_called_damaged(tmp_path: Path) -> None:
    path = sound(tmp_path / "mlflow.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert first_use.fault(path, whole=False) == (
            f"{path}, which cannot be read now (database is locked); try again"
        )
    assert first_use.fault(path, whole=False) == ""
