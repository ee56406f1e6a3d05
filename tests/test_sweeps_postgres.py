"""A study on PostgreSQL, behind Optuna and behind an MLflow server, with workers on Ray."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import mlflow
import numpy as np
import optuna
import postgres
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from kdflow import data, logits
from sweeps.driver import storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        postgres.binary("initdb") is None, reason="no PostgreSQL server on this machine"
    ),
]
PATIENCE = 600  # seconds
Awaited = TypeVar("Awaited")


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
        _wait_for(lambda: _answers(address))
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_a_worker_killed_in_mid_trial_costs_no_trial_and_leaves_no_run_open(
    studies: RDBStorage, tracking_server: str, tiny_npz: Path, tmp_path: Path
) -> None:
    images = data.load(str(tiny_npz))
    rng = np.random.default_rng(0)
    logits.write(
        tmp_path / "taught",
        rng.normal(size=(1, len(images.y_train), 3)).astype(np.float32),
        rng.normal(size=(1, len(images.y_test), 3)).astype(np.float32),
        images,
        teacher="noise",
        network="none",
        holdout=0.1,
    )
    flags = f"--dataset {tiny_npz} --teacher {tmp_path / 'taught'} --student pupil --epochs 40"
    flags += f" --trials 12 --workers 2 --repeats 2 --heartbeat 5 --storage {studies.url}"
    with (tmp_path / "sweep.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeps", "notebook_grid", *flags.split()],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_server},
            cwd=tmp_path,
        )
    name = "notebook_grid tiny.npz"
    try:
        victim = _wait_for(lambda: _stopped_in_mid_trial(studies, name))
        os.kill(victim.user_attrs[storage.PROCESS][1], signal.SIGKILL)
        status = process.wait(PATIENCE)
    finally:
        process.terminate()
    assert status == 0, (tmp_path / "sweep.log").read_text()

    study = optuna.load_study(study_name=name, storage=studies)
    begun = [trial for trial in study.trials if storage.SURPLUS not in trial.user_attrs]
    states = Counter(trial.state for trial in begun)
    assert states == {TrialState.COMPLETE: 12, TrialState.FAIL: 1}, begun
    assert study.trials[victim.number].state == TrialState.FAIL
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len({tuple(trial.params.values()) for trial in complete}) == 12
    assert victim.params in [trial.params for trial in complete]

    client = mlflow.MlflowClient(tracking_server)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parent = study.user_attrs[storage.PARENT]
    assert client.get_run(parent).info.status == "FINISHED"
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert Counter(run.info.status for run in children) == {"FINISHED": 12 + 4, "FAILED": 1}
    assert len(runs) == 1 + len(children)


def _stopped_in_mid_trial(studies: RDBStorage, name: str) -> optuna.trial.FrozenTrial | None:
    """A trial in the middle of its training, whose process stands still."""
    try:
        study = optuna.load_study(study_name=name, storage=studies)
    except KeyError:
        return None
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if len(trial.intermediate_values) > 2:
            pid = trial.user_attrs[storage.PROCESS][1]
            os.kill(pid, signal.SIGSTOP)
            if studies.get_trial(trial._trial_id).state == TrialState.RUNNING:
                return trial
            os.kill(pid, signal.SIGCONT)  # it was at its end
    return None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_for(condition: Callable[[], Awaited | None]) -> Awaited:
    """What `condition` gives as soon as it is true."""
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.2)
    return found
