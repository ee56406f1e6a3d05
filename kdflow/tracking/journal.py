"""What a run logs, on disk before the tracking store has it. A journal is a folder in the cache: a
line per entry, and the files that entries deliver. It is locked by the process that writes it, and
is removed when the store has every entry of a run that has ended."""

import contextlib
import errno
import json
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from kdflow.cache import cache_folder, replacing, writing_to
from kdflow.errors import reason

FOLDER = "journal"  # in the cache
OPENED, ENTRIES, DELIVERED, FILES = "opened.json", "entries.jsonl", "delivered", "files"
WAIT = 600  # seconds, for another process that delivers a journal
MADE_HERE: set[Path] = set()  # the journals of this process


class Opened(NamedTuple):
    """What a journal is of.

    Attributes:
        run_id: the run.
        store: the address of its tracking store, without a password.
        ends_run: whether the process that writes it has the run open, and ends it.
        host: the machine of that process; empty if it is of kdflow 0.2.0 or older.
    """

    run_id: str
    store: str
    ends_run: bool
    host: str = ""


class Entry(NamedTuple):
    """Something that a run logs.

    Attributes:
        number: its place in the journal, from 0.
        kind: how it is delivered, a name of `delivery.DELIVER`.
        content: what is delivered, as JSON can hold it.
    """

    number: int
    kind: str
    content: dict[str, Any]


class Journal:
    """An open journal; this process has it locked."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self.rejected = ""  # why the store rejected an entry
        self._closed = False
        self.opened = Opened(**json.loads((folder / OPENED).read_text(encoding="utf-8")))
        self._count = len(self._lines())

    def add(self, kind: str, content: dict[str, Any]) -> Entry:
        """Write an entry, whole or not at all.

        Raises:
            KdflowError: the disk is full, or the cache cannot be written to.
        """
        entry = Entry(self._count, kind, content)
        line = f"{json.dumps([kind, content])}\n".encode()
        with writing_to(self.folder), (self.folder / ENTRIES).open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):  # the next entry would be in the same line
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._count += 1
        return entry

    @contextlib.contextmanager
    def new_files(self) -> Iterator[Path]:
        """An empty folder, for files that the next entry delivers.

        Raises:
            KdflowError: the disk is full, or the cache cannot be written to.
        """
        with writing_to(self.folder):
            folder = self.files(self._count)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            yield folder

    def files(self, number: int) -> Path:
        """The folder of an entry's files."""
        return self.folder / FILES / str(number)

    def waiting(self) -> list[Entry]:
        """The entries that the store does not have, in order."""
        lines = [json.loads(line) for line in self._lines()]
        entries = [Entry(number, *line) for number, line in enumerate(lines)]
        return entries[self._delivered() :]

    def has_ended(self) -> bool:
        """Whether its run was ended."""
        return any(json.loads(line)[0] == "status" for line in self._lines())

    def set_delivered(self, entry: Entry) -> None:
        """Record that the store has every entry up to this one. Where the disk is full, it is not
        recorded: an entry that is delivered twice is in the store once."""
        with contextlib.suppress(OSError), replacing(self.folder / DELIVERED) as new:
            new.write_text(str(entry.number + 1), encoding="utf-8")
        shutil.rmtree(self.files(entry.number), ignore_errors=True)
        if self._closed and not self.waiting():
            self.remove()

    def close(self) -> None:
        """State that nothing more is written. The journal is removed when the store has all of it;
        until then it stays locked as long as this process runs."""
        self._closed = True
        if not self.waiting():
            self.remove()

    def remove(self) -> None:
        """Delete the journal."""
        delete(self.folder, self._lock)

    def _lines(self) -> list[str]:
        try:
            written = (self.folder / ENTRIES).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return written.split("\n")[:-1]  # a line without an end is of a process that was killed

    def _delivered(self) -> int:
        try:
            return int((self.folder / DELIVERED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0


def new(run_id: str, store: str, *, ends_run: bool) -> Journal:
    """A new journal of a run.

    Raises:
        KdflowError: the cache cannot be written to.
    """
    folder = _root() / f"{run_id}-{uuid.uuid4().hex[:8]}"
    with writing_to(_root()):
        lock = _lock_of(folder)
        lock.acquire()
        folder.mkdir()
        MADE_HERE.add(folder)
        opened = Opened(run_id, store, ends_run, socket.gethostname())
        (folder / OPENED).write_text(json.dumps(opened._asdict()), encoding="utf-8")
    return Journal(folder, lock)


@contextlib.contextmanager
def locked(folder: Path, wait: float = 0) -> Iterator[FileLock | None]:
    """The lock of a journal, held inside the block; None if another process has it for longer than
    `wait` seconds, or the cache is read-only."""
    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=wait)
    except (Timeout, OSError):
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


def delete(folder: Path, lock: FileLock) -> None:
    """Delete a journal that this process has locked, whether it can be read or not."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextlib.contextmanager
def left_over(waited_for: str = "") -> Iterator[list[Journal]]:
    """The journals of processes that have ended, oldest first, locked inside the block.

    Args:
        waited_for: the id of a run whose process has ended: if its journals are locked, by another
            process that delivers them, that is waited for.
    """
    folders = [path for path in _root().iterdir() if path.is_dir()] if _root().exists() else []
    with contextlib.ExitStack() as locks:
        journals = []
        for folder in sorted(folders, key=_modified):
            lock = locks.enter_context(locked(folder))
            is_of_run = bool(waited_for) and folder.name.startswith(f"{waited_for}-")
            if lock is None and is_of_run and folder not in MADE_HERE:
                print(f"resume: waiting for another process that delivers {folder}")
                lock = locks.enter_context(locked(folder, WAIT))
            if lock is None:
                continue
            try:
                journals.append(Journal(folder, lock))
            except (OSError, ValueError, TypeError) as error:
                if _holds_nothing(folder):
                    delete(folder, lock)
                else:
                    print(
                        f"journal: {folder} cannot be read ({reason(error)}), so that what it"
                        " holds is not delivered to the tracking store",
                        file=sys.stderr,
                    )
        yield journals


def _holds_nothing(folder: Path) -> bool:
    """Whether the process was killed before it had written what the journal is of."""
    try:
        return not (folder / OPENED).exists() or not (folder / OPENED).stat().st_size
    except OSError:
        return False


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # its process has ended meanwhile
        return 0.0


def _root() -> Path:
    return cache_folder() / FOLDER


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0, thread_local=False)
