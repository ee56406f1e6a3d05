"""Which trials are run, retried and counted, by one process or by several."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage, _heartbeat
from optuna.trial import TrialState
from sweeping import STUDIES, new_studies, without_waiting

from kdflow.errors import ChangedError, KdflowError, NoRoomError, UnreachableError
from sweeps.driver import trial_queue
from sweeps.driver.trial_queue import (
    CRASHES,
    PROCESS,
    RUN_ID,
    SURPLUS,
    counted,
    enqueue,
    is_surplus,
    retry,
    run_trials,
    tags_of,
)


@pytest.fixture(scope="module")
def new_study(shared_store: Path) -> Iterator[Callable[[], optuna.Study]]:
    with new_studies() as make:
        yield make


@pytest.fixture
def study(new_study: Callable[[], optuna.Study]) -> Iterator[optuna.Study]:
    with without_waiting():
        yield new_study()


def started_elsewhere(study: optuna.Study, has_heartbeat: bool) -> optuna.Trial:
    """A trial of that study whose process does nothing any more."""
    elsewhere = optuna.load_study(study_name=study.study_name, storage=STUDIES)
    trial = elsewhere.ask({"x": FloatDistribution(0, 1)})
    if has_heartbeat:
        RDBStorage(STUDIES, heartbeat_interval=1).record_heartbeat(trial._trial_id)
    return trial


@pytest.mark.parametrize("has_heartbeat", [True, False])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_trial_of_a_dead_process_is_marked_failed_and_retried(
    study: optuna.Study, has_heartbeat: bool
) -> None:
    dead = started_elsewhere(study, has_heartbeat)
    client, parent = mlflow.MlflowClient(), study.user_attrs[RUN_ID]
    experiment = client.get_run(parent).info.experiment_id
    above = {"mlflow.parentRunId": parent}
    orphan, other = (
        client.create_run(experiment, tags={**above, **tags_of(study, number)}).info.run_id
        for number in (dead.number, dead.number + 1)
    )
    run_trials(study, lambda trial: trial.suggest_float("x", 0, 1), budget=3)
    assert study.trials[0].state == TrialState.FAIL
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE] * 3
    assert dead.params["x"] in [trial.value for trial in counted(study)]
    assert client.get_run(orphan).info.status == "FAILED"
    assert client.get_run(other).info.status == "RUNNING"


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_trial_of_a_process_that_died_as_soon_as_it_was_named_is_retried(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def named(trial: optuna.Trial, name: str, value: object) -> None:
        study._storage.set_trial_user_attr(trial._trial_id, name, value)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(_heartbeat.HeartbeatThread, "start", lambda _: None)  # it is late
        patch.setattr(_heartbeat.HeartbeatThread, "join", lambda _: None)
        patch.setattr(optuna.Trial, "set_user_attr", named)
        patch.setattr(
            RDBStorage, "set_trial_state_values", lambda *_, **__: True
        )  # nothing ends it
        with pytest.raises(Died):
            run_trials(study, lambda trial: trial.suggest_float("x", 0, 1), budget=1)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    run_trials(study, lambda trial: trial.suggest_float("x", 0, 1), budget=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_a_crash_ended_is_retried_when_the_study_is_resumed(
    study: optuna.Study,
) -> None:
    enqueue(study, [{"x": 0.0}, {"x": 1.0}])

    def answered(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise ConnectionError("no answer")
        return trial.suggest_float("x", 0, 1)

    with pytest.raises(ConnectionError):
        run_trials(study, answered, None)
    run_trials(study, answered, None)
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 1
    assert sorted(trial.value or 0 for trial in counted(study)) == [0.0, 1.0]


def test_a_setting_that_always_crashes_does_not_hold_up_the_study(study: optuna.Study) -> None:
    enqueue(study, [{"x": 0.0}, {"x": 1.0}])

    def too_large(trial: optuna.Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        if value == 0:
            raise MemoryError("no room")
        return value

    for _ in range(1 + CRASHES):
        with pytest.raises(MemoryError):
            run_trials(study, too_large, None)
    run_trials(study, too_large, None)
    assert [(trial.params["x"], trial.state) for trial in counted(study)] == [
        (1.0, TrialState.COMPLETE),
        (0.0, TrialState.FAIL),
    ]


@pytest.mark.parametrize(
    "outside", [KeyboardInterrupt, UnreachableError, NoRoomError, ChangedError]
)
def test_what_is_not_of_the_trial_never_uses_up_a_setting(
    study: optuna.Study, outside: type[BaseException]
) -> None:
    enqueue(study, [{"x": 0.0}])
    endings = [*[outside] * (2 + CRASHES), *[MemoryError] * CRASHES]
    for ending in endings:

        def ended(trial: optuna.Trial, ending: type[BaseException] = ending) -> float:
            raise ending

        with pytest.raises(ending):
            run_trials(study, ended, None)
    run_trials(study, lambda trial: trial.suggest_float("x", 0, 1), None)
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE]


def test_a_storage_that_does_not_answer_ends_the_search_and_not_the_setting(
    study: optuna.Study,
) -> None:
    enqueue(study, [{"x": 0.5}])

    def reports(trial: optuna.Trial) -> float:
        if trial.number <= CRASHES:
            raise optuna.exceptions.StorageInternalError("gone away")
        return trial.suggest_float("x", 0, 1)

    for _ in range(CRASHES + 1):
        with pytest.raises(
            UnreachableError, match=r"^storage: .* not answer .gone away.; the same"
        ):
            run_trials(study, reports, None)
    run_trials(study, reports, None)
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE]


def test_what_two_processes_have_enqueued_at_once_is_run_once(study: optuna.Study) -> None:
    for _ in range(2):
        for x in (0.0, 0.5, 1.0):
            study.enqueue_trial({"x": x})
    run = []

    def objective(trial: optuna.Trial) -> float:
        run.append(trial.suggest_float("x", 0, 1))
        if run == [0, 0.5]:
            raise ConnectionError("no answer")
        return 0

    with pytest.raises(ConnectionError):
        run_trials(study, objective, None)
    run_trials(study, objective, None)
    assert sorted(run) == [0, 0.5, 0.5, 1]
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert sorted(trial.params["x"] for trial in complete) == [0, 0.5, 1]
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE] * 3


def test_a_retried_trial_does_not_pass_for_one_that_its_new_process_has_started(
    study: optuna.Study,
) -> None:
    dead = started_elsewhere(study, has_heartbeat=False)
    dead.set_user_attr(PROCESS, ["host", 1])
    dead.set_user_attr("run_id", "its run")
    retry(study, study.trials[0], crashed=True)
    assert study.trials[1].user_attrs == {}


@pytest.mark.parametrize("writes", [False, True])
def test_a_trial_that_another_process_has_marked_failed_does_not_end_the_search(
    study: optuna.Study, writes: bool
) -> None:
    def asleep(trial: optuna.Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        if trial.number == 0:  # another process finds it stale, and retries it
            opened = study._storage
            opened.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            retry(study, study.trials[0], crashed=True)
            if writes:
                trial.set_user_attr("run_id", "a run")
        return value

    run_trials(study, asleep, 2)
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
    run_trials(study, fail_at_one, None)
    assert [trial.params["x"] for trial in study.trials] == [0, 1, 0.5]
    enqueue(study, [{"x": 0.0}, {"x": 1.0}])
    assert len(study.trials) == 3
    enqueue(study, [{"x": 0.0}, {"x": 1.0}], failed_too=True)
    assert [trial.state for trial in study.trials[3:]] == [TrialState.WAITING]


def test_trials_started_beyond_the_budget_or_the_queue_are_surplus() -> None:
    study = optuna.create_study(direction="maximize")
    started = [study.ask().number for _ in range(4)]  # by processes that each saw room for one
    assert [is_surplus(study, number, 3) for number in started] == [False, False, False, True]
    study.tell(0, state=TrialState.FAIL)  # one that failed has used up its part
    assert is_surplus(study, 3, 3)
    study.enqueue_trial({"x": 0})
    assert not is_surplus(study, study.ask().number, None)
    assert is_surplus(study, study.ask().number, None)


# --- the same rules over random histories ---

POINTS = [{"x": 0.0}, {"x": 0.5}, {"x": 1.0}]
ENDINGS = ("complete", "fail", "crash", "interrupt", "die")
quickly = settings(deadline=None, database=None, max_examples=60)


class Process:
    """One of several processes that work on a study, a step of `run_trials` at a time: look whether
    there is a trial to run, start it, check that it is not surplus, end it."""

    def __init__(self, study: optuna.Study, budget: int | None, ended: list[int]) -> None:
        self.study, self.budget, self.ended = study, budget, ended
        self.act, self.number = "look", -1

    def step(self, ending: str) -> bool:
        """Take the next step; returns whether there was one."""
        if self.act == "look":
            trials = counted(self.study)
            is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not (is_waiting or (self.budget is not None and len(trials) < self.budget)):
                return False
            self.act = "start"
        elif self.act == "start":
            self.number = self.study.ask({"x": FloatDistribution(0, 1)}).number
            self.act = "check"
        elif self.act == "check":
            if is_surplus(self.study, self.number, self.budget):
                trial_id = self.study.trials[self.number]._trial_id
                self.study._storage.set_trial_user_attr(trial_id, SURPLUS, True)
                self.study.tell(self.number, state=TrialState.FAIL)
                self.act = "look"
            else:
                self.act = "end"
        elif self.act == "retry":  # a process that died: another one retries its trial
            self.retry(crashed=True)
            self.act = "look"
        else:
            self.act = "retry" if ending == "die" else "look"
            self.end(ending)
        return True

    def end(self, ending: str) -> None:
        if ending in ("crash", "interrupt"):
            self.retry(crashed=ending == "crash")
        if ending == "complete":
            self.study.tell(self.number, 0.5)
        else:
            self.study.tell(self.number, state=TrialState.FAIL)
        if ending in ("complete", "fail"):
            self.ended.append(self.number)

    def retry(self, crashed: bool) -> None:
        before = len(self.study.trials)
        retry(self.study, self.study.trials[self.number], crashed=crashed)
        if len(self.study.trials) == before:  # after too many crashes
            self.ended.append(self.number)


def in_turns(study: optuna.Study, budget: int | None, steps: list[tuple[int, str]]) -> list[int]:
    """The numbers of the trials that ended for good, after these steps of three processes and
    then as many more as there are."""
    ended: list[int] = []
    processes = [Process(study, budget, ended) for _ in range(3)]
    for index, ending in steps:
        processes[index].step(ending)
    while any(process.step("complete") for process in processes):
        pass
    return ended


def first_try(study: optuna.Study, number: int) -> int:
    """The number of the trial that this one retries, or its own."""
    return int(study.trials[number].system_attrs.get("failed_trial", number))


steps_of_processes = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ENDINGS)), max_size=80)


@quickly
@given(budget=st.integers(1, 4), steps=steps_of_processes)
def test_processes_that_act_in_any_order_end_just_as_many_trials_as_the_budget(
    budget: int, steps: list[tuple[int, str]]
) -> None:
    study = optuna.create_study(direction="maximize")
    ended = in_turns(study, budget, steps)
    assert len(ended) == budget
    assert len({first_try(study, number) for number in ended}) == budget  # a retry counts once
    assert sorted(trial.number for trial in counted(study)) == sorted(ended)


@quickly
@given(copies=st.lists(st.sampled_from(POINTS), max_size=6), steps=steps_of_processes)
def test_processes_that_act_in_any_order_run_each_enqueued_setting_once(
    copies: list[dict[str, float]], steps: list[tuple[int, str]]
) -> None:
    study = optuna.create_study(direction="maximize")
    enqueue(study, POINTS)
    for point in copies:  # by processes that read the queue before it was filled
        study.enqueue_trial(point)
    ended = in_turns(study, None, steps)
    states = Counter((study.trials[n].params["x"], study.trials[n].state) for n in ended)
    for point in POINTS:
        complete, failed = (
            states[point["x"], state] for state in (TrialState.COMPLETE, TrialState.FAIL)
        )
        assert complete == 1 or (complete == 0 and failed >= 1)
    assert enqueued_anew(study) == []


def enqueued_anew(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    before = len(study.trials)
    enqueue(study, POINTS)
    return study.trials[before:]


@contextlib.contextmanager
def quiet_queue() -> Iterator[None]:
    with (
        mock.patch.object(trial_queue, "end_stale"),  # storage in memory has no heartbeats
        mock.patch.object(trial_queue, "send_heartbeat"),
        mock.patch.object(trial_queue, "LOOK_EVERY", 0),
    ):
        yield


ERRORS: dict[str, Any] = {
    "fail": KdflowError("no"),
    "crash": ConnectionError("no answer"),
    "interrupt": KeyboardInterrupt(),
}


@quickly
@given(
    budget=st.integers(1, 4),
    is_grid=st.booleans(),
    endings=st.lists(st.sampled_from(["complete", *ERRORS]), max_size=30),
)
def test_a_study_that_is_resumed_after_each_crash_has_its_budget_of_trials(
    budget: int, is_grid: bool, endings: list[str]
) -> None:
    study = optuna.create_study(direction="maximize")
    history: list[tuple[int, str]] = []

    def objective(trial: optuna.Trial) -> float:
        ending = endings[len(history)] if len(history) < len(endings) else "complete"
        history.append((first_try(study, trial.number), ending))
        if ending in ERRORS:
            raise ERRORS[ending]
        return trial.suggest_float("x", 0, 1)

    points = POINTS[:budget]
    is_finished = False
    with quiet_queue():
        while not is_finished:
            if is_grid:
                enqueue(study, points)
            with contextlib.suppress(ConnectionError, KeyboardInterrupt):
                run_trials(study, objective, None if is_grid else budget)
                is_finished = True

    expected = len(points) if is_grid else budget
    by_setting: dict[int, list[str]] = {}
    for first, ending in history:
        by_setting.setdefault(first, []).append(ending)
    assert len(by_setting) == len(counted(study)) == expected
    for tries in by_setting.values():
        assert all(ending in ("crash", "interrupt") for ending in tries[:-1])
        assert tries[-1] in ("complete", "fail") or tries.count("crash") == CRASHES + 1
