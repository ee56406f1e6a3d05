"""The storage that Optuna keeps studies in: open it, open a study, account for its trials."""

import contextlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from kdflow import tracking
from kdflow.errors import KdflowError

TRIAL_TAG = "kdflow.trial"
PARENT = "run_id"  # the study's attribute that names its parent run
DESCRIPTION = "description"
SURPLUS = "surplus"  # the attribute of a trial that was begun when there were enough
RETRIES = 3
MISSED_HEARTBEATS = 3


class Surplus(Exception):
    """Another process began the last trial of the budget first."""


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Optuna calls heartbeats, retries and its matplotlib pictures experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def open_storage(url: str, heartbeat: int) -> RDBStorage:
    """The storage at `url`, whose tables are made if need be.

    Args:
        heartbeat: seconds between signs of life of a running trial.

    Raises:
        KdflowError: it does not answer.
    """
    try:
        parsed = make_url(url)
        with _experimental():
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": _patience(parsed)},
                heartbeat_interval=heartbeat,
                grace_period=MISSED_HEARTBEATS * heartbeat,
                heartbeat_stale_trial_callback=retry,
            )
    except (SQLAlchemyError, OptunaError, ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        with contextlib.suppress(SQLAlchemyError):
            url = make_url(url).render_as_string()  # which hides a password
        raise KdflowError(f"storage: expected one that answers at {url}, got {reason}") from error


def _patience(url: URL) -> dict[str, int]:
    """How many seconds to wait for the storage, in its driver's terms."""
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        return {"timeout": 60}
    return {"connect_timeout": 10}


def open_study(storage: RDBStorage, name: str, description: Mapping[str, Any]) -> optuna.Study:
    """The study of that name, which is new or goes on.

    Args:
        description: what has to be the same whenever it goes on, as JSON can hold it.

    Raises:
        KdflowError: there is another study of that name.
    """
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )
    if study.direction != StudyDirection.MAXIMIZE:
        raise KdflowError(
            f"study_name: expected a study that maximises, got {name!r}, which minimises; give this"
            " one another study_name"
        )
    wanted = json.loads(json.dumps(description))
    began_with = study.user_attrs.get(DESCRIPTION)
    if began_with is None and not study.trials:
        study.set_user_attr(DESCRIPTION, wanted)
    elif began_with != wanted:
        raise KdflowError(
            f"study_name: {_difference(began_with or {}, wanted)}, with which {name!r} began; give"
            " this study another study_name"
        )
    return study


def _difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    first = next(key for key in {**expected, **got} if expected.get(key) != got.get(key))
    return f"expected {first} {expected.get(first)}, got {got.get(first)}"


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have a trial that its process left behind done again, and end its run."""
    tracking.end_abandoned(study.user_attrs[PARENT], {TRIAL_TAG: tag_of(study, trial.number)})
    with _experimental():
        RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


def tag_of(study: optuna.Study, number: int) -> str:
    """What names a trial in the tracking store."""
    return f"{study.study_name}/{number}"


def end_stale(study: optuna.Study) -> None:
    """Fail, and have done again, the trials whose process gives no sign of life any more."""
    with _experimental():
        optuna.storages.fail_stale_trials(study)


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


def is_surplus(study: optuna.Study, number: int, budget: int) -> bool:
    """Whether the trial `number` was begun when earlier ones had used up the budget."""
    earlier = [trial for trial in counted(study) if trial.number < number]
    return len(earlier) >= budget


def work_off(study: optuna.Study, objective: Any, budget: int) -> None:
    """Run trials until `budget` of them have ended, here or in other processes.

    While others run the last ones, wait: one of them may die, and its trial be tried again.
    """
    while True:
        end_stale(study)
        trials = counted(study)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if waiting or len(trials) < budget:
            study.optimize(objective, n_trials=1, catch=(Surplus, KdflowError))
        elif all(trial.state.is_finished() for trial in trials):
            return
        else:
            time.sleep(1)
