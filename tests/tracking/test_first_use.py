"""A sqlite store is made whole or not at all."""

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
        ("half made", r"was left half made by an interrupted first use; .*: move it away"),
        ("damaged", r"is damaged \(.*\); restore it from a copy, or move it away"),
    ],
)
def test_an_unusable_store_is_named_with_what_to_do(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    if content == "half made":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE _alembic_tmp_params (a INTEGER)")
            database.execute("CREATE TABLE params (a INTEGER)")
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
