"""A study that is resumed, joined or refused, and who sets the status of its parent run."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import optuna
import pytest
from helpers import made_by
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from pydantic import Field
from sweeping import (
    all_runs,
    children_of,
    imitated_training,
    noise,
    study_named,
    sweep,
)

from kdflow.config.base import how_to_run
from kdflow.dataset import Dataset, Images
from kdflow.errors import KdflowError
from kdflow.network import build
from kdflow.steps.distill import DistillConfig
from kdflow.tracking import journal
from kdflow.tracking import store as tracking_store
from sweeps.__main__ import main
from sweeps.driver import description, sharing, storage
from sweeps.driver.config import SweepConfig
from sweeps.driver.study import Study
from sweeps.driver.sweep import run

numbers = itertools.count()


@pytest.fixture
def imitated() -> Iterator[None]:
    with imitated_training():
        yield


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a study of this test's own."""
    return f"study {request.node.name.partition('[')[0]} {next(numbers)}"


@pytest.fixture
def flags(shared_store: Path, tiny_npz: Path, tmp_path: Path, name: str) -> list[str]:
    """Of a sweep of those images with a teacher of noise."""
    given = {"dataset": tiny_npz, "teacher": noise(tiny_npz, tmp_path / "n"), "study_name": name}
    return [f"--{flag}={value}" for flag, value in given.items()]


