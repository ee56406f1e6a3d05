"""The storage that Optuna keeps studies in."""

import time
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from kdflow.errors import KdflowError
from sweeps.driver.trial_queue import MISSED_HEARTBEATS, after_a_crash, experimental


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
    with experimental():
        return RDBStorage(
            text_of(url),
            engine_kwargs={"connect_args": {"timeout": 60} if is_file else {"connect_timeout": 10}},
            heartbeat_interval=heartbeat,
            grace_period=MISSED_HEARTBEATS * heartbeat,
            heartbeat_stale_trial_callback=after_a_crash,
        )
