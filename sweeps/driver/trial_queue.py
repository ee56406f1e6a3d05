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
from sqlalchemy.exc import SQLAlchemyError

from kdflow.errors import ChangedError, KdflowError, NoRoomError, UnreachableError, reason
from kdflow.tags import STUDY_TAG, TRIAL_TAG
from kdflow.tracking import dead

# On studies the id of the parent run, on trials that of their own.
RUN_ID = "run_id"
# On trials: the process that runs it; whether it is surplus, see `is_surplus`.
PROCESS, SURPLUS = "process", "surplus"
# Among Optuna's own attributes of a trial: how many crashes its setting has had.
CRASHED = "crashed"

STORAGE_ERRORS = (OptunaError, SQLAlchemyError)
# What ends a trial, and the sweep with it, whatever the trial's setting.
NOT_OF_THE_TRIAL = (KeyboardInterrupt, UnreachableError, NoRoomError, ChangedError)
CRASHES = 3  # retries of a setting after crashes
MISSED_HEARTBEATS = 3  # after which a trial is marked failed
LOOK_EVERY = 1.0  # seconds between two looks at the trials of other processes


class SurplusTrialError(Exception):
    """Ends a trial that another process has started too, see `is_surplus`."""


class FailedTrialError(Exception):
    """Ends a trial whose setting cannot be trained; the others go on."""


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Silence Optuna's warnings that heartbeats are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def tags_of(study: optuna.Study, number: int) -> dict[str, str]:
    """The tags of a trial's run."""
    return {STUDY_TAG: study.study_name, TRIAL_TAG: str(number)}


def enqueue(
    study: optuna.Study, points: Sequence[dict[str, Any]], *, failed_too: bool = False
) -> None:
    """Add settings to the study's queue, except those that it has tried or has in the queue.

    Args:
        failed_too: whether to add settings that have failed.
    """
    spent = [
        trial.params if _fixed(trial) is None else _fixed(trial)
        for trial in counted(study)
        if not (failed_too and trial.state == TrialState.FAIL)
    ]
    for point in points:
        if point not in spent:
            study.enqueue_trial(point)


def retry(study: optuna.Study, trial: FrozenTrial, *, crashed: bool) -> None:
    """Add a trial that did not end to the queue again.

    Args:
        crashed: whether an error ended it, and not an interrupt. A setting is retried at most
            `CRASHES` times after errors.
    """
    crashes = trial.system_attrs.get(CRASHED, 0) + crashed
    if crashes > CRASHES:
        return
    kept = {
        name: value
        for name, value in trial.system_attrs.items()
        if not name.startswith("completed_rung")  # of the pruner; the retry starts at epoch 1
    }
    trial.system_attrs, trial.user_attrs = {**kept, CRASHED: crashes}, {}
    with experimental():
        RetryHeartbeatStaleTrialCallback()(study, trial)


def after_a_crash(study: optuna.Study, trial: FrozenTrial) -> None:
    """Retry a trial whose process has died, and end its run."""
    retry(study, trial, crashed=True)
    try:
        dead.end_abandoned(study.user_attrs[RUN_ID], tags_of(study, trial.number))
    except Exception as error:  # Optuna goes on to the next stale trial
        print(f"trial {trial.number}: its run could not be ended: {reason(error)}")


def end_stale(study: optuna.Study, first_seen: dict[int, float]) -> None:
    """Mark stale trials failed, and retry them: those whose heartbeats are missing.

    Args:
        first_seen: when this process first saw each trial that has no heartbeat yet, in seconds
            of its own clock, by the trial's number; updated here.
    """
    with experimental():
        optuna.storages.fail_stale_trials(study)
    # a process can die before its trial's first heartbeat, which Optuna does not notice
    interval = study._storage.get_heartbeat_interval()  # type: ignore[attr-defined]
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if PROCESS in trial.user_attrs:
            continue
        waited = time.monotonic() - first_seen.setdefault(trial.number, time.monotonic())
        if waited > MISSED_HEARTBEATS * interval:
            with contextlib.suppress(OptunaError, ValueError):  # another process was first
                study.tell(trial.number, state=TrialState.FAIL)
                after_a_crash(study, trial)


