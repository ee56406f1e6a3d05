"""Sweeps from end to end on small images, and what the driver promises about trials and finals."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow.entities import Run
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from kdflow import data, logits, tracking
from kdflow.compare import BEATS
from kdflow.errors import KdflowError
from sweeps.__main__ import main
from sweeps.driver import finals, pictures, storage, trials, workers
from sweeps.driver.config import trial_config
from sweeps.driver.storage import (
    _awaited,
    agreed,
    counted,
    enqueue,
    is_surplus,
    open_storage,
    open_study,
    parsed,
    try_again,
    work_off,
)
from sweeps.driver.study import load

STUDIES = "sqlite:///sweeps/studies.db"


def noise(npz: Path, folder: Path, seed: int = 0, views: int = 1) -> str:
    """A folder of logits of those images that mean nothing."""
    images = data.load(str(npz))
    rng = np.random.default_rng(seed)
    train, test = (
        rng.normal(size=(views, len(labels), 3)).astype(np.float32)
        for labels in (images.y_train, images.y_test)
    )
    logits.write(folder, train, test, images, teacher="noise", network="none", holdout=0.1)
    return str(folder)


def sweep(*flags: str) -> int:
    return main([*flags, "--epochs", "2", "--repeats", "2", "--student", "pupil"])


def study_named(name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=STUDIES)


def all_runs() -> list[Run]:
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def text_of(run_id: str, name: str) -> str:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name)).read_text()


def test_a_sweep_is_a_parent_run_with_a_child_per_trial_and_goes_on_under_it(
    store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["notebook_grid", "--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]
    assert sweep(*flags, "--trials", "3", "--best", "2") == 0
    study = study_named("notebook_grid tiny.npz")
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
            f"trial {trial.number}: distill pupil T={trial.params['temp']:.4g}"
            f" alpha={trial.params['alpha']:.4g} seed=0"
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
    assert runs[parent].data.params.keys().isdisjoint({"temp", "alpha"})  # each trial has its own
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
    assert f"goes on under run {parent}" in capsys.readouterr().out
    assert mlflow.get_run(parent).data.metrics["finals_held"] == 1
    # more trials go on where it stopped
    first_three = [trial.params for trial in study.trials]
    assert sweep(*flags, "--trials", "4", "--best", "2") == 0
    again = study_named("notebook_grid tiny.npz")
    assert [trial.params for trial in again.trials[:3]] == first_three
    assert len(again.trials) == 4
    assert again.trials[3].params not in first_three
    assert {run.data.tags.get("mlflow.parentRunId", parent) for run in all_runs()} == {parent}

    # the name is that of this very search
    assert main([*flags, "--epochs", "3", "--student", "pupil"]) == 1
    refused = capsys.readouterr().err
    assert "study_name: 'notebook_grid tiny.npz' began with epochs=2, got epochs=3; give" in refused
    assert sweep(*flags, "--heartbeat", "7") == 1
    assert "began with heartbeat=20, got heartbeat=7" in capsys.readouterr().err
    name = ["--study_name", "notebook_grid tiny.npz"]
    assert sweep("temperature_alpha", *flags[1:], *name) == 1
    assert "study_name: 'notebook_grid tiny.npz' began with temp=" in capsys.readouterr().err


def test_a_pruned_trial_ends_killed_after_the_epochs_that_it_had(
    store: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number > 0)
    flags = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]
    assert sweep("temperature_alpha", *flags, "--trials", "3") == 0
    study = study_named("temperature_alpha tiny.npz")
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    for trial in study.trials[1:]:
        run = mlflow.get_run(trial.user_attrs["run_id"])
        assert run.info.status == "KILLED"
        assert list(trial.intermediate_values) == [1]
        assert run.data.metrics["val_accuracy"] == trial.intermediate_values[1]
    parent = mlflow.get_run(study.user_attrs["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials_pruned"] == 2
    assert parent.data.metrics["epochs_spent"] == 2 + 1 + 1


def test_a_trial_that_fails_ends_failed_and_the_search_goes_on(
    store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]
    assert sweep("notebook_grid", *flags, "--trials", "2", "--learning_rate", "1e38") == 1
    assert "expected a trial that ran to its end, got none" in capsys.readouterr().err
    study = study_named("notebook_grid tiny.npz")
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    parent = study.user_attrs["run_id"]
    assert Counter(run.info.status for run in all_runs()) == {"FAILED": 3}
    assert mlflow.get_run(parent).info.status == "FAILED"


def test_an_interrupted_sweep_ends_killed_and_tries_that_trial_again(
    store: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]

    def interrupt(trial: optuna.Trial, *_: Any) -> None:
        if trial.number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Trial, "report", interrupt)
        assert sweep("notebook_grid", *flags, "--trials", "3") == 130
    study = study_named("notebook_grid tiny.npz")
    parent = study.user_attrs["run_id"]
    interrupted = study.trials[1]
    assert interrupted.state == TrialState.FAIL
    assert mlflow.get_run(interrupted.user_attrs["run_id"]).info.status == "KILLED"
    assert mlflow.get_run(parent).info.status == "KILLED"

    assert sweep("notebook_grid", *flags, "--trials", "3") == 0
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len(complete) == len({tuple(trial.params.values()) for trial in complete}) == 3
    assert interrupted.params in [trial.params for trial in complete]
    assert mlflow.get_run(parent).info.status == "FINISHED"


def test_two_processes_with_the_same_command_share_one_study(store: Path, tiny_npz: Path) -> None:
    tracking.open_store()
    flags = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n")]
    flags += ["--epochs", "2", "--repeats", "2", "--student", "pupil", "--trials", "6"]
    command = [sys.executable, "-m", "sweeps", "notebook_grid", *flags]
    begun = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in begun]
    assert [process.returncode for process in begun] == [0, 0], told
    study = study_named("notebook_grid tiny.npz")
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert len(complete) == len({tuple(trial.params.values()) for trial in complete}) == 6
    parent = study.user_attrs["run_id"]
    children = [run for run in all_runs() if run.info.run_id != parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}
    assert {run.info.status for run in all_runs()} == {"FINISHED"}
    assert len(children) == 6 + 2 + 2  # the trials, the best one's finals, and their baselines


def test_what_a_driver_had_open_when_it_was_killed_is_ended_when_the_study_goes_on(
    store: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    orphans: list[str] = []

    def killed(*_: object) -> dict[str, str]:
        parent = mlflow.active_run()
        assert parent is not None
        above = parent.info.run_id
        for name in ("an export", "the teacher that it trains"):
            tags = {"mlflow.parentRunId": above}
            made = client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
            above = made.info.run_id
            orphans.append(above)
        raise KeyboardInterrupt

    flags = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n"), "--trials", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("sweeps.driver.sweep._initial", killed)
        assert sweep("notebook_grid", *flags) == 130
    assert [client.get_run(orphan).info.status for orphan in orphans] == ["RUNNING"] * 2
    assert sweep("notebook_grid", *flags) == 0
    assert [client.get_run(orphan).info.status for orphan in orphans] == ["FAILED"] * 2


def test_no_trial_loads_a_teacher_and_all_share_the_logits_that_were_verified_first(
    store: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = f"teacher --dataset {tiny_npz} --arch pupil --epochs 1"
    from kdflow.__main__ import main as kdflow

    assert kdflow(made.split()) == 0
    [teacher] = all_runs()
    work = trials.work

    orders = []

    def watched(order: trials.Order) -> None:
        orders.append(order)
        if order.finals:
            return work(order)
        with (
            mock.patch.object(tracking, "load_model", wraps=tracking.load_model) as load_model,
            mock.patch.object(logits, "read", wraps=logits.read) as read_logits,
        ):
            work(order)
        load_model.assert_not_called()
        read_logits.assert_called_once()

    monkeypatch.setattr("sweeps.driver.workers.work", watched)
    flags = ["--dataset", str(tiny_npz), "--teacher", teacher.info.run_id]
    assert sweep("notebook_grid", *flags, "--trials", "3") == 0
    assert [bool(order.finals) for order in orders] == [False, True]
    study = study_named("notebook_grid tiny.npz")
    [export] = [run for run in all_runs() if run.data.tags["kdflow.step"] == "export_logits"]
    for trial in study.trials:
        run = mlflow.get_run(trial.user_attrs["run_id"])
        assert run.data.tags["kdflow.upstream.teacher"] == export.info.run_id


def test_a_study_may_search_what_students_start_from(
    store: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdflow.__main__ import main as kdflow

    monkeypatch.setenv("KDFLOW_CACHE", str(store / "cache"))
    assert kdflow(f"teacher --dataset {tiny_npz} --arch student --epochs 1".split()) == 0
    [teacher] = all_runs()
    flags = ["--dataset", str(tiny_npz), "--teacher", teacher.info.run_id, "--epochs", "2"]
    assert main(["hint_or_not", *flags, "--repeats", "2", "--trials", "6"]) == 0
    study = study_named("hint_or_not tiny.npz")
    [hint] = [run for run in all_runs() if run.data.tags["kdflow.step"] == "hint"]
    for trial in study.trials:
        run = mlflow.get_run(trial.user_attrs["run_id"])
        started = run.data.tags.get("kdflow.upstream.init")
        assert started == (hint.info.run_id if trial.params["init"] == "auto" else None)


@pytest.fixture
def study(store: Path, tiny_npz: Path) -> Iterator[optuna.Study]:
    """A study that takes a trial for dead after three seconds; its parent run has ended."""
    opened = open_storage(parsed("sqlite:///studies.db"), heartbeat=1)
    made, is_new = open_study(opened, "Bob's", {})
    assert is_new
    with tracking.open_run("parent", "sweep", data.load(str(tiny_npz))) as parent:
        made.set_user_attr(storage.PARENT, parent)
    yield made
    opened.remove_session()
    opened.engine.dispose()


def begun_elsewhere(sign_of_life: bool) -> optuna.Trial:
    """A trial of that study whose process does nothing any more."""
    elsewhere = optuna.load_study(study_name="Bob's", storage="sqlite:///studies.db")
    trial = elsewhere.ask({"x": FloatDistribution(0, 1)})
    if sign_of_life:
        RDBStorage("sqlite:///studies.db", heartbeat_interval=1).record_heartbeat(trial._trial_id)
    return trial


@pytest.mark.parametrize("sign_of_life", [True, False])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_trial_of_a_dead_process_is_ended_and_tried_again(
    study: optuna.Study, sign_of_life: bool
) -> None:
    dead = begun_elsewhere(sign_of_life)
    client, parent = mlflow.MlflowClient(), study.user_attrs[storage.PARENT]
    experiment = client.get_run(parent).info.experiment_id
    above = {"mlflow.parentRunId": parent}
    orphan, other = (
        client.create_run(experiment, tags={**above, **storage.tags_of(study, number)}).info.run_id
        for number in (dead.number, dead.number + 1)
    )
    work_off(study, lambda trial: trial.suggest_float("x", 0, 1), budget=3)
    assert study.trials[0].state == TrialState.FAIL
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE] * 3
    assert dead.params["x"] in [trial.value for trial in counted(study)]
    assert client.get_run(orphan).info.status == "FAILED"
    assert client.get_run(other).info.status == "RUNNING"


def test_a_trial_that_an_accident_ended_is_tried_again_when_the_study_goes_on(
    study: optuna.Study,
) -> None:
    enqueue(study, [{"x": 0.0}, {"x": 1.0}])

    def answered(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise ConnectionError("no answer")
        return trial.suggest_float("x", 0, 1)

    with pytest.raises(ConnectionError):
        work_off(study, answered, None)
    work_off(study, answered, None)
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 1
    assert sorted(trial.value or 0 for trial in counted(study)) == [0.0, 1.0]


def test_a_setting_that_always_ends_in_an_accident_does_not_hold_up_the_study(
    study: optuna.Study,
) -> None:
    enqueue(study, [{"x": 0.0}, {"x": 1.0}])

    def too_large(trial: optuna.Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        if value == 0:
            raise MemoryError("no room")
        return value

    for _ in range(1 + storage.CRASHES):
        with pytest.raises(MemoryError):
            work_off(study, too_large, None)
    work_off(study, too_large, None)
    assert [(trial.params["x"], trial.state) for trial in counted(study)] == [
        (1.0, TrialState.COMPLETE),
        (0.0, TrialState.FAIL),
    ]


def test_interrupts_never_use_up_a_setting(study: optuna.Study) -> None:
    enqueue(study, [{"x": 0.0}])
    endings = [*[KeyboardInterrupt] * (2 + storage.CRASHES), *[MemoryError] * storage.CRASHES]
    for ending in endings:

        def ended(trial: optuna.Trial, ending: type[BaseException] = ending) -> float:
            raise ending

        with pytest.raises(ending):
            work_off(study, ended, None)
    work_off(study, lambda trial: trial.suggest_float("x", 0, 1), None)
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE]


def test_what_two_processes_have_enqueued_at_once_is_done_once(study: optuna.Study) -> None:
    for _ in range(2):
        for x in (0.0, 0.5, 1.0):
            study.enqueue_trial({"x": x})
    done = []

    def objective(trial: optuna.Trial) -> float:
        done.append(trial.suggest_float("x", 0, 1))
        if done == [0, 0.5]:
            raise ConnectionError("no answer")
        return 0

    with pytest.raises(ConnectionError):
        work_off(study, objective, None)
    work_off(study, objective, None)
    assert sorted(done) == [0, 0.5, 0.5, 1]
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert sorted(trial.params["x"] for trial in complete) == [0, 0.5, 1]
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE] * 3


def test_a_retried_trial_does_not_pass_for_one_that_its_new_process_has_begun(
    study: optuna.Study,
) -> None:
    dead = begun_elsewhere(sign_of_life=False)
    dead.set_user_attr(storage.PROCESS, ["host", 1])
    dead.set_user_attr("run_id", "its run")
    try_again(study, study.trials[0], crashed=True)
    assert study.trials[1].user_attrs == {}


def test_processes_of_a_study_agree_on_the_first_ones_value(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken() -> str:
        study.set_user_attr("upstream", "of the other, which was faster")
        return "mine"

    assert agreed(study, "upstream", True, overtaken) == "of the other, which was faster"
    assert agreed(study, "upstream", False, lambda: "mine") == "of the other, which was faster"
    monkeypatch.setattr(storage, "PATIENCE", 0)  # as if the maker had died before it had one
    assert agreed(study, "another", False, lambda: "mine") == "mine"
    assert study.user_attrs["another"] == "mine"


def test_a_process_waits_for_the_shared_value_while_its_maker_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(storage, "time", clock)

    def lives_for(seconds: int) -> Callable[[], float]:
        return lambda: min(now, seconds) // storage.SIGN_EVERY

    made = _awaited(lambda: "made" if now >= 3600 else None, lives_for(3600))
    assert (made, now) == ("made", 3600)
    assert _awaited(lambda: None, lives_for(7200)) is None
    assert 7200 < now <= 7200 + storage.PATIENCE + 1


def test_a_maker_gives_signs_of_life_until_it_has_ended(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SIGN_EVERY", 0.01)
    sign, written = "upstream: sign of life", threading.Event()
    write, signs = study.set_user_attr, []

    def unreachable_at_first(name: str, value: object) -> None:
        if name == sign:
            signs.append(value)
            if len(signs) == 1:
                raise StorageInternalError("no answer")
        write(name, value)
        if name == sign:
            written.set()

    monkeypatch.setattr(study, "set_user_attr", unreachable_at_first)

    def make() -> str:
        assert written.wait(60)
        assert study.user_attrs[sign] in signs[1:]
        return "made"

    assert agreed(study, "upstream", True, make) == "made"
    assert study.user_attrs[sign] == storage.ENDED


def test_nobody_waits_for_a_maker_that_was_interrupted(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agreed(study, "upstream", True, interrupted)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    assert agreed(study, "upstream", False, lambda: "mine") == "mine"


def test_a_study_that_minimises_is_refused(store: Path) -> None:
    opened = open_storage(parsed("sqlite:///studies.db"), heartbeat=1)
    optuna.create_study(storage=opened, study_name="Ann's", direction="minimize")
    with pytest.raises(KdflowError, match=r"expected a study that maximises, got .Ann"):
        open_study(opened, "Ann's", {})


@pytest.mark.parametrize("writes", [False, True])
def test_a_trial_that_was_taken_for_dead_does_not_end_the_search(
    study: optuna.Study, writes: bool
) -> None:
    def asleep(trial: optuna.Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        if trial.number == 0:  # another process takes it for dead, and has it done again
            opened = study._storage
            opened.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            try_again(study, study.trials[0], crashed=True)
            if writes:
                trial.set_user_attr("run_id", "a run")
        return value

    work_off(study, asleep, 2)
    assert len(study.trials) == 3
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE] * 2
    assert study.trials[0].params["x"] in [trial.value for trial in counted(study)]


def test_what_was_tried_is_not_enqueued_again_unless_it_failed_and_has_to(
    study: optuna.Study,
) -> None:
    def fail_at_one(trial: optuna.Trial) -> float:
        if trial.suggest_float("x", 0, 1) == 1:
            raise KdflowError("no")
        return 0

    enqueue(study, [{"x": 0.0}, {"x": 1.0}])
    enqueue(study, [{"x": 0.0}, {"x": 1.0}, {"x": 0.5}])
    work_off(study, fail_at_one, None)
    assert [trial.params["x"] for trial in study.trials] == [0, 1, 0.5]
    enqueue(study, [{"x": 0.0}, {"x": 1.0}])
    assert len(study.trials) == 3
    enqueue(study, [{"x": 0.0}, {"x": 1.0}], failed_too=True)
    assert [trial.state for trial in study.trials[3:]] == [TrialState.WAITING]


def test_trials_begun_beyond_the_budget_or_the_queue_are_surplus() -> None:
    study = optuna.create_study(direction="maximize")
    begun = [study.ask().number for _ in range(4)]  # by processes that each saw room for one more
    assert [is_surplus(study, number, 3) for number in begun] == [False, False, False, True]
    study.tell(0, state=TrialState.FAIL)  # one that failed has used up its part
    assert is_surplus(study, 3, 3)
    study.enqueue_trial({"x": 0})
    assert not is_surplus(study, study.ask().number, None)
    assert is_surplus(study, study.ask().number, None)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "an SQLAlchemy URL, got another text"),
        ("postgresql://me:sec@ret:x@host/db", "an SQLAlchemy URL, got another text"),
        ("sqlite://", "a file, got sqlite://, which ends with the process"),
        (
            "sqlite:////proc/none/studies.db",
            "one that answers at sqlite:////proc/none/studies.db, got ",
        ),
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            r"one that answers at postgresql://me:\*\*\*@127.0.0.1:1/x, got",
        ),
    ],
)
def test_a_storage_that_does_not_answer_is_one_line(
    url: str, message: str, store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["notebook_grid", "--dataset", str(tiny_npz), "--storage", url]) == 1
    refused = capsys.readouterr().err
    assert re.search("storage: expected " + message, refused)
    assert "secret" not in refused
    assert "sec@ret" not in refused
    assert refused.count("\n") == 1
    assert all_runs() == []


def test_a_study_of_a_dropout_that_the_student_does_not_have_is_refused(
    store: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(tiny_npz), "--teacher", noise(tiny_npz, store / "n", views=18)]
    assert main(["augmented", *given, "--student", "dense"]) == 1
    expected = "student: dense: expected dropout=0, as it has no such layer, got 0.1"
    assert expected in capsys.readouterr().err
    assert all_runs() == []


def test_a_worker_has_as_many_threads_as_cores_one_store_and_the_passwords(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("UNRELATED", "x")
    mlflow.set_tracking_uri("sqlite:///here.db")
    environment = workers._environment(3)
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{store / 'here.db'}"
    assert environment["PGPASSWORD"] == "secret"
    assert environment["OMP_NUM_THREADS"] == environment["TF_NUM_INTRAOP_THREADS"] == "3"
    assert "UNRELATED" not in environment


def test_workers_without_ray_say_what_to_install(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["notebook_grid", "--dataset", "digits", "--workers", "2"]) == 1
    refused = capsys.readouterr().err
    assert (
        "workers, ray_address: expected Ray for workers=2 and ray_address=none, got none" in refused
    )
    assert refused.count("\n") == 1


@pytest.mark.parametrize("value", [0.5, None])
def test_a_map_and_importances_are_drawn_where_trials_differ(
    value: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, pages = [], []
    monkeypatch.setattr(tracking, "log_figure", lambda figure, name: drawn.append(name))
    monkeypatch.setattr(tracking, "log_text", lambda text, name: pages.append(text))
    search = optuna.create_study(direction="maximize")

    def accuracy(trial: optuna.Trial) -> float:
        values = load("temperature_alpha").suggest(trial)
        for epoch in (1, 2):
            trial.report(values["alpha"], epoch)
        return values["alpha"] if value is None else value

    search.optimize(accuracy, n_trials=5)
    pictures.log(search, ["temp", "alpha"])
    assert ("no map and no importances" in capsys.readouterr().out) == (value is not None)
    always = {"history.png", "slice.png", "intermediate_values.png"}
    assert set(drawn) == always | ({"map.png", "importances.png"} if value is None else set())
    [page] = pages
    assert page.count('class="plotly-graph-div"') == len(drawn)


@pytest.mark.parametrize("best", [1, 3])
def test_over_studies_of_noise_a_finalist_beats_in_at_most_5_percent(best: int) -> None:
    rng, studies, repeats, beaten = np.random.default_rng(best), 400, 5, 0
    config = trial_config(load("temperature_alpha"), {})
    order = trials.Order("s", "s", "", 1, 0, config, {"none": "none"}, "", None)
    for _ in range(studies):
        worth: dict[tuple[str, int], float] = defaultdict(rng.normal)  # of settings and seeds
        study = optuna.create_study(direction="maximize")
        for number in range(20):
            params = {"temp": 1.0 + number}
            value = worth[str(params), order.config.seed]
            space: dict[str, BaseDistribution] = {"temp": FloatDistribution(1, 32)}
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=space, value=value)
            )
        settings = finals.best_settings(study, best)
        trainings = finals.trainings(order, settings, repeats)
        held = optuna.create_study(direction="maximize")
        for index, final in enumerate(trainings):
            trained = str(final.values) if final.taught else "labels alone"
            held.add_trial(
                optuna.trial.create_trial(
                    params={"final": index},
                    distributions={"final": IntDistribution(0, 99)},
                    value=worth[trained, final.seed],
                    user_attrs={"run_id": ""},
                )
            )
        table = finals.results(replace(order, finals=trainings), held)
        verdicts = finals.verdicts(table, repeats)
        beaten += any(result.verdict == BEATS for result in verdicts)
    # two-sided tests at 5 % should give 2.5 %, 10 of 400; 20 would be 3 standard deviations more
    assert 0 < beaten <= 0.05 * studies
