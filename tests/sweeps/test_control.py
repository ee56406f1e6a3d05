"""A searched control: what its study tries, and what the finals take from it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from sweeping import (
    all_runs,
    children_of,
    imitated_fit,
    imitated_training,
    noise,
    study_named,
    sweep,
)

from kdflow.steps.baseline import BaselineConfig
from kdflow.training.objective import Distillation
from sweeps.driver import control, finals
from sweeps.driver.config import trial_config
from sweeps.driver.study import Study, grid, load
from sweeps.driver.trials import Order, training_of

RATE, VIEWS = FloatDistribution(0.0003, 0.006, log=True), CategoricalDistribution([1, 2])
ORDER = Order(
    study="recipe",
    name="s",
    storage="",
    heartbeat=1,
    sampler_seed=0,
    config=trial_config(load("recipe"), {}),
    initial={"none": "none"},
    parent="",
    budget=None,
    reuse="any",
)


# --- what it searches ---


def test_the_controls_study_has_the_parameters_of_the_baseline_by_its_names_and_no_others() -> None:
    file = load("recipe")
    searched = control.baseline_study(file)
    assert searched.space == {"learning_rate": RATE, "augment": VIEWS}
    assert searched.described_search() == file.described_search()
    assert searched.trials == file.trials


def test_points_that_are_the_same_for_the_baseline_are_tried_once() -> None:
    points = grid({"temp": [2.0, 4.0], "learning_rate": [0.001, 0.002], "views": [1]})
    space = {"temp": FloatDistribution(2, 4), "learning_rate": RATE, "views": VIEWS}
    searched = control.baseline_study(Study(space=space, trials=4, cost="none", points=points))
    assert searched.points == [
        {"learning_rate": 0.001, "augment": 1},
        {"learning_rate": 0.002, "augment": 1},
    ]


# --- what the finals take ---


def test_finals_with_a_fixed_control_have_the_name_that_they_had_before_it_could_be_searched() -> (
    None
):
    # echo -n '[[{"temp": 2.0}, 1, true], [{"temp": 2.0}, 2, true], [{"temp": 2.0}, 1, false],
    # [{"temp": 2.0}, 2, false]]', on one line, | sha256sum
    trainings = finals.trainings(ORDER, [{"temp": 2.0}], repeats=2)
    assert finals.name_of(ORDER, trainings) == "s finals 6fa36750"
    searched = replace(ORDER, control={"learning_rate": 0.002})
    assert finals.name_of(searched, trainings) != "s finals 6fa36750"


def test_all_finalists_share_the_baselines_of_a_searched_control() -> None:
    best = {"learning_rate": 0.005, "augment": 2}
    order = replace(ORDER, control=best)
    settings = [{"temp": 2.0, "learning_rate": 0.001, "views": 1}, {"learning_rate": 0.003}]
    trainings = finals.trainings(order, settings, repeats=2)
    taught = [training_of(order, each) for each in trainings if each.taught]
    assert [each.learning_rate for each in taught] == [0.001, 0.001, 0.003, 0.003]
    alone = [training_of(order, each) for each in trainings if not each.taught]
    expected = BaselineConfig(  # type: ignore[call-arg]
        schedule="cosine", learning_rate=0.005, augment=2, seed=1
    )
    assert alone == [expected, expected.model_copy(update={"seed": 2})]


# --- from start to end ---


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a study of this test's own."""
    return f"study {request.node.name}"


@pytest.fixture
def flags(shared_store: Path, tiny_npz: Path, tmp_path: Path, name: str) -> list[str]:
    """Of a sweep of those images with a teacher of noise."""
    teacher = noise(tiny_npz, tmp_path / "n", views=2)
    given = {"dataset": tiny_npz, "teacher": teacher, "study_name": name, "control": "searched"}
    return [f"--{flag}={value}" for flag, value in given.items()]


BEST_TAUGHT, BEST_ALONE = 0.001, 0.004  # learning rates


def fit_by_rate(*args: Any) -> Iterator[tuple[int, dict[str, float]]]:
    """Stands for `fit`: the nearer the learning rate is to the best, the better."""
    _, _, _, objective, settings, *_ = args
    best = BEST_TAUGHT if isinstance(objective, Distillation) else BEST_ALONE
    for epoch, metrics in imitated_fit(*args):
        yield epoch, metrics | {"val_accuracy": 1 - abs(settings.learning_rate - best)}


