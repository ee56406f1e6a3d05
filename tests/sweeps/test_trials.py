"""What a worker does with trials: report, prune, fail, retry, share the logits."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import optuna
import pytest
from helpers import made_by
from optuna.trial import TrialState
from sweeping import all_runs, children_of, imitated_training, noise, study_named, sweep

from kdflow.artifacts import logits
from sweeps.driver import trial_queue, trials


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a study of this test's own."""
    return f"study {request.node.name}"


@pytest.fixture
def flags(shared_store: Path, tiny_npz: Path, tmp_path: Path, name: str) -> list[str]:
    """Of a sweep of those images with a teacher of noise."""
    given = {"dataset": tiny_npz, "teacher": noise(tiny_npz, tmp_path / "n"), "study_name": name}
    return [f"--{flag}={value}" for flag, value in given.items()]


@pytest.fixture
def imitated() -> Iterator[None]:
    with imitated_training():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_a_pruned_trial_ends_killed_after_the_epochs_that_it_had(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "should_prune", lambda trial: trial.number > 0)
    assert sweep("temperature_alpha", *flags, "--trials", "3") == 0
    study = study_named(name)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    for trial in study.trials[1:]:
        run = mlflow.get_run(trial.user_attrs["run_id"])
        assert run.info.status == "KILLED"
        assert run.data.tags["kdflow.ended"] == "pruned"
        assert list(trial.intermediate_values) == [1]
        assert run.data.metrics["val_accuracy"] == trial.intermediate_values[1]
    assert capsys.readouterr().out.count("pruned after 1 of 2 epochs") == 2
    parent = mlflow.get_run(study.user_attrs["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials_pruned"] == 2
    assert parent.data.metrics["epochs_spent"] == 2 + 1 + 1


@pytest.mark.slow
def test_a_trial_that_fails_ends_failed_and_the_search_continues(
    flags: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("notebook_grid", *flags, "--trials", "2", "--learning_rate", "1e38") == 1
    assert "expected a complete trial, got 2 failed and 0 pruned" in capsys.readouterr().err
    study = study_named(name)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    parent = study.user_attrs["run_id"]
    assert [run.info.status for run in children_of(parent)] == ["FAILED"] * 2
    assert mlflow.get_run(parent).info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_an_interrupted_sweep_ends_killed_and_that_trial_is_retried(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(trial: optuna.Trial, *_: Any) -> None:
        if trial.number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Trial, "report", interrupt)
        assert sweep("notebook_grid", *flags, "--trials", "3") == 130
    study = study_named(name)
    parent = study.user_attrs["run_id"]
    interrupted = study.trials[1]
    assert interrupted.state == TrialState.FAIL
    run = mlflow.get_run(interrupted.user_attrs["run_id"])
    assert (run.info.status, run.data.tags["kdflow.ended"]) == ("KILLED", "interrupted")
    assert mlflow.get_run(parent).info.status == "KILLED"

    assert sweep("notebook_grid", *flags, "--trials", "3") == 0
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len(complete) == len({tuple(trial.params.values()) for trial in complete}) == 3
    assert interrupted.params in [trial.params for trial in complete]
    assert mlflow.get_run(parent).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_a_trial_that_another_process_has_marked_failed_stops_and_its_retry_counts(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = optuna.Trial.report

    def marked_failed_first(trial: optuna.Trial, value: float, step: int) -> None:
        if trial.number == 0:  # its heartbeats were missing, say on a laptop that was asleep
            trial.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            study = trial.study
            trial_queue.retry(study, study.trials[0], crashed=True)
        report(trial, value, step)

    monkeypatch.setattr(optuna.Trial, "report", marked_failed_first)
    assert sweep("notebook_grid", *flags, "--trials", "2") == 0
    assert "stopped after 1 of 2 epochs: its heartbeats were missing, so that it is retried" in (
        capsys.readouterr().out
    )
    study = study_named(name)
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 1
    run = mlflow.get_run(study.trials[0].user_attrs["run_id"])
    assert (run.info.status, run.data.tags["kdflow.ended"]) == ("KILLED", "stopped")
    assert [trial.state for trial in trial_queue.counted(study)] == [TrialState.COMPLETE] * 2
    parent = mlflow.get_run(study.user_attrs["run_id"])
    assert parent.data.metrics["trials_complete"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_trials_of_fewer_views_read_the_logits_of_the_most_views(
    flags: list[str], name: str, tmp_path: Path, tiny_npz: Path
) -> None:
    noise(tiny_npz, tmp_path / "n", views=2)
    assert sweep("recipe", *flags, "--trials", "6") == 0
    study = study_named(name)
    assert {trial.params["views"] for trial in study.trials} == {1, 2}
    for trial in study.get_trials(states=[TrialState.COMPLETE]):
        run = mlflow.get_run(trial.user_attrs["run_id"])
        assert run.data.params["views"] == str(trial.params["views"])
        assert run.data.tags["kdflow.upstream.teacher"].startswith("sha256:")


@pytest.mark.slow
def test_no_trial_loads_a_teacher_and_all_share_the_logits_that_were_verified_first(
    shared_store: Path, tiny_npz: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [teacher] = made_by(f"teacher --dataset {tiny_npz} --arch pupil --epochs 1".split())
    work = trials.work

    orders = []

    def watched(order: trials.Order) -> None:
        orders.append(order)
        if order.finals:
            return work(order)
        with (
            mock.patch("kdflow.tracking.artifacts.load_model") as load_model,
            mock.patch.object(logits, "read", wraps=logits.read) as read_logits,
        ):
            work(order)
        load_model.assert_not_called()
        read_logits.assert_called_once()

    monkeypatch.setattr("sweeps.driver.workers.work", watched)
    flags = [f"--dataset={tiny_npz}", f"--teacher={teacher.info.run_id}", f"--study_name={name}"]
    flags += ["--allow_weak_teacher=true"]  # of one epoch
    with imitated_training():
        assert sweep("notebook_grid", *flags, "--trials", "3") == 0
    assert [bool(order.finals) for order in orders] == [False, True]
    study = study_named(name)
    children = children_of(study.user_attrs["run_id"])
    [export] = [run for run in children if run.data.tags["kdflow.step"] == "export_logits"]
    for trial in study.trials:
        run = mlflow.get_run(trial.user_attrs["run_id"])
        assert run.data.tags["kdflow.upstream.teacher"] == export.info.run_id


@pytest.mark.slow
def test_a_study_may_search_what_students_start_from(
    shared_store: Path, tiny_npz: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_CACHE", str(shared_store / "cache"))
    [teacher] = made_by(f"teacher --dataset {tiny_npz} --arch student --epochs 1".split())
    flags = [f"--dataset={tiny_npz}", f"--teacher={teacher.info.run_id}", f"--study_name={name}"]
    flags += ["--allow_weak_teacher=true"]  # of one epoch
    with imitated_training():
        assert sweep("hint_or_not", *flags, "--student=student") == 0
    study = study_named(name)
    [hint] = [run for run in all_runs() if run.data.tags["kdflow.step"] == "hint"]
    assert Counter(trial.params["init"] for trial in study.trials) == {"none": 3, "auto": 3}
    for trial in study.trials:
        run = mlflow.get_run(trial.user_attrs["run_id"])
        started = run.data.tags.get("kdflow.upstream.init")
        assert started == (hint.info.run_id if trial.params["init"] == "auto" else None)
        assert run.data.params["init"] == (started or "none")
