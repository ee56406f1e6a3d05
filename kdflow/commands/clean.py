"""Show and remove what is left over in the cache folder, and end the runs of dead machines."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import Field

from kdflow.commands.command import Command, CommandConfig

DAY = 24 * 60 * 60


class CleanConfig(CommandConfig):
    """Show what is left over in the cache folder: states of interrupted steps, entries for a
    tracking store, decoded and downloaded data, unfinished files; and remove it if asked."""

    remove: bool = Field(False, description="remove what is shown, except what is in use")
    older_than: float = Field(
        7, ge=0, description="show what has not been changed for this many days"
    )
    end_runs_of: str = Field(
        "none",
        min_length=1,
        description="a host's name: mark KILLED the runs that are RUNNING there although they have"
        " sent no heartbeat for ten minutes; none ends none",
    )


@dataclass(frozen=True)
class LeftOver:
    """Something in the cache.

    Attributes:
        what: in words.
        remove: deletes it; None while a process has it locked.
    """

    path: Path
    what: str
    remove: Callable[[], None] | None

    @property
    def bytes(self) -> int:
        return sum(it.st_size for it in self._statuses() if stat.S_ISREG(it.st_mode))

    @property
    def age(self) -> float:
        """Days since something in it was changed; 0 if it has been removed meanwhile."""
        now = time.time()
        return (now - max((it.st_mtime for it in self._statuses()), default=now)) / DAY

    def _statuses(self) -> list[os.stat_result]:
        found = []
        for path in (self.path, *self.path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # another process may remove it
                found.append(path.stat())
        return found


def run(config: CleanConfig) -> None:
    from tqdm import tqdm

    from kdflow.cache import cache_folder

    root, freed, newer = cache_folder(), 0, 0
    found = False
    for left in left_over(root):
        found = True
        if left.age < config.older_than:
            newer += 1
            continue
        size, name = tqdm.format_sizeof(left.bytes, "B", 1000), left.path.relative_to(root)
        state = "removed" if config.remove else "can be removed"
        state = state if left.remove else "in use"
        print(f"clean: {name}, {left.what}: {size}, {left.age:.0f} days old, {state}")
        if config.remove and left.remove:
            freed += left.bytes
            left.remove()
    if config.remove:
        print(f"clean: freed {tqdm.format_sizeof(freed, 'B', 1000)} in {root}")
    if newer:
        print(
            f"clean: {newer} more, changed within the last {config.older_than:g} days"
            " (--older_than 0 shows them)"
        )
    if not found:
        print(f"clean: nothing is left over in {root}")
    if config.end_runs_of != "none":
        from kdflow.tracking import dead, store

        store.open_store()
        for run_id in dead.end_stale_runs(config.end_runs_of):
            print(f"clean: run {run_id} of {config.end_runs_of} is now KILLED")


def left_over(root: Path) -> Iterator[LeftOver]:
    """All that kdflow keeps in the cache folder; other files there may be the user's.

    Args:
        root: the folder.
    """
    from kdflow.artifacts import checkpoints
    from kdflow.cache import UNFINISHED, is_being_written
    from kdflow.catalogue.datasets import cifar10, content, stored
    from kdflow.deploy import browser
    from kdflow.tracking import journal

    unfinished = f"{UNFINISHED}*"
    kept_data = cifar10.FILE, content.FOLDER, stored.FOLDER, browser.ARCHIVES, unfinished
    for path in sorted(root.iterdir()) if root.exists() else []:
        if path.name == checkpoints.FOLDER:
            for name in checkpoints.names():
                with checkpoints.locked(name) as checkpoint:
                    claim = checkpoint.claim() if checkpoint else None
                what = f"the state of interrupted run {claim.run_id}" if claim else "a step's state"
                yield LeftOver(
                    path / name, what, partial(_remove_state, name) if checkpoint else None
                )
        elif path.name == journal.FOLDER:
            with journal.left_over() as journals:
                waiting = {left.folder: f"{len(left.waiting())} entries" for left in journals}
            for folder in sorted(each for each in path.iterdir() if each.is_dir()):
                with journal.locked(folder) as lock:
                    remove = partial(_remove_journal, folder) if lock else None
                what = f"{waiting.get(folder, 'entries')} not yet delivered to a tracking store"
                yield LeftOver(folder, f"{what} (see `python -m kdflow sync`)", remove)
        elif any(map(path.match, kept_data)):
            kept = sorted(path.iterdir()) if path.name == stored.FOLDER else [path]
            for data in (each for each in kept if each.suffix != ".lock"):
                of_dataset = path.name == stored.FOLDER
                is_used = stored.is_being_written(data) if of_dataset else is_being_written(data)
                remove = partial(shutil.rmtree if data.is_dir() else Path.unlink, data)
                what = "cached data, made again when needed"
                yield LeftOver(data, what, None if is_used else remove)


def _remove_state(name: str) -> None:
    from kdflow.artifacts import checkpoints

    with checkpoints.locked(name) as checkpoint:
        if checkpoint:
            checkpoint.remove()


def _remove_journal(folder: Path) -> None:
    from kdflow.tracking import journal

    with journal.locked(folder) as lock:
        if lock:
            journal.delete(folder, lock)


CLEAN = Command("clean", CleanConfig, run)
