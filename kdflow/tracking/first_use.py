"""Make a new sqlite store whole or not at all, by one process while others wait. MLflow itself
makes it table by table and without a lock: two processes, or a kill, can make it unusable for ever.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from kdflow import interrupts


def make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Make a sqlite file unless it is there.

    Args:
        path: of the file.
        make: makes it at another path in the same folder, and closes it.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    if _is_there(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")), interrupts.signals_deferred():
        for left_over in path.parent.glob(f".{path.name}.new*"):  # of a process that was killed
            left_over.unlink()
        if _is_there(path):
            return
        new = path.with_name(f".{path.name}.new")
        make(new)
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(path)


def fault(path: Path, *, whole: bool) -> str:
    """What is wrong with a sqlite file and what to do, empty if it seems intact.

    Args:
        whole: read the whole file, and not only what it says of its tables.
    """
    verdict, half_made, runs = "ok", False, 0
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            half_made = not tables or any(name.startswith("_alembic_tmp_") for name in tables)
            if half_made and "runs" in tables:
                (runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
            if whole:
                (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:  # it may be intact
        return f"{path}, which cannot be read now ({error}); try again"
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        return f"{path}, which is damaged ({verdict}); restore it from a copy, or move it away"
    if not half_made:
        return ""
    if runs:
        return (
            f"{path}, which holds {runs} runs and whose upgrade to another version of MLflow is"
            " running or was interrupted; try again, and restore it from a copy if that does not"
            " help"
        )
    return f"{path}, which an interrupted first use left incomplete and without runs; move it away"


def _is_there(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
