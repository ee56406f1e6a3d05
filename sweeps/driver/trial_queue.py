"""The trials of a study: its queue, its budget, and what is retried after a crash."""

import contextlib
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from kdflow.errors import KdflowError
from kdflow.tracking import runs

# On the runs of trials.
STUDY_TAG, TRIAL_TAG = "kdflow.study", "kdflow.trial"
# On studies: the id of the parent run.
PARENT = "run_id"
# On trials: which process runs it; that it started beyond the budget, or after its setting had.
PROCESS, SURPLUS = "process", "surplus"
# On Optuna's own side of a trial: how many crashes its setting has ended in so far.
CRASHED = "crashed"

CRASHES = 3  # of a setting, before it is not retried
MISSED_HEARTBEATS = 3  # after which a trial is marked failed


class Surplus(Exception):
    """Another process started the last trial, or one of the same enqueued setting, first."""


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Optuna calls heartbeats and what goes with them experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def tags_of(study: optuna.Study, number: int) -> dict[str, str]:
    """What names a trial in the tracking store."""
    return {STUDY_TAG: study.study_name, TRIAL_TAG: str(number)}


def enqueue(
    study: optuna.Study, points: Sequence[dict[str, Any]], *, failed_too: bool = False
) -> None:
    """Have these settings tried, except for those that have been or will be.

    Args:
        failed_too: whether those that have failed are tried again.
    """
    spent = [
        trial.params if _fixed(trial) is None else _fixed(trial)
        for trial in counted(study)
        if not (failed_too and trial.state == TrialState.FAIL)
    ]
    for point in points:
        if point not in spent:
            study.enqueue_trial(point)


def try_again(study: optuna.Study, trial: FrozenTrial, *, crashed: bool) -> None:
    """Have a trial that did not come to its end done again, by whoever is next.

    Args:
        crashed: whether an accident ended it, and not an interrupt; a setting that has ended in
            more than `CRASHES` of them is given up.
    """
    crashes = trial.system_attrs.get(CRASHED, 0) + crashed
    if crashes > CRASHES:
        return
    kept = {
        name: value
        for name, value in trial.system_attrs.items()
        if not name.startswith("completed_rung")  # the new one reaches them by itself
    }
    trial.system_attrs, trial.user_attrs = {**kept, CRASHED: crashes}, {}
    with experimental():
        RetryHeartbeatStaleTrialCallback()(study, trial)


def after_a_crash(study: optuna.Study, trial: FrozenTrial) -> None:
    try_again(study, trial, crashed=True)
    try:
        runs.end_abandoned(study.user_attrs[PARENT], tags_of(study, trial.number))
    except Exception as error:  # Optuna has more dead trials to go through
        reason = " ".join(str(error).split())
        print(f"trial {trial.number}: its run could not be ended: {reason}")


def end_stale(study: optuna.Study, silent_since: dict[int, float]) -> None:
    """Fail, and have done again, the trials whose process gives no sign of life any more.

    Args:
        silent_since: since when this process has known the trials without any, in seconds of its
            own clock; kept up to date.
    """
    with experimental():
        optuna.storages.fail_stale_trials(study)
    # a process can die before its trial's first heartbeat, which Optuna does not notice
    interval = study._storage.get_heartbeat_interval()  # type: ignore[attr-defined]
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if PROCESS in trial.user_attrs:
            continue
        silent = time.monotonic() - silent_since.setdefault(trial.number, time.monotonic())
        if silent > MISSED_HEARTBEATS * interval:
            with contextlib.suppress(OptunaError, ValueError):  # another process was first
                study.tell(trial.number, state=TrialState.FAIL)
                after_a_crash(study, trial)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that use up the budget: neither surplus nor done again as another one."""
    trials = study.get_trials(deepcopy=False)
    done_again = {number for trial in trials for number in _retry_history(trial)}
    return [
        trial
        for trial in trials
        if trial.number not in done_again and SURPLUS not in trial.user_attrs
    ]


def _retry_history(trial: FrozenTrial) -> list[int]:
    with experimental():
        return RetryHeartbeatStaleTrialCallback.retry_history(trial)


def is_surplus(study: optuna.Study, number: int, budget: int | None) -> bool:
    """Whether the trial `number` was begun when earlier ones had used up the budget or, without
    one, the queue, or had its enqueued setting: processes that start at once all fill the queue."""
    before = [trial for trial in counted(study) if trial.number < number]
    if budget is not None:
        return len(before) >= budget
    fixed = _fixed(study.get_trials(deepcopy=False)[number])
    return fixed is None or any(
        _fixed(trial) == fixed for trial in before if trial.state != TrialState.FAIL
    )


def _fixed(trial: FrozenTrial) -> dict[str, Any] | None:
    """The setting that a trial was enqueued with."""
    return trial.system_attrs.get("fixed_params")


def work_off(
    study: optuna.Study, objective: Callable[[optuna.Trial], float], budget: int | None
) -> None:
    """Run trials until `budget` of them have ended, here or in other processes, or, without a
    budget, until all that were enqueued have.

    While others run the last ones, wait: one of them may die, and its trial be tried again. A trial
    that an accident ends is tried again too, after an interrupt always, else `CRASHES` times.
    """
    begun: list[int] = []
    failures: list[BaseException] = []
    silent_since: dict[int, float] = {}

    def watched(trial: optuna.Trial) -> float:
        begun.append(trial.number)
        trial.set_user_attr(PROCESS, [socket.gethostname(), os.getpid()])
        if is_surplus(study, trial.number, budget):
            trial.set_user_attr(SURPLUS, True)
            raise Surplus
        try:
            return objective(trial)
        except (optuna.TrialPruned, UpdateFinishedTrialError, KdflowError):
            raise
        except BaseException as failure:  # an interrupt, or a store that does not answer
            failures.append(failure)
            frozen = study.trials[trial.number]
            if frozen.state == TrialState.RUNNING:
                try_again(study, frozen, crashed=not isinstance(failure, KeyboardInterrupt))
            raise

    ended_before = False
    while True:
        end_stale(study, silent_since)
        trials = counted(study)
        if any(trial.state == TrialState.WAITING for trial in trials) or (
            budget is not None and len(trials) < budget
        ):
            try:
                study.optimize(watched, n_trials=1, catch=(Surplus, KdflowError))
            except (ValueError, AssertionError, UpdateFinishedTrialError):
                # Optuna's, about a trial that was taken for dead in the meantime
                if failures or not begun or study.trials[begun[-1]].state != TrialState.FAIL:
                    raise
        else:
            ended = all(trial.state.is_finished() for trial in trials)
            if ended and ended_before:  # the trial of a crash fails just before it is enqueued
                return
            ended_before = ended
            time.sleep(1)
