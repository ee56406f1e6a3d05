"""The storage that Optuna keeps studies in."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from kdflow.errors import KdflowError, reason, without_passwords
from kdflow.tracking import store
from kdflow.tracking.first_use import make_whole
from sweeps.driver.trial_queue import MISSED_HEARTBEATS, after_a_crash, experimental


def parsed(url: str) -> URL:
    """The URL of a storage, with an absolute path if it is a file.

    Raises:
        KdflowError: it is not a URL, or that of a database in memory.
    """
    try:
        made = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise KdflowError(
            "storage: expected an SQLAlchemy URL such as sqlite:///sweeps/studies.db, got an"
            " invalid one"
        ) from error
    if made.get_backend_name() != "sqlite":
        return made
    if made.database in (None, "", ":memory:"):
        raise KdflowError(f"storage: expected a file, got {url}, which ends with the process")
    return made.set(database=str(Path(str(made.database)).resolve()))


def text_of(url: URL) -> str:
    """The URL with its password, for another process."""
    return url.render_as_string(hide_password=False)


def shown(url: URL) -> str:
    """The URL without a password, wherever it has one."""
    return without_passwords(str(url))


def open_storage(url: URL, heartbeat: int) -> RDBStorage:
    """The storage at `url`; creates the tables of a new one.

    Args:
        heartbeat: seconds between heartbeats of a running trial.

    Raises:
        KdflowError: it does not answer, or is MLflow's.
    """
    with _checked(url):
        if url.get_backend_name() == "sqlite":
            make_whole(Path(str(url.database)), lambda new: _made(url.set(database=str(new))))
        try:
            return _connected(url, heartbeat)
        except SQLAlchemyError:  # another process may be making a server's tables
            time.sleep(2)
            return _connected(url, heartbeat)


def exists(url: URL) -> bool:
    """Whether there are Optuna's tables at `url`. Nothing is made.

    Raises:
        KdflowError: it does not answer, or is MLflow's.
    """
    with _checked(url):
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
            return False
        engine = create_engine(url, connect_args=_connect_args(url))
        try:
            return inspect(engine).has_table("studies")
        finally:
            engine.dispose()


@contextlib.contextmanager
def _checked(url: URL) -> Iterator[None]:
    """Refuses MLflow's database; errors of the database are one line."""
    if _is_of_mlflow(url):
        raise KdflowError(
            f"storage: expected a database of Optuna's own, got {shown(url)}, which is the tracking"
            " store; name another file or database"
        )
    try:
        yield
    except (SQLAlchemyError, OptunaError, ImportError, OSError, RuntimeError) as error:
        raise KdflowError(
            f"storage: expected a working store at {shown(url)}, got {reason(error)}"
        ) from error


def _is_of_mlflow(url: URL) -> bool:
    """Whether it is the database of the tracking store, in which Optuna would make its tables."""
    if "://" not in store.uri() or store.uri().startswith(("http", "file:")):
        return False
    tracking = make_url(store.uri())
    return (tracking.host, tracking.port, tracking.database) == (url.host, url.port, url.database)


def _made(url: URL) -> None:
    RDBStorage(text_of(url)).engine.dispose()


def _connected(url: URL, heartbeat: int) -> RDBStorage:
    with experimental():
        storage = RDBStorage(
            text_of(url),
            engine_kwargs={"connect_args": _connect_args(url)},
            heartbeat_interval=heartbeat,
            grace_period=MISSED_HEARTBEATS * heartbeat,
            heartbeat_stale_trial_callback=after_a_crash,
        )
    if url.get_backend_name() == "sqlite":
        event.listen(storage.engine, "begin", _locked)
    return storage


def _connect_args(url: URL) -> dict[str, int]:
    return {"timeout": 60} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}


def _locked(connection: Connection) -> None:
    """Lock an SQLite file from the start of a transaction. By default SQLite locks it at the first
    write, so that two processes could read that a trial is in the queue, and both start it."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
