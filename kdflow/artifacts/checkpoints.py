"""What a step needs to resume after an interrupt or a kill: a folder in the cache. It exists while
the step runs and is locked by its process. What is in it is written whole or not at all."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from kdflow.cache import cache_folder, replacing

FOLDER = "unfinished"  # in the cache
KEPT_DAYS = 30
CLAIM, STATE = "claim.json", "state.npz"


class Claim(NamedTuple):
    """The run that a folder belongs to.

    Attributes:
        run_id: its run.
        code: the digest of the code that runs.
        key: of the run; empty until what it builds on exists.
        hardware: that the run uses.
    """

    run_id: str
    code: str
    key: str
    hardware: str


class Checkpoint:
    """The folder of one step, locked by this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self) -> Claim | None:
        """What the folder was claimed for, None if it is new or damaged."""
        try:
            return Claim(**json.loads((self.folder / CLAIM).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def set_claim(self, claim: Claim) -> None:
        """Claim the folder."""
        with replacing(self.folder / CLAIM) as new:
            new.write_text(json.dumps(claim._asdict()), encoding="utf-8")

    def save(self, arrays: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> None:
        """Keep a state in place of the one before it."""
        text = np.frombuffer(json.dumps(described).encode(), np.uint8)
        with replacing(self.folder / STATE) as new, new.open("wb") as file:
            np.savez(file, **{**arrays, "described": text})  # type: ignore[arg-type]

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The state that was kept last, None if there is none that can be read."""
        try:
            with (self.folder / STATE).open("rb") as file:
                stored = np.load(file, allow_pickle=False)
                arrays = {name: stored[name] for name in stored.files}
            described: dict[str, Any] = json.loads(arrays.pop("described").tobytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file fails in many ways
            print(f"resume: {self.folder / STATE} cannot be read ({error}); starting again")
            return None
        return arrays, described

    def save_part(self, name: str, array: np.ndarray) -> None:
        """Keep a part of a result."""
        with replacing(self.folder / f"{name}.npy") as new:
            np.save(new, array, allow_pickle=False)

    def load_part(self, name: str) -> np.ndarray | None:
        """A part that was kept, None if there is none that can be read."""
        try:
            part: np.ndarray = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # missing, damaged or empty
            return None
        return part

    def open(self, name: str) -> IO[bytes]:
        """A file that is filled bit by bit, for reading and writing; empty if it is new."""
        path = self.folder / name
        path.touch()
        return path.open("r+b", buffering=0)

    def bytes_kept(self, pattern: str) -> int:
        """The size of its files whose names match `pattern`."""
        return sum(file.stat().st_size for file in self.folder.glob(pattern))

    def clear(self) -> bool:
        """Delete all files; returns whether there were any."""
        files = list(self.folder.iterdir())
        for file in files:
            file.unlink()
        return bool(files)

    def remove(self) -> None:
        """Delete the folder: its step has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def locked(name: str, wait: float = 0) -> Iterator[Checkpoint | None]:
    """The folder called `name`, made if need be; None if another process has it locked, or the
    cache cannot be written to.

    Args:
        wait: seconds to wait for another process, which may have it locked only to look at it.
    """
    root = cache_folder() / FOLDER
    lock, folder = FileLock(root / f"{name}.lock", timeout=wait), root / name
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        folder.mkdir(exist_ok=True)
    except (Timeout, OSError) as error:
        lock.release()
        if not isinstance(error, Timeout):
            print(f"resume: {root} cannot be written to ({error})")
        yield None
        return
    try:
        yield Checkpoint(folder)
    finally:
        if not (root / name).exists():
            (root / f"{name}.lock").unlink(missing_ok=True)
        lock.release()


def bytes_kept(pattern: str) -> int:
    """The size of all files whose names match `pattern`, in the folders of all steps."""
    files = (cache_folder() / FOLDER).glob(f"*/{pattern}")
    sizes = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # its step may end meanwhile
            sizes += file.stat().st_size
    return sizes


def remove_old() -> None:
    """Delete the folders of steps that were interrupted and not resumed for `KEPT_DAYS`."""
    oldest = time.time() - KEPT_DAYS * 24 * 60 * 60
    for name in names():
        with locked(name) as checkpoint:
            if checkpoint and checkpoint.folder.stat().st_mtime < oldest:
                print(f"resume: removed {checkpoint.folder}, kept for more than {KEPT_DAYS} days")
                checkpoint.remove()


def names() -> list[str]:
    """The folders that there are, of running and of dead processes."""
    root = cache_folder() / FOLDER
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.exists() else []
