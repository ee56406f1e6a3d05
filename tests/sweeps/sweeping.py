"""What the tests of sweeps share: teachers of noise, quick sweeps, and what they record."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from unittest import mock

import keras
import mlflow
import numpy as np
import optuna
from matplotlib.figure import Figure
from mlflow.entities import Run
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from kdflow.artifacts import logits
from kdflow.config.fitting import Settings
from kdflow.dataset import Images
from kdflow.steps.run import load
from kdflow.tracking import run as open_runs
from kdflow.tracking import runs
from sweeps.__main__ import main
from sweeps.driver import sharing, trial_queue
from sweeps.driver.storage import open_storage, parsed

STUDIES = "sqlite:///sweeps/studies.db"
PATIENCE = 600  # seconds
Awaited = TypeVar("Awaited")


def noise(npz: Path, folder: Path, seed: int = 0, views: int = 1) -> str:
    """A folder of logits of those images that mean little, but more than chance."""
    dataset = load(str(npz), 0.1)
    rng = np.random.default_rng(seed)
    train, test = (
        (rng.normal(size=(views, len(labels), 3)) + 2 * np.eye(3)[labels]).astype(np.float32)
        for labels in (dataset.y_train, dataset.y_test)
    )
    logits.write(folder, train, test, dataset, teacher="noise", network="none", holdout=0.1)
    return str(folder)


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """One process alone has nobody to wait for."""
    with (
        mock.patch.object(sharing, "SETTLED", 0),
        mock.patch.object(sharing, "LOOK_EVERY", 0.01),
        mock.patch.object(trial_queue, "LOOK_EVERY", 0.01),
    ):
        yield


def sweep(*flags: str) -> int:
    """The exit status of a sweep with the smallest network, for two epochs and two repeats."""
    with without_waiting():
        return main(["--epochs", "2", "--repeats", "2", "--student", "pupil", *flags])


def imitated_fit(
    network: keras.Model,
    train: Images,
    validation: Images,
    objective: object,
    settings: Settings,
    checkpoint: object = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Stands for `fit`: no training, and a validation accuracy that no real one falls short of."""
    for epoch in range(1, settings.epochs + 1):
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        yield epoch, dict.fromkeys(names, epoch / 1000)


@contextlib.contextmanager
def imitated_training() -> Iterator[None]:
    """Sweeps whose trainings take no time, log no model and are not plotted. All else is real."""

    def log_model(run: open_runs.Run, model: keras.Model, class_names: Sequence[str]) -> None:
        if mlflow.get_run(run.run_id).data.tags["kdflow.step"] not in ("distill", "baseline"):
            logged(run, model, class_names)

    logged = open_runs.Run.log_model
    with (
        mock.patch("kdflow.steps.training.fit", imitated_fit),
        mock.patch("kdflow.evaluate.plots.learning_curves", return_value=Figure()),
        mock.patch("sweeps.driver.pictures.log"),
        mock.patch.object(open_runs.Run, "log_model", log_model),
    ):
        yield


def study_named(name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=STUDIES)


def all_runs() -> list[Run]:
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def children_of(parent: str) -> list[Run]:
    return [run for run in all_runs() if run.data.tags.get("mlflow.parentRunId") == parent]


@contextlib.contextmanager
def new_studies() -> Iterator[Callable[[], optuna.Study]]:
    """Makes studies of one storage and one parent run, which has ended. A trial of theirs is stale
    after three seconds without a heartbeat."""
    opened = open_storage(parsed(STUDIES), heartbeat=1)
    numbers = itertools.count()
    with runs.open_run("parent", "sweep", load("digits", 0.1), {}) as parent:
        pass

    def make() -> optuna.Study:
        study, is_new = sharing.open_study(opened, f"study {next(numbers)}", {}, {})
        assert is_new
        study.set_user_attr(trial_queue.RUN_ID, parent.run_id)
        return study

    yield make
    opened.remove_session()
    opened.engine.dispose()