@pytest.mark.slow
def test_two_processes_with_the_same_command_share_one_study(flags: list[str], name: str) -> None:
    tracking_store.open_store()
    flags += ["--epochs", "2", "--repeats", "2", "--student", "pupil", "--trials", "6"]
    command = [sys.executable, "-m", "sweeps", "notebook_grid", *flags]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_store.uri()}
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    study = study_named(name)
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len(complete) == len({tuple(trial.params.values()) for trial in complete}) == 6
    parent = study.user_attrs["run_id"]
    children = children_of(parent)
    assert {run.info.status for run in children} == {"FINISHED"}
    assert mlflow.get_run(parent).info.status == "FINISHED"
    sweeps = [run for run in all_runs() if run.data.tags["kdflow.step"] == "sweep"]
    assert [run.info.run_id for run in sweeps] == [parent]
    assert len(children) == 6 + 2 + 2  # the trials, the best one's finals, and their baselines


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_runs_that_a_killed_driver_had_open_are_ended_when_the_study_is_resumed(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    orphans: list[str] = []

    def killed(*_: object) -> None:
        (parent,) = [run for run in all_runs() if run.info.status == "RUNNING"]
        above = parent.info.run_id
        for name in ("an export", "the teacher that it trains"):
            tags = {"mlflow.parentRunId": above}
            made = client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
            above = made.info.run_id
            orphans.append(above)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("kdflow.reuse.Resolver.obtain", killed)
        assert sweep("notebook_grid", *flags, "--trials", "1") == 130
    assert [client.get_run(orphan).info.status for orphan in orphans] == ["RUNNING"] * 2
    assert sweep("notebook_grid", *flags, "--trials", "1") == 0
    assert [client.get_run(orphan).info.status for orphan in orphans] == ["FAILED"] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
@pytest.mark.parametrize("ends", [0, 1, 130])
def test_a_process_that_joins_a_study_leaves_its_status_to_the_owner(
    ends: int,
    flags: list[str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sweep("notebook_grid", *flags, "--trials", "1") == 0
    study = study_named(name)
    parent = study.user_attrs["run_id"]
    made_before = len(children_of(parent))
    client = mlflow.MlflowClient()
    client.update_run(parent, status="RUNNING")  # by its owner
    monkeypatch.setattr(sharing, "has_owner", lambda study: True)
    if ends:
        error = {1: KdflowError("no"), 130: KeyboardInterrupt()}[ends]
        monkeypatch.setattr("sweeps.driver.workers.work", mock.Mock(side_effect=error))
    assert sweep("notebook_grid", *flags, "--trials", "2") == ends
    assert f"joins run {parent}" in capsys.readouterr().out
    assert client.get_run(parent).info.status == "RUNNING"
    assert len(children_of(parent)) == made_before + (0 if ends else 1)  # one more trial


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_a_process_that_joins_ends_the_parent_run_if_the_owner_has_died(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep("notebook_grid", *flags, "--trials", "1") == 0
    parent = study_named(name).user_attrs["run_id"]
    mlflow.MlflowClient().update_run(parent, status="RUNNING")
    lives = iter([True, False])
    monkeypatch.setattr(sharing, "has_owner", lambda study: next(lives))
    assert sweep("notebook_grid", *flags, "--trials", "2") == 0
    assert mlflow.get_run(parent).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_what_a_joining_process_makes_for_all_is_a_child_of_the_parent_run(
    shared_store: Path, tiny_npz: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the owner is alive, but the process that exported has died: this one exports
    [teacher] = made_by(f"teacher --dataset {tiny_npz} --arch pupil --epochs 1".split())
    flags = [f"--dataset={tiny_npz}", f"--teacher={teacher.info.run_id}", f"--study_name={name}"]
    flags += ["--allow_weak_teacher=true"]  # of one epoch
    with monkeypatch.context() as patched:
        interrupted = mock.Mock(side_effect=KeyboardInterrupt)
        patched.setattr("kdflow.reuse.Resolver.obtain", interrupted)
        assert sweep("notebook_grid", *flags, "--trials", "1") == 130
    monkeypatch.setattr(sharing, "has_owner", lambda study: True)
    assert sweep("notebook_grid", *flags, "--trials", "1") == 0
    children = children_of(study_named(name).user_attrs["run_id"])
    assert [run.data.tags["kdflow.step"] for run in children].count("export_logits") == 1


@pytest.mark.slow
def test_the_death_of_the_owner_lets_the_next_process_take_over(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking_store.open_store()
    flags += ["--student", "pupil", "--repeats", "2", "--trials", "2", "--epochs", "1000"]
    flags += ["--precision", "float32"]  # auto is what the machine has, in the other process alone
    command = [sys.executable, "-m", "sweeps", "notebook_grid", *flags]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_store.uri()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout
        next(line for line in owner.stdout if line.startswith("#0 T="))
        study = study_named(name)
        parent = study.user_attrs["run_id"]
        assert sharing.has_owner(study)
        os.kill(owner.pid, signal.SIGKILL)
    assert mlflow.get_run(parent).info.status == "RUNNING"
    assert not sharing.has_owner(study)
    monkeypatch.setattr("sweeps.driver.workers.work", mock.Mock(side_effect=KeyboardInterrupt))
    assert main(["notebook_grid", *flags]) == 130
    assert f"resumes run {parent}" in capsys.readouterr().out
    assert mlflow.get_run(parent).info.status == "KILLED"
    with journal.left_over() as waiting:  # what came later could end a run that goes on
        assert waiting == []


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_a_study_of_other_logits_in_the_same_folder_is_refused(
    flags: list[str], name: str, tmp_path: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("notebook_grid", *flags, "--trials", "1") == 0
    noise(tiny_npz, tmp_path / "n", seed=1)
    assert sweep("notebook_grid", *flags, "--trials", "1") == 1
    assert "began with teacher=sha256:" in capsys.readouterr().err


NETWORK = """import keras

def small(image_shape, classes):
    images = keras.Input(image_shape)
    hidden = keras.layers.Dense(UNITS)(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(classes)(hidden))
"""


@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize("changed", ["student", "teacher"])
def test_a_study_of_another_network_or_teacher_in_the_same_file_is_refused(
    changed: str,
    name: str,
    tmp_path: Path,
    tiny_npz: Path,
    train: Images,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, model = tmp_path / "network.py", tmp_path / "teacher.keras"

    def write(*, units: int, seed: int) -> None:
        network.write_text(NETWORK.replace("UNITS", str(units)))
        build("pupil", train, 3, seed=seed).save(model)

    flags = ["--dataset", str(tiny_npz), "--teacher", str(model), "--student", f"{network}:small"]
    flags += ["--allow_weak_teacher", "true", "--study_name", name, "--trials", "1"]
    write(units=4, seed=0)
    with mock.patch("sweeps.driver.workers.work", side_effect=KeyboardInterrupt):
        assert sweep("notebook_grid", *flags) == 130
        assert sweep("notebook_grid", *flags) == 130  # of the same files
    write(units=5 if changed == "student" else 4, seed=1 if changed == "teacher" else 0)
    assert sweep("notebook_grid", *flags) == 1
    refused = capsys.readouterr().err.splitlines()[-1]
    assert f"study_name: '{name}' began with the digest of {changed}=" in refused


SPACE: dict[str, BaseDistribution] = {"temp": FloatDistribution(1, 8)}


EARLIER = Study(
    space=SPACE,
    trials=1,
    cost="none",
    sampler=lambda seed: TPESampler(n_startup_trials=6, seed=seed),
    pruner=SuccessiveHalvingPruner(min_resource=3),
)


@pytest.mark.parametrize(
    ("sampler", "pruner", "difference"),
    [
        (
            EARLIER.sampler,
            SuccessiveHalvingPruner(min_resource=1),
            "pruner=SuccessiveHalvingPruner(",
        ),
        (EARLIER.sampler, NopPruner(), "got pruner=NopPruner()"),
        (
            lambda seed: TPESampler(n_startup_trials=7, seed=seed),
            EARLIER.pruner,
            "sampler=TPESampler(",
        ),
        (lambda seed: RandomSampler(seed), EARLIER.pruner, "got sampler=RandomSampler()"),
    ],
)
def test_a_study_that_is_resumed_with_another_sampler_or_pruner_is_refused(
    sampler: Any,
    pruner: Any,
    difference: str,
    flags: list[str],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = Study(space=SPACE, trials=1, cost="none", sampler=sampler, pruner=pruner)
    with mock.patch("sweeps.__main__.load", side_effect=[EARLIER, later]):
        with mock.patch("sweeps.driver.workers.work", side_effect=KeyboardInterrupt):
            assert sweep("notebook_grid", *flags) == 130  # before its first trial
        assert sweep("notebook_grid", *flags) == 1
    refused = capsys.readouterr().err.splitlines()[-1]
    assert f"study_name: '{name}' began with " in refused
    assert difference in refused


def test_the_seed_and_state_of_a_sampler_are_not_in_its_description() -> None:
    used = EARLIER.sampler(5)
    optuna.create_study(sampler=used).optimize(lambda trial: trial.suggest_float("x", 0, 1), 9)
    later = Study(space=SPACE, trials=1, cost="none", sampler=lambda seed: used)
    assert later.described_search()["sampler"] == EARLIER.described_search()["sampler"]


class LaterConfig(DistillConfig):
    """`distill` with a parameter that was added later, and that changes nothing at 1."""

    smoothing: float = Field(1, json_schema_extra={"neutral": 1})


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[optuna.storages.RDBStorage]:
    made = storage.open_storage(storage.parsed(f"sqlite:///{tmp_path}/studies.db"), 1)
    yield made
    made.remove_session()
    made.engine.dispose()


def described(base: DistillConfig, tiny: Dataset) -> dict[str, Any]:
    return description.described(20, EARLIER, base, tiny) | {"teacher": "sha256:of a folder"}


def reopened(opened: optuna.storages.RDBStorage, base: DistillConfig, tiny: Dataset) -> bool:
    """Whether a study `s` of this description is a new one."""
    now = described(base, tiny)
    older = description.defaults_of_older_study(EARLIER, base, now)
    return sharing.open_study(opened, "s", now, older)[1]


def test_a_parameter_added_at_its_neutral_value_refuses_no_earlier_study(
    opened: optuna.storages.RDBStorage, tiny: Dataset
) -> None:
    base = {"dataset": "digits"}
    sharing.open_study(opened, "s", described(DistillConfig(**base), tiny), {})  # type: ignore[arg-type]
    neutral, other = (LaterConfig(**base, smoothing=value) for value in (1, 2))  # type: ignore[arg-type]
    assert "smoothing" in described(neutral, tiny)
    assert not reopened(opened, neutral, tiny)
    with pytest.raises(KdflowError, match="began with smoothing=1"):
        reopened(opened, other, tiny)


def test_the_weight_of_a_loss_that_was_added_later_refuses_no_study_of_another_loss(
    opened: optuna.storages.RDBStorage, tiny: Dataset
) -> None:
    base = DistillConfig(dataset="digits", loss="kd")  # type: ignore[call-arg]
    earlier = described(base, tiny)
    del earlier["dkd_beta"]  # as if dkd had come later
    sharing.open_study(opened, "s", earlier, {})
    assert not reopened(opened, base, tiny)


def test_how_a_study_is_run_is_not_in_its_description(tiny: Dataset) -> None:
    base = DistillConfig(dataset="digits")  # type: ignore[call-arg]
    assert described(base, tiny).keys().isdisjoint(how_to_run(type(base)))


def test_a_study_from_before_the_sampler_and_the_pruner_were_recorded_is_resumed(
    opened: optuna.storages.RDBStorage, tiny: Dataset
) -> None:
    base = DistillConfig(dataset="digits")  # type: ignore[call-arg]
    earlier = described(base, tiny)
    del earlier["sampler"], earlier["pruner"]
    sharing.open_study(opened, "s", earlier, {})
    assert not reopened(opened, base, tiny)
    other = DistillConfig(dataset="digits", epochs=3)  # type: ignore[call-arg]
    with pytest.raises(KdflowError, match="began with epochs=30, got epochs=3"):
        reopened(opened, other, tiny)


def test_what_auto_stands_for_is_settled_once_for_all_workers(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # which may be on other machines, and whose trials are compared
    class Reached(Exception):
        pass

    def check(file: Study, base: DistillConfig, dataset: Dataset) -> None:
        raise Reached(base.precision)

    monkeypatch.setattr("sweeps.driver.sweep._check_trials", check)
    config = SweepConfig(study="earlier", trials=1)  # type: ignore[call-arg]
    for native in ("float32", "bfloat16"):
        monkeypatch.setattr("kdflow.config.precision.native_precision", lambda it=native: it)
        with pytest.raises(Reached, match=native):
            run(config, EARLIER, DistillConfig(dataset="digits"))  # type: ignore[call-arg]
