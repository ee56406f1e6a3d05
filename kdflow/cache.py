"""The folder of what is kept between runs: downloaded and decoded data, the states of unfinished
trainings, hints during a training, and journals of what the tracking store has not received."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from kdflow.errors import NoRoomError

UNFINISHED = ".new."  # begins the name of what a process is writing; its id follows


def cache_folder() -> Path:
    """$KDFLOW_CACHE, or the user's cache folder."""
    return Path(os.environ.get("KDFLOW_CACHE") or platformdirs.user_cache_dir("kdflow"))


@contextlib.contextmanager
def writing_to(folder: Path, otherwise: str = "") -> Iterator[None]:
    """Make `folder` if need be; a disk that is full or cannot be written to in the block is an
    error that the user can fix.

    Args:
        otherwise: what else the user can do, as the end of a sentence.

    Raises:
        NoRoomError: with the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if _is_of_another_file(error, folder):
            raise
        raise NoRoomError(
            f"cache: expected a folder with room to write to, got {folder} ({error});"
            f" set KDFLOW_CACHE to another folder{otherwise}"
        ) from error


def _is_of_another_file(error: OSError, folder: Path) -> bool:
    """Whether the error names files, none of them the folder, below it or above it."""
    named = [
        Path(os.fsdecode(name))
        for name in (error.filename, error.filename2)
        if isinstance(name, (str, bytes))
    ]
    related = (it.is_relative_to(folder) or folder.is_relative_to(it) for it in named)
    return bool(named) and not any(related)


def unfinished() -> str:
    """How the name of what this process is writing begins."""
    return f"{UNFINISHED}{os.getpid()}."


def is_being_written(path: Path) -> bool:
    """Whether `path` begins as `unfinished` of a process that is running."""
    pid = path.name.removeprefix(UNFINISHED).partition(".")[0]
    if not path.name.startswith(UNFINISHED) or not pid.isdigit():
        return False
    return is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Whether there is a process of that id on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write the file `path` in the block: beside it, with its suffix. At the block's end
    that file takes the place of `path`. If the block fails, it is removed."""
    new = path.with_name(f"{unfinished()}{path.name}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def check_room(
    folder: Path, needed: int, what: str, otherwise: str = "", *, variable: str = "KDFLOW_CACHE"
) -> None:
    """Refuse a disk with too little room.

    Args:
        needed: bytes.
        what: is to be written, in words.
        otherwise: what else the user can do, as the end of a sentence.
        variable: what names the folder in the environment.

    Raises:
        NoRoomError: says how much there is.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoomError(
            f"expected {needed / 1e6:,.1f} MB of room in {folder} for {what}, got"
            f" {free / 1e6:,.1f} MB; set {variable} to another folder{otherwise}"
        )
