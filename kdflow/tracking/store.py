"""Reach the tracking store, wait for one that does not answer, and name it without its password."""

import contextlib
import math
import os
import textwrap
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.uri import resolve_uri_if_local
from sqlalchemy.engine import make_url

from kdflow import interrupts
from kdflow.errors import (
    KdflowError,
    NoRoomError,
    UnfitError,
    UnreachableError,
    is_disk_full,
    reason,
    without_passwords,
)
from kdflow.tracking import first_use

T = TypeVar("T")

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # an id can be malformed too
REFUSED = (*ABSENT, "INVALID_STATE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "FEATURE_DISABLED")
DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
PATIENCE = 600  # seconds
RETRY_EVERY = 2  # seconds
NOT_OF_THE_STORE = (TypeError, AttributeError, LookupError, NameError, AssertionError)


def open_store() -> None:
    """Reach the tracking store, which is created if it is a new local one.

    Raises:
        KdflowError: it does not answer.
    """
    file = _sqlite_file()
    patience()  # refuses what is not a number
    try:
        if file:
            first_use.make_whole(file, _make_store)
            if fault := first_use.fault(file, whole=False):  # MLflow would retry for minutes
                raise KdflowError(fault)
        with _while_upgraded():
            for experiment in mlflow.search_experiments(max_results=1):
                # a server of MLflow 2 has no logged models
                logged_models(experiment.experiment_id, "none", "none")
    except Exception as error:  # a driver missing, a server unreachable, a folder read-only
        cause = first_use.fault(file, whole=True) if file and file.exists() else ""
        got = cause or reason(error)
        raise KdflowError(
            f"tracking store: expected a working store at {address()}, got {got}"
        ) from error


def _while_upgraded() -> contextlib.AbstractContextManager[None]:
    """Defers signals while MLflow upgrades an older database, if the store is not a server."""
    if uri().startswith("http"):
        return contextlib.nullcontext()
    return interrupts.signals_deferred()


def _sqlite_file() -> Path | None:
    """The file of the store, if it is one of sqlite's."""
    url = make_url(uri()) if uri().startswith("sqlite:") else None
    return Path(url.database) if url and url.database and url.database != ":memory:" else None


def _make_store(path: Path) -> None:
    """Make MLflow's tables and its default experiment."""
    made_at = _sqlite_uri(path)
    mlflow.MlflowClient(made_at).search_experiments(max_results=1)
    SqlAlchemyStore._engine_map.pop(made_at).dispose()


def address() -> str:
    """The tracking URI, without its password."""
    return without_passwords(uri())


def uri() -> str:
    """The tracking URI as another process needs it, in whatever folder: with its password, and with
    an absolute path without symbolic links if it is local."""
    given = str(resolve_uri_if_local(str(mlflow.get_tracking_uri())))  # leaves sqlite's as it is
    if not given.startswith("sqlite:"):
        return str(given)
    url = make_url(given)
    if not url.database or url.database == ":memory:":
        return given
    options = given.partition("?")[2]
    return _sqlite_uri(Path(url.database).resolve()) + (f"?{options}" if options else "")


def _sqlite_uri(path: Path) -> str:
    """What `make_url` reads as this path. MLflow makes the folder that is written in it, so that as
    little as possible is percent-encoded."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def logged_models(experiment_id: str, run_id: str, name: str) -> list[LoggedModel]:
    """The models called `name` that a run has logged, whether they are ready or not."""
    of_this_run = f"source_run_id = '{run_id}' and name = '{name}'"
    return list(mlflow.MlflowClient().search_logged_models([experiment_id], of_this_run))


def is_unreachable(error: Exception) -> bool:
    """Whether the store did not answer, so that the same call may succeed later."""
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSED
    return not isinstance(error, NOT_OF_THE_STORE)


def is_denied(error: Exception) -> bool:
    """Whether the store takes nothing from this user, so that the same call succeeds once the
    user's rights or credentials have changed, and not before."""
    if isinstance(error, MlflowException):
        return error.error_code in DENIED
    return _http_status(error) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def _http_status(error: Exception) -> int | None:
    """The status of the answer that an error is about, if it is about one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_an_answer(error: Exception) -> bool:
    """Whether a server has answered so."""
    return isinstance(error, RestException) or _http_status(error) is not None


def what_it_does(error: Exception) -> str:
    """That the store does not answer, answers with an error or denies access, for a message, with
    the reason."""
    does = "answers with an error" if _http_status(error) else "does not answer"
    why = textwrap.shorten(reason(error), 200)
    return f"{address()} {'denies access' if is_denied(error) else does} ({why})"


def failure(what: str, error: Exception) -> KdflowError:
    """What a failed call proves: `UnfitError` if the store answered that there is no such thing,
    another `KdflowError` if it refused the call, else `UnreachableError`, since then nothing is
    known. That includes a store that denies access."""
    if isinstance(error, MlflowException) and error.error_code in ABSENT:
        return UnfitError(f"{what}: {reason(error)}")
    if isinstance(error, MlflowException) and error.error_code in REFUSED:
        return KdflowError(f"{what}: the tracking store at {address()} refused: {reason(error)}")
    if is_denied(error):
        return UnreachableError(
            f"{what}: the tracking store at {address()} denies access: {reason(error)}. Check the"
            " credentials (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
            " MLFLOW_TRACKING_TOKEN) and what they allow"
        )
    return UnreachableError(
        f"{what} cannot be read: {reason(error)}. It may be intact: retry when the tracking store"
        f" at {address()} answers"
    )


def patience() -> float:
    """How many seconds a step waits for a store that has stopped answering.

    Raises:
        KdflowError: the user's own value is not a number of seconds.
    """
    given = os.environ.get("KDFLOW_STORE_PATIENCE") or str(PATIENCE)
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise KdflowError(f"KDFLOW_STORE_PATIENCE: expected a number of seconds, got {given!r}")
    return seconds


def with_retries(what: str, call: Callable[[], T]) -> T:
    """The result of a call to the store, which is repeated while the store does not answer: it did
    when the step began.

    Args:
        what: is read, for the message.

    Raises:
        UnfitError: the store answers that there is no such thing.
        KdflowError: the store refuses the call, or needs a package that is not installed.
        NoRoomError: the disk here is full.
        UnreachableError: it has not answered for as long as `patience` says, or denies access.
    """
    give_up, waits = time.monotonic() + patience(), False
    while True:
        try:
            return call()
        except NOT_OF_THE_STORE:
            raise
        except ImportError as error:  # MLflow imports the clients of other stores when needed
            raise KdflowError(
                f"{what}: expected the package that the store at {address()} needs, got"
                f" {reason(error)}"
            ) from error
        except Exception as error:  # what an unreachable server raises depends on the store
            if is_disk_full(error) and not _is_an_answer(error):
                raise NoRoomError(f"{what}: {reason(error)}") from error
            problem = failure(what, error)
            gives_up = time.monotonic() > give_up
            if gives_up or is_denied(error) or not is_unreachable(error):
                raise problem from error
            if not waits:
                print(
                    f"tracking store: {what_it_does(error)}; retrying for {patience():.0f} s, or"
                    " until Ctrl-C"
                )
            waits = True
        time.sleep(RETRY_EVERY)
