"""Reach the tracking store, and name it without its password."""

from urllib.parse import urlparse

import mlflow
from mlflow.exceptions import MlflowException

from kdflow import interrupts
from kdflow.errors import KdflowError, Unfit, Unreachable

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # an id can be malformed too


def open_store() -> None:
    """Reach the tracking store, which is created if it is a new local one.

    Raises:
        KdflowError: it does not answer.
    """
    try:
        with interrupts.held_back():  # MLflow refuses a store whose tables are half made
            mlflow.search_experiments(max_results=1)
    except Exception as error:  # a driver may be missing, a server silent, a folder read-only
        raise KdflowError(
            f"tracking store: expected one that answers at {address()}, got {reason(error)}"
        ) from error


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
