"""Reach the tracking store, and name it without its password."""

from pathlib import Path
from urllib.parse import urlparse

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import make_url

from kdflow import interrupts
from kdflow.errors import KdflowError, Unfit, Unreachable
from kdflow.tracking import first_use

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # an id can be malformed too


def open_store() -> None:
    """Reach the tracking store, which is created if it is a new local one.

    Raises:
        KdflowError: it does not answer.
    """
    file = _sqlite_file()
    try:
        if file:
            first_use.make_whole(file, _make_store)
            if fault := first_use.fault(file, whole=False):  # MLflow would retry for minutes
                raise KdflowError(fault)
        with interrupts.held_back():  # MLflow upgrades an older store here
            mlflow.search_experiments(max_results=1)
    except Exception as error:  # a driver may be missing, a server silent, a folder read-only
        cause = first_use.fault(file, whole=True) if file and file.exists() else ""
        got = cause or reason(error)
        raise KdflowError(
            f"tracking store: expected one that answers at {address()}, got {got}"
        ) from error


def _sqlite_file() -> Path | None:
    """The file of the store, if it is one of sqlite's."""
    if not uri().startswith("sqlite:"):
        return None
    database = make_url(uri()).database
    return Path(database).absolute() if database and database != ":memory:" else None


def _make_store(path: Path) -> None:
    """Make MLflow's tables and its default experiment."""
    made_at = f"sqlite:///{path}"
    mlflow.MlflowClient(made_at).search_experiments(max_results=1)
    SqlAlchemyStore._engine_map.pop(made_at).dispose()


def address() -> str:
    """The tracking URI, without its password."""
    return without_password(uri())


def uri() -> str:
    """The tracking URI as another process needs it, with its password."""
    return str(mlflow.get_tracking_uri())


def how_to_see() -> str:
    """The command or address that shows the runs in the MLflow UI."""
    shown = address()
    return shown if shown.startswith("http") else f"mlflow ui --backend-store-uri {shown}"


def without_password(text: str) -> str:
    """`text` with the tracking URI's password left out."""
    password = urlparse(uri()).password
    return text.replace(f":{password}@", ":***@") if password else text


def reason(error: Exception) -> str:
    """An error of MLflow or of what it uses, in one line without the store's password."""
    return without_password(" ".join(str(error).split())) or type(error).__name__


def failure(what: str, error: Exception) -> KdflowError:
    """What a failed read proves: `Unfit` if the store answered that there is no such thing, else
    `Unreachable`, since then nothing is known."""
    if isinstance(error, MlflowException) and error.error_code in ABSENT:
        return Unfit(f"{what}: {reason(error)}")
    return Unreachable(
        f"{what} cannot be read: {reason(error)}. It may be sound: try again when the store at"
        f" {address()} answers"
    )
