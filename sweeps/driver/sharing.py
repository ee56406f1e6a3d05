"""What the processes of one study share: its description, its parent run, its teacher's logits."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, OptunaError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from kdflow.cache import is_alive
from kdflow.errors import KdflowError
from sweeps.driver.trial_queue import RUN_ID

# On studies: what must stay the same when the study is resumed.
DESCRIPTION = "description"
# On studies: the heartbeats of the process that makes a shared value and of the process that has
# the parent run open. A heartbeat is the host, the process id and the time, or ENDED.
HEARTBEAT, OWNER, ENDED = "heartbeat", "owner", "ended"

DEAD_AFTER = 60  # seconds without a heartbeat after which a process counts as dead
BEAT_EVERY = DEAD_AFTER / 3  # seconds
SETTLED = 0.5  # seconds after which the last of several processes that start at once is known
LOOK_EVERY = 0.5  # seconds between two looks at what another process writes


def open_study(
    storage: RDBStorage, name: str, description: Mapping[str, Any], added: Mapping[str, Any]
) -> tuple[optuna.Study, bool]:
    """The study of that name, and whether this process has made it.

    Args:
        description: what has to be the same whenever it is resumed, in JSON types.
        added: the part of the description that an older study may lack, with the values that it
            had then.

    Raises:
        KdflowError: there is another study of that name.
    """
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        study.set_user_attr(DESCRIPTION, description)
        return study, True
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
    _check_direction(study)
    began_with = _wait_for(lambda: study.user_attrs.get(DESCRIPTION))
    if began_with is None and not study.trials:  # the process that made it has died
        study.set_user_attr(DESCRIPTION, description)
        return study, True
    _check_same(study, began_with or {}, description, added)
    return study, False


def existing_study(
    storage: RDBStorage, name: str, description: Mapping[str, Any], added: Mapping[str, Any]
) -> optuna.Study | None:
    """The study of that name, if it has begun. Nothing is made.

    Args:
        description, added: see `open_study`.

    Raises:
        KdflowError: there is another study of that name.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    _check_direction(study)
    began_with = study.user_attrs.get(DESCRIPTION)
    if began_with is None and not study.trials:
        return None
    _check_same(study, began_with or {}, description, added)
    return study


def _check_direction(study: optuna.Study) -> None:
    if study.direction != StudyDirection.MAXIMIZE:
        raise KdflowError(
            f"study_name: expected a study that maximises, got {study.study_name!r}, which"
            " minimises; give this one another study_name"
        )


def _check_same(
    study: optuna.Study,
    began_with: Mapping[str, Any],
    description: Mapping[str, Any],
    added: Mapping[str, Any],
) -> None:
    wanted, recorded = (
        json.loads(json.dumps(each)) for each in (description, {**added, **began_with})
    )
    if recorded != wanted:
        raise KdflowError(
            f"study_name: {study.study_name!r} began with {_difference(recorded, wanted)}; give"
            " this study another study_name"
        )


def parent_of(study: optuna.Study) -> str | None:
    """The id of the parent run. Waits for the process that made the study to open it; None if that
    process has died."""
    found = _wait_for(lambda: study.user_attrs.get(RUN_ID), lambda: study.user_attrs.get(OWNER))
    return str(found) if found else None


def has_owner(study: optuna.Study) -> bool:
    """Whether another process that is alive has the parent run open."""
    beat = study.user_attrs.get(OWNER)
    if beat in (None, ENDED):
        return False
    host, pid, at = beat
    if host == socket.gethostname():  # a process id can be used again: the time tells
        return pid != os.getpid() and is_alive(pid) and time.time() - at < DEAD_AFTER
    changed = _wait_for(lambda: study.user_attrs.get(OWNER) != beat or None)
    return changed is not None and study.user_attrs.get(OWNER) != ENDED


@contextlib.contextmanager
def ownership(study: optuna.Study) -> Iterator[bool]:
    """Own the parent run until the block ends, unless another process does; yields whether this
    one does. Only the owner opens the run and sets its status."""
    if has_owner(study):
        yield False
        return
    with heartbeat(study, OWNER) as is_mine:
        yield is_mine


def shared_value(study: optuna.Study, name: str, is_new: bool, make: Callable[[], Any]) -> Any:
    """The value that all processes of a study share under `name`: the first one's. The others wait
    as long as the process that makes it has a heartbeat.

    Args:
        is_new: whether this process has made the study; another one waits for that one first.
        make: makes the value, in JSON types, if no process has.
    """
    beat = f"{name}: {HEARTBEAT}"
    while (found := study.user_attrs.get(name)) is None:
        if not is_new:
            if study.user_attrs.get(beat) != ENDED:
                print(
                    f"{study.study_name}: waiting for another process, which prepares the teacher's"
                    " logits and the hints for all trials"
                )
            found = _wait_for(
                lambda: study.user_attrs.get(name), lambda: study.user_attrs.get(beat)
            )
            if found is not None:
                break
        with heartbeat(study, beat) as is_mine:
            if is_mine and study.user_attrs.get(name) is None:
                made = make()
                if study.user_attrs.get(name) is None:  # a process without a heartbeat may live
                    study.set_user_attr(name, made)
        is_new = False
    return found


@contextlib.contextmanager
def heartbeat(study: optuna.Study, name: str) -> Iterator[bool]:
    """Renew a heartbeat under `name` until the block ends; yields whether no other process has
    started one at the same moment."""
    ended = threading.Event()

    def now() -> list[Any]:
        return [socket.gethostname(), os.getpid(), time.time()]

    def renew() -> None:
        while not ended.wait(BEAT_EVERY):
            with contextlib.suppress(OptunaError, SQLAlchemyError):  # the next one may be written
                study.set_user_attr(name, now())

    first = now()
    study.set_user_attr(name, first)
    time.sleep(SETTLED)
    if study.user_attrs.get(name) != first:
        yield False
        return
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OptunaError, SQLAlchemyError):  # keep the error that ended it
            study.set_user_attr(name, ENDED)


def _wait_for(look: Callable[[], Any], beat: Callable[[], Any] = lambda: None) -> Any:
    """Wait for what `look` returns; None if `beat` has not changed for `DEAD_AFTER` or is ENDED."""
    last, since = beat(), time.monotonic()
    while (found := look()) is None and last != ENDED and time.monotonic() - since < DEAD_AFTER:
        time.sleep(LOOK_EVERY)
        if (latest := beat()) != last:
            last, since = latest, time.monotonic()
    return found


def _difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    first = next(key for key in {**got, **expected} if expected.get(key) != got.get(key))
    return f"{first}={expected.get(first)}, got {first}={got.get(first)}"