@pytest.fixture
def imitated() -> Iterator[None]:
    with imitated_training(), mock.patch("kdflow.steps.training.fit", fit_by_rate):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_a_searched_control_has_as_many_trials_and_its_best_is_compared_with_the_best_distilled(
    flags: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("recipe", *flags, "--trials", "4") == 0
    taught, alone = study_named(name), study_named(f"{name} control")
    assert [len(study.trials) for study in (taught, alone)] == [4, 4]
    assert {"temp", "alpha", "learning_rate", "loss", "views"} == set(taught.trials[0].params)
    parent = taught.user_attrs["run_id"]
    children = {run.info.run_id: run.data for run in children_of(parent)}
    assert len(children) == 4 + 4 + 2 + 2
    for trial in alone.trials:
        data = children[trial.user_attrs["run_id"]]
        assert set(trial.params) == {"learning_rate", "augment"}
        assert float(data.params["learning_rate"]) == trial.params["learning_rate"]
        assert int(data.params["augment"]) == trial.params["augment"]
        assert (data.params["epochs"], list(trial.intermediate_values)) == ("2", [1, 2])
        assert data.tags["mlflow.runName"] == f"#{trial.number} baseline trial pupil"
        assert data.tags["kdflow.step"] == "baseline"
        assert data.tags["kdflow.study"] == f"{name} control"
        assert "test_accuracy" not in data.metrics

    def nearest(study: optuna.Study, best: float) -> dict[str, Any]:
        trials = study.get_trials(states=[TrialState.COMPLETE])
        return min(trials, key=lambda it: abs(it.params["learning_rate"] - best)).params

    best_taught, best_alone = nearest(taught, BEST_TAUGHT), nearest(alone, BEST_ALONE)
    assert best_taught["learning_rate"] != best_alone["learning_rate"]
    read = [data for data in children.values() if "test_accuracy" in data.metrics]
    compared = {(data.tags["kdflow.step"], data.params["seed"]): data.params for data in read}
    assert set(compared) == {(s, seed) for s in ("baseline", "distill") for seed in ("1", "2")}
    for (step, _), params in compared.items():
        best = best_alone if step == "baseline" else best_taught
        assert float(params["learning_rate"]) == best["learning_rate"]
        shown = params["augment"] if step == "baseline" else params["views"]
        assert int(shown) == best["augment" if step == "baseline" else "views"]

    run = mlflow.get_run(parent)
    assert run.data.tags["kdflow.control"] == "searched: learning_rate, augment"
    assert float(run.data.tags["control_best.learning_rate"]) == best_alone["learning_rate"]
    assert float(run.data.tags["best.learning_rate"]) == best_taught["learning_rate"]
    assert run.data.metrics["control_trials_complete"] == 4
    assert run.data.metrics["control_epochs_spent"] == run.data.metrics["epochs_spent"] == 8
    assert len(pd.read_csv(f"{run.info.artifact_uri}/control_trials.csv")) == 4
    for table in ("finals.csv", "verdicts.csv"):
        rows = pd.read_csv(f"{run.info.artifact_uri}/{table}")
        assert set(rows["control_learning_rate"]) == {best_alone["learning_rate"]}
        assert set(rows["control_augment"]) == {best_alone["augment"]}
    said = f"from labels alone (searched: learning_rate={best_alone['learning_rate']} augment="
    assert said in capsys.readouterr().out

    # the same command again repeats nothing, and a larger budget extends both studies
    assert sweep("recipe", *flags, "--trials", "4") == 0
    assert len(children_of(parent)) == len(children)
    assert sweep("recipe", *flags, "--trials", "6") == 0
    assert [len(study.get_trials()) for study in (taught, alone)] == [6, 6]


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_a_sweep_that_is_interrupted_in_its_controls_trials_goes_on_there(
    flags: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = optuna.Trial.report

    def interrupted(trial: optuna.Trial, value: float, step: int) -> None:
        if trial.study.study_name.endswith(" control") and trial.number == 1:
            raise KeyboardInterrupt
        report(trial, value, step)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Trial, "report", interrupted)
        assert sweep("recipe", *flags, "--trials", "3") == 130
    assert sweep("recipe", *flags, "--trials", "3") == 0
    taught, alone = study_named(name), study_named(f"{name} control")
    assert [trial.state for trial in taught.trials] == [TrialState.COMPLETE] * 3
    states = [trial.state for trial in alone.trials]
    assert sorted(states) == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    ended = {run.info.run_id: run.info.status for run in all_runs()}
    assert ended[alone.trials[1].user_attrs["run_id"]] == "KILLED"
    assert ended[taught.user_attrs["run_id"]] == "FINISHED"


@pytest.mark.slow
@pytest.mark.usefixtures("imitated")
def test_the_control_of_a_grid_tries_the_points_that_differ_for_it(
    flags: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    points = grid({"temp": [2.0, 4.0], "learning_rate": [0.001, 0.002, 0.003]})
    space = {"temp": FloatDistribution(2, 4), "learning_rate": RATE}
    file = Study(space=space, trials=6, cost="none", points=points)
    with (
        mock.patch("sweeps.__main__.load", return_value=file),
        mock.patch("sweeps.driver.trials.load_study", return_value=file),
    ):
        assert sweep("notebook_grid", *flags, "--trials", "5") == 0  # not temp=4, rate=.003
    assert "control: 3 trials of the baseline, over learning_rate\n" in capsys.readouterr().out
    tried = [trial.params for trial in study_named(f"{name} control").trials]
    assert tried == [{"learning_rate": rate} for rate in (0.001, 0.002, 0.003)]
    best = mlflow.get_run(study_named(name).user_attrs["run_id"]).data.tags
    assert float(best["control_best.learning_rate"]) == 0.003  # the nearest to .004