def check_that_a_killed_worker_costs_no_trial(
    studies: RDBStorage, tracking_uri: str, npz: Path, folder: Path
) -> None:
    """Run a sweep with two Ray workers in a process of its own, and kill one in mid-trial."""
    flags = f"--dataset {npz} --teacher {noise(npz, folder / 'n')} --student pupil --epochs 30"
    flags += f" --trials 6 --workers 2 --repeats 2 --heartbeat 5 --storage {studies.url}"
    with (folder / "sweep.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeps", "notebook_grid", *flags.split()],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
            cwd=folder,
        )
    name = "notebook_grid tiny.npz"
    try:
        victim = wait_for(lambda: _stopped_in_mid_trial(studies, name))
        os.kill(victim.user_attrs[trial_queue.PROCESS][1], signal.SIGKILL)
        status = process.wait(PATIENCE)
    finally:
        process.terminate()
    assert status == 0, (folder / "sweep.log").read_text()

    study = optuna.load_study(study_name=name, storage=studies)
    started = [trial for trial in study.trials if trial_queue.SURPLUS not in trial.user_attrs]
    states = Counter(trial.state for trial in started)
    assert states == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}, started
    assert study.trials[victim.number].state == TrialState.FAIL
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len({tuple(trial.params.values()) for trial in complete}) == 6
    assert victim.params in [trial.params for trial in complete]
    assert process.pid not in {trial.user_attrs[trial_queue.PROCESS][1] for trial in started}

    client = mlflow.MlflowClient(tracking_uri)
    stored = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parent = study.user_attrs[trial_queue.RUN_ID]
    assert client.get_run(parent).info.status == "FINISHED"
    children = [run for run in stored if run.data.tags.get("mlflow.parentRunId") == parent]
    assert Counter(run.info.status for run in children) == {"FINISHED": 6 + 4, "FAILED": 1}
    assert len(stored) == 1 + len(children)


def check_that_workers_search_the_control_too(
    studies: RDBStorage, tracking_uri: str, npz: Path, folder: Path
) -> None:
    """Run a sweep with a searched control and two Ray workers in a process of its own."""
    flags = f"--dataset {npz} --teacher {noise(npz, folder / 'n', views=2)} --student pupil"
    flags += f" --epochs 1 --trials 3 --workers 2 --repeats 2 --storage {studies.url}"
    ended = subprocess.run(
        [sys.executable, "-m", "sweeps", "recipe", "--control", "searched", *flags.split()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
        cwd=folder,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in ("recipe tiny.npz", "recipe tiny.npz control"):
        counted = trial_queue.counted(optuna.load_study(study_name=name, storage=studies))
        assert [trial.state for trial in counted] == [TrialState.COMPLETE] * 3
    client = mlflow.MlflowClient(tracking_uri)
    stored = client.search_runs([e.experiment_id for e in client.search_experiments()])
    made = Counter(run.data.tags["kdflow.step"] for run in stored)
    assert made == {"sweep": 1, "distill": 3 + 2, "baseline": 3 + 2}
    assert {run.info.status for run in stored} == {"FINISHED"}


def _stopped_in_mid_trial(studies: RDBStorage, name: str) -> FrozenTrial | None:
    """A trial in the middle of its training, whose process stands still."""
    try:
        study = optuna.load_study(study_name=name, storage=studies)
    except KeyError:
        return None
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if len(trial.intermediate_values) > 2:
            pid = trial.user_attrs[trial_queue.PROCESS][1]
            os.kill(pid, signal.SIGSTOP)
            if studies.get_trial(trial._trial_id).state == TrialState.RUNNING:
                return trial
            os.kill(pid, signal.SIGCONT)  # it was at its end
    return None


def wait_for(condition: Callable[[], Awaited | None]) -> Awaited:
    """What `condition` gives as soon as it is true."""
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.2)
    return found
