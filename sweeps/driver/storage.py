"""The storage that Optuna keeps studies in: open it, open a study, account for its trials."""

import contextlib
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    OptunaError,
    UpdateFinishedTrialError,
)
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from kdflow import tracking
from kdflow.errors import KdflowError

# On the runs of trials.
STUDY_TAG, TRIAL_TAG = "kdflow.study", "kdflow.trial"
# On studies: the id of the parent run, and what must not change.
PARENT, DESCRIPTION = "run_id", "description"
# On trials: who runs it; that it was begun when there were enough, or when its setting had been.
PROCESS, SURPLUS = "process", "surplus"
# On Optuna's own side of a trial: how many accidents its setting has ended in so far.
CRASHED = "crashed"
# On studies: when the process that makes what all share was alive, or that it is not at it now.
SIGN_OF_LIFE, ENDED = "sign of life", "ended"

CRASHES = 3  # that a trial may end in before it is not tried again
MISSED_HEARTBEATS = 3  # after which a trial is taken for dead
PATIENCE = 60  # seconds without a sign of life after which another process is taken for dead
SIGN_EVERY = PATIENCE / 3  # seconds


class Surplus(Exception):
    """Another process began the last trial, or one of the same enqueued setting, first."""


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Optuna calls heartbeats and what goes with them experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def parsed(url: str) -> URL:
    """A storage's URL, meaning the same in any working folder.

    Raises:
        KdflowError: it is none, or one of a store that ends with the process.
    """
    try:
        made = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise KdflowError("storage: expected an SQLAlchemy URL, got another text") from error
    if made.get_backend_name() != "sqlite":
        return made
    if made.database in (None, "", ":memory:"):
        raise KdflowError(f"storage: expected a file, got {url}, which ends with the process")
    return made.set(database=str(Path(str(made.database)).resolve()))


def text_of(url: URL) -> str:
    """The URL for another process, with its password."""
    return url.render_as_string(hide_password=False)


def open_storage(url: URL, heartbeat: int) -> RDBStorage:
    """The storage at `url`, whose tables are made if need be.

    Args:
        heartbeat: seconds between signs of life of a running trial.

    Raises:
        KdflowError: it does not answer.
    """
    try:
        if url.get_backend_name() == "sqlite":
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connected(url, heartbeat)
        except SQLAlchemyError:  # another process may be making the tables
            time.sleep(2)
            return _connected(url, heartbeat)
    except (SQLAlchemyError, OptunaError, ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise KdflowError(f"storage: expected one that answers at {url}, got {reason}") from error


def _connected(url: URL, heartbeat: int) -> RDBStorage:
    is_file = url.get_backend_name() == "sqlite"
    with _experimental():
        return RDBStorage(
            text_of(url),
            engine_kwargs={"connect_args": {"timeout": 60} if is_file else {"connect_timeout": 10}},
            heartbeat_interval=heartbeat,
            grace_period=MISSED_HEARTBEATS * heartbeat,
            heartbeat_stale_trial_callback=_after_a_crash,
        )


def open_study(
    storage: RDBStorage, name: str, description: Mapping[str, Any]
) -> tuple[optuna.Study, bool]:
    """The study of that name, and whether this process has made it.

    Args:
        description: what has to be the same whenever it goes on, as JSON can hold it.

    Raises:
        KdflowError: there is another study of that name.
    """
    wanted = json.loads(json.dumps(description))
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        study.set_user_attr(DESCRIPTION, wanted)
        return study, True
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
    if study.direction != StudyDirection.MAXIMIZE:
        raise KdflowError(
            f"study_name: expected a study that maximises, got {name!r}, which minimises; give this"
            " one another study_name"
        )
    began_with = _awaited(lambda: study.user_attrs.get(DESCRIPTION))
    if began_with is None and not study.trials:  # the process that made it has died
        study.set_user_attr(DESCRIPTION, wanted)
        return study, True
    if began_with != wanted:
        raise KdflowError(
            f"study_name: {name!r} began with {_difference(began_with or {}, wanted)}; give this"
            " study another study_name"
        )
    return study, False


def parent_of(study: optuna.Study) -> str | None:
    """The id of the parent run, once the process that made the study has opened it; None if it has
    died before."""
    found = _awaited(lambda: study.user_attrs.get(PARENT))
    return str(found) if found else None


def agreed(study: optuna.Study, name: str, is_new: bool, make: Callable[[], Any]) -> Any:
    """The value that all processes of a study share under `name`: the first one's. As long as the
    process that makes it gives signs of life, the others wait.

    Args:
        is_new: whether this process has made the study; another one waits for that one first.
        make: makes the value, as JSON can hold it, where nobody has.
    """
    sign = f"{name}: {SIGN_OF_LIFE}"
    found = study.user_attrs.get(name)
    if found is None and not is_new:
        print(f"{study.study_name}: waits for another process to make what all trials need")
        found = _awaited(lambda: study.user_attrs.get(name), lambda: study.user_attrs.get(sign))
    if found is None:
        with _signs_of_life(study, sign):
            made = make()
            found = study.user_attrs.get(name)  # another one may have been as fast
            if found is None:
                study.set_user_attr(name, made)
                return made
    return found


@contextlib.contextmanager
def _signs_of_life(study: optuna.Study, name: str) -> Iterator[None]:
    """Until the block ends, tell the study's other processes that it has not; then tell them so."""
    ended = threading.Event()

    def give() -> None:
        while not ended.is_set():
            with contextlib.suppress(OptunaError, SQLAlchemyError):  # the next one may be written
                study.set_user_attr(name, time.time())
            ended.wait(SIGN_EVERY)

    giver = threading.Thread(target=give, daemon=True)
    giver.start()
    try:
        yield
    finally:
        ended.set()
        giver.join()
        study.set_user_attr(name, ENDED)


def _awaited(look: Callable[[], Any], sign: Callable[[], Any] = lambda: None) -> Any:
    """What `look` finds at last; None if nothing has changed for `PATIENCE`, or `sign` says that
    there is nobody to wait for."""
    last, since = sign(), time.monotonic()
    while (found := look()) is None and last != ENDED and time.monotonic() - since < PATIENCE:
        time.sleep(0.5)
        if (latest := sign()) != last:
            last, since = latest, time.monotonic()
    return found


def _difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    first = next(key for key in {**expected, **got} if expected.get(key) != got.get(key))
    return f"{first}={expected.get(first)}, got {first}={got.get(first)}"


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
    with _experimental():
        RetryHeartbeatStaleTrialCallback()(study, trial)


def _after_a_crash(study: optuna.Study, trial: FrozenTrial) -> None:
    try_again(study, trial, crashed=True)
    try:
        tracking.end_abandoned(study.user_attrs[PARENT], tags_of(study, trial.number))
    except Exception as error:  # Optuna has more dead trials to go through
        reason = " ".join(str(error).split())
        print(f"trial {trial.number}: its run could not be ended: {reason}")


def end_stale(study: optuna.Study, silent_since: dict[int, float]) -> None:
    """Fail, and have done again, the trials whose process gives no sign of life any more.

    Args:
        silent_since: since when this process has known the trials without any, in seconds of its
            own clock; kept up to date.
    """
    with _experimental():
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
                _after_a_crash(study, trial)


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
    with _experimental():
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
