"""Sweeps from start to end on small images: the study, its parent run, its trials, its finals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from optuna.trial import TrialState
from sweeping import (
    all_runs,
    imitated_fit,
    imitated_training,
    noise,
    study_named,
    sweep,
)

from kdflow.training.loop import Epoch, fit

NAME = "notebook_grid tiny.npz"


@pytest.fixture
def imitated() -> Iterator[None]:
    with imitated_training():
        yield


@pytest.fixture
def flags(store: Path, tiny_npz: Path) -> list[str]:
    return ["notebook_grid", "--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]


@pytest.mark.slow
def test_a_sweep_is_a_parent_run_with_a_child_per_trial_and_is_resumed_under_it(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def trials_alone(*args: Any) -> Iterator[Epoch]:  # the finals are imitated
        trained.append(args)
        return fit(*args) if len(trained) <= 3 else imitated_fit(*args)

    monkeypatch.setattr("kdflow.steps.training.fit", trials_alone)
    assert sweep(*flags, "--trials", "3", "--best", "2") == 0
    assert len(trained) == 3 + 2 * 2 + 2
    study = study_named(NAME)
    parent = study.user_attrs["run_id"]
    runs = {run.info.run_id: run for run in all_runs()}
    children = [run for run in runs.values() if run.info.run_id != parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}

    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    for trial in study.trials:
        run = runs[trial.user_attrs["run_id"]]
        assert float(run.data.params["temp"]) == trial.params["temp"]
        assert float(run.data.params["alpha"]) == trial.params["alpha"]
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_accuracy")
        reported = {metric.step: metric.value for metric in history}
        assert trial.intermediate_values == reported
        assert trial.value == reported[2] == run.data.metrics["val_accuracy"]
        assert "test_accuracy" not in run.data.metrics
        assert run.info.run_name == (
            f"#{trial.number} T={trial.params['temp']:.4g} alpha={trial.params['alpha']:.4g}"
            " trial pupil"
        )

    best = max(study.trials, key=lambda trial: (trial.value, -trial.number))
    tags, metrics = runs[parent].data.tags, runs[parent].data.metrics
    assert float(tags["best.temp"]) == best.params["temp"]
    assert float(tags["best.alpha"]) == best.params["alpha"]
    assert metrics["best_val_accuracy"] == best.value
    assert (metrics["trials_complete"], metrics["epochs_spent"]) == (3, 6)
    low, high = metrics["difference_low"], metrics["difference_high"]
    expected = "BEATS" if low > 0 else "WORSE" if high < 0 else "INCONCLUSIVE"
    assert tags["kdflow.verdict"] == expected
    assert tags["kdflow.control"] == "fixed"
    logged = runs[parent].data.params.keys()
    assert logged.isdisjoint({"temp", "alpha"})  # each trial has its own
    assert logged.isdisjoint({"ray_address", "cpus_per_trial", "gpus_per_trial", "dkd_beta"})
    artifacts = {item.path for item in mlflow.MlflowClient().list_artifacts(parent)}
    assert artifacts >= {"history.png", "slice.png", "intermediate_values.png", "study.html"}
    assert artifacts >= {"trials.csv", "finals.csv", "verdicts.csv", "config.json"}
    assert len(pd.read_csv(f"{runs[parent].info.artifact_uri}/trials.csv")) == 3

    # the finals: two settings and one baseline, on seeds that no trial had
    table = pd.read_csv(f"{runs[parent].info.artifact_uri}/finals.csv")
    assert table["seed"].tolist() == [1, 2, 1, 2]
    assert len(children) == 3 + 2 * 2 + 2
    for _, row in table.iterrows():
        taught, alone = runs[row["distilled_run"]].data, runs[row["baseline_run"]].data
        assert taught.metrics["test_accuracy"] == row["distilled"]
        assert alone.metrics["test_accuracy"] == row["baseline"]
        assert float(taught.params["temp"]) == row["temp"]
        assert taught.params["seed"] == alone.params["seed"] == str(row["seed"])
    assert metrics["distilled_mean"] == pytest.approx(table["distilled"][:2].mean())
    assert metrics["difference_mean"] == pytest.approx(
        (table["distilled"] - table["baseline"])[:2].mean()
    )

    assert metrics["finals_held"] == 1

    # the same command again repeats nothing, neither trials nor finals
    assert sweep(*flags, "--trials", "3", "--best", "2") == 0
    assert len(all_runs()) == len(runs)
    assert f"{NAME}: resumes run {parent}" in capsys.readouterr().out
    assert mlflow.get_run(parent).data.metrics["finals_held"] == 1
    # more trials continue where it stopped
    first_three = [trial.params for trial in study.trials]
    assert sweep(*flags, "--trials", "4", "--best", "2") == 0
    again = study_named(NAME)
    assert [trial.params for trial in again.trials[:3]] == first_three
    assert len(again.trials) == 4
    assert again.trials[3].params not in first_three
    assert {run.data.tags.get("mlflow.parentRunId", parent) for run in all_runs()} == {parent}

    # the name is that of this very search
    assert sweep(*flags, "--epochs", "3") == 1
    refused = capsys.readouterr().err
    assert f"study_name: '{NAME}' began with epochs=2, got epochs=3; give" in refused
    assert sweep(*flags, "--heartbeat", "7") == 1
    assert "began with heartbeat=20, got heartbeat=7" in capsys.readouterr().err
    assert sweep("temperature_alpha", *flags[1:], "--study_name", NAME) == 1
    assert f"study_name: '{NAME}' began with temp=" in capsys.readouterr().err


@pytest.mark.usefixtures("imitated")
def test_under_mlflow_run_a_sweep_joins_the_run_and_one_that_is_resumed_is_named_in_it(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (mlflow.MlflowClient().create_run("0").info.run_id for _ in range(2))
    for given, trials in ((first, "1"), (second, "2")):
        monkeypatch.setenv("MLFLOW_RUN_ID", given)  # as `mlflow run` does
        assert sweep(*flags, "--trials", trials) == 0
    assert study_named(NAME).user_attrs["run_id"] == first
    joined, named = mlflow.get_run(first), mlflow.get_run(second)
    assert (joined.info.status, named.info.status) == ("FINISHED", "FINISHED")
    assert joined.data.metrics["trials_complete"] == 2
    assert named.data.tags["kdflow.upstream.sweep"] == first
    children = [run for run in all_runs() if run.info.run_id not in (first, second)]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {first}


def test_plan_only_prints_the_plan_and_makes_no_study_and_no_run(
    store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("notebook_grid", "--dataset", str(tiny_npz), "--plan_only", "true") == 0
    plan = capsys.readouterr().out
    assert "plan:" in plan
    assert "train" in plan
    assert "export" in plan
    assert plan.endswith(
        "\n  search  28 trials of distill over temp, alpha, under a minute each"
        "\n  finals  1 setting with 2 seeds, each beside a baseline\n"
    )
    given = ("--dataset", str(tiny_npz), "--plan_only", "true", "--control", "searched")
    assert sweep("augmented", *given, "--trials", "6", "--best", "2") == 0
    assert capsys.readouterr().out.endswith(
        "\n  search  6 trials of distill over temp, alpha, learning_rate, dropout, under a minute"
        " each"
        "\n  search  6 trials of baseline over learning_rate, dropout, under a minute each"
        "\n  finals  2 settings with 2 seeds, each beside a baseline\n"
    )
    assert all_runs() == []
    assert not (store / "sweeps").exists()


@pytest.mark.usefixtures("imitated")
def test_the_plan_of_a_study_that_has_begun_is_what_is_left_of_it(
    flags: list[str], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*flags, "--trials", "2") == 0
    before, trials = len(all_runs()), len(study_named(NAME).trials)
    capsys.readouterr()
    plan_only = (*flags, "--plan_only", "true")
    assert sweep(*plan_only, "--trials", "3") == 0
    planned = "search  3 trials of distill over temp, alpha, under a minute each; ended already: 2"
    assert planned in capsys.readouterr().out
    assert sweep(*plan_only, "--trials", "3", "--epochs", "3") == 1
    shown = capsys.readouterr()
    assert f"study_name: '{NAME}' began with epochs=2, got epochs=3" in shown.err
    assert "plan:" not in shown.out
    mlflow.MlflowClient().delete_run(study_named(NAME).user_attrs["run_id"])
    assert sweep(*plan_only, "--trials", "3") == 1
    assert "expected a study whose run is in the store" in capsys.readouterr().err
    assert (len(all_runs()), len(study_named(NAME).trials)) == (before - 1, trials)


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_after_an_edit_of_the_code_the_finals_are_repeated_and_the_trials_are_not(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def finals() -> list[str]:
        return [run.info.run_id for run in all_runs() if "test_accuracy" in run.data.metrics]

    assert sweep(*flags, "--trials", "1") == 0
    assert len(finals()) == 2 + 2
    monkeypatch.setattr("kdflow.sources.code_sha256", lambda *_: "edited")
    assert sweep(*flags, "--trials", "1") == 0
    assert len(finals()) == 2 * (2 + 2)
    parent = mlflow.get_run(study_named(NAME).user_attrs["run_id"])
    assert parent.data.metrics["finals_held"] == 2
    assert parent.data.metrics["trials_complete"] == 1
    assert sweep(*flags, "--trials", "1") == 0
    assert len(finals()) == 2 * (2 + 2)


def test_a_study_of_a_dropout_that_the_student_does_not_have_is_refused(
    store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n", views=18)]
    assert sweep("augmented", *given, "--student", "dense") == 1
    expected = "student: dense: expected dropout=0, as it has no such layer, got 0.1"
    assert expected in capsys.readouterr().err
    assert all_runs() == []