def send_heartbeat(study: optuna.Study, trial: optuna.Trial) -> None:
    """Send a heartbeat of a trial before its process is named in it: Optuna's own first one may
    come later, and `end_stale` notices a process that dies before that only while the trial has no
    attribute `PROCESS`."""
    study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards the budget: neither surplus nor retried as another trial."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in _retry_history(trial)}
    return [
        trial for trial in trials if trial.number not in retried and SURPLUS not in trial.user_attrs
    ]


def ended(study: optuna.Study) -> int:
    """How many trials that count have ended."""
    return sum(trial.state.is_finished() for trial in counted(study))


def _retry_history(trial: FrozenTrial) -> list[int]:
    with experimental():
        return RetryHeartbeatStaleTrialCallback.retry_history(trial)


def is_surplus(study: optuna.Study, number: int, budget: int | None) -> bool:
    """Whether a trial that has started is one too many, because several processes acted at once:
    earlier trials had used up the budget or, without a budget, it is not from the queue or an
    earlier one has the same setting from the queue."""
    before = [trial for trial in counted(study) if trial.number < number]
    if budget is not None:
        return len(before) >= budget
    fixed = _fixed(study.get_trials(deepcopy=False)[number])
    return fixed is None or any(
        _fixed(trial) == fixed for trial in before if trial.state != TrialState.FAIL
    )


def _fixed(trial: FrozenTrial) -> dict[str, Any] | None:
    """The setting of a trial from the queue; None if it was sampled."""
    return trial.system_attrs.get("fixed_params")


def run_trials(
    study: optuna.Study, objective: Callable[[optuna.Trial], float], budget: int | None
) -> None:
    """Run trials until `budget` of them have ended, in this process or others; without a budget,
    until all trials in the queue have.

    While other processes run the last trials, wait: if one of them dies, its trial is retried here.
    A trial that an error ends is retried up to `CRASHES` times. One that an interrupt ends, a store
    that does not answer or a full disk, is retried always: it is in the queue when the study is
    resumed.
    """
    begun: list[int] = []
    failures: list[BaseException] = []
    first_seen: dict[int, float] = {}

    def watched(trial: optuna.Trial) -> float:
        begun.append(trial.number)
        send_heartbeat(study, trial)
        trial.set_user_attr(PROCESS, [socket.gethostname(), os.getpid()])
        if is_surplus(study, trial.number, budget):
            trial.set_user_attr(SURPLUS, True)
            raise SurplusTrialError
        try:
            return objective(trial)
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            raise
        except BaseException as failure:
            if isinstance(failure, KdflowError) and not isinstance(failure, NOT_OF_THE_TRIAL):
                raise FailedTrialError(str(failure)) from failure
            ended_by = failure
            if isinstance(failure, STORAGE_ERRORS):
                ended_by = UnreachableError(
                    f"storage: the study's database does not answer ({reason(failure)}); the same"
                    " command resumes the study"
                )
            failures.append(ended_by)
            with contextlib.suppress(*STORAGE_ERRORS):
                frozen = study.trials[trial.number]
                if frozen.state == TrialState.RUNNING:
                    retry(study, frozen, crashed=not isinstance(ended_by, NOT_OF_THE_TRIAL))
            if ended_by is failure:
                raise
            raise ended_by from failure

    ended_before = False
    while True:
        end_stale(study, first_seen)
        trials = counted(study)
        if any(trial.state == TrialState.WAITING for trial in trials) or (
            budget is not None and len(trials) < budget
        ):
            try:
                study.optimize(watched, n_trials=1, catch=(SurplusTrialError, FailedTrialError))
            except (ValueError, AssertionError, UpdateFinishedTrialError):
                # Optuna's, about a trial that another process has marked failed
                if failures or not begun or study.trials[begun[-1]].state != TrialState.FAIL:
                    raise
            except (UnboundLocalError, *STORAGE_ERRORS) as error:
                # Optuna 5.0 fails so where its storage does not answer as a trial ends
                if not failures:
                    raise
                raise failures[-1] from error
        else:
            ended = all(trial.state.is_finished() for trial in trials)
            if ended and ended_before:  # a crashed trial fails just before its retry is enqueued
                return
            ended_before = ended
            time.sleep(LOOK_EVERY)
