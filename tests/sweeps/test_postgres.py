"""A study on PostgreSQL, behind Optuna and behind an MLflow server, with workers on Ray."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from optuna.storages import RDBStorage
from sweeping import (
    check_that_a_killed_worker_costs_no_trial,
    check_that_workers_search_the_control_too,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        postgres.binary("initdb") is None, reason="no PostgreSQL server on this machine"
    ),
]


@pytest.fixture
def databases() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture
def studies(databases: str) -> Iterator[RDBStorage]:
    """Optuna's storage on the same PostgreSQL."""
    opened = RDBStorage(f"{databases}/studies")
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.fixture
def tracking_server(databases: str, tmp_path: Path) -> Iterator[str]:
    """An MLflow server on the same PostgreSQL; yields its address."""
    port = postgres.free_port()
    address = f"http://127.0.0.1:{port}"
    options = {
        "--backend-store-uri": f"{databases}/tracking",
        "--artifacts-destination": str(tmp_path / "artifacts"),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    flags = [part for option in options.items() for part in option]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *flags],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _answers(address))
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # on a busy machine
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


def test_a_worker_killed_in_mid_trial_costs_no_trial_and_leaves_no_run_open(
    studies: RDBStorage, tracking_server: str, tiny_npz: Path, tmp_path: Path
) -> None:
    check_that_a_killed_worker_costs_no_trial(studies, tracking_server, tiny_npz, tmp_path)


def test_workers_run_the_trials_of_a_searched_control_too(
    studies: RDBStorage, tracking_server: str, tiny_npz: Path, tmp_path: Path
) -> None:
    check_that_workers_search_the_control_too(studies, tracking_server, tiny_npz, tmp_path)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
