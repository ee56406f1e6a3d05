"""The digests of files, without reading those again that have not changed.

A file counts as unchanged if its size, its time of modification and its time of change (which the
file system sets, and no program can set back) are those of when it was read last.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdflow.cache import cache_folder, replacing, writing_to
from kdflow.errors import KdflowError

FOLDER = "digests"  # in the cache
# A change within the clock's resolution after the reading would leave the times as they are.
SETTLED_NS = 2 * 10**9

Entry = tuple[int, int, int, str]  # size, both times in ns, digest


def sha256_of(files: Sequence[Path], root: Path) -> list[str]:
    """The SHA-256 of the bytes of each file.

    Args:
        files: regular ones, below `root`.
        root: under whose name the digests are kept in the cache.

    Raises:
        KdflowError: a file cannot be read, or the cache cannot be written to.
    """
    from tqdm import tqdm

    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    index = cache_folder() / FOLDER / f"{name}.json"
    known = _read(index)
    now = time.time_ns()
    found: dict[str, Entry] = {}

    def digest(file: Path) -> str:
        path = str(file.relative_to(root))
        try:
            status = file.stat()
            described = status.st_size, status.st_mtime_ns, status.st_ctime_ns
            before = known.get(path)
            if before and before[:3] == described:
                sha256 = before[3]
            else:
                with file.open("rb") as opened:
                    sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise KdflowError(f"dataset: {file} cannot be read: {error.strerror}") from error
        if max(described[1:]) < now - SETTLED_NS:
            found[path] = (*described, sha256)
        return sha256

    bar = tqdm(total=len(files), desc="digests", unit="file", disable=None, leave=False, delay=1)
    with bar, ThreadPoolExecutor() as pool:
        digests = []
        for sha256 in pool.map(digest, files):
            digests.append(sha256)
            bar.update()
    if found != known:
        _write(index, found)
    return digests


def _read(index: Path) -> dict[str, Entry]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return {
            str(path): (int(size), int(modified), int(changed), str(sha256))
            for path, (size, modified, changed, sha256) in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # new or damaged: all files are read


def _write(index: Path, entries: dict[str, Entry]) -> None:
    with writing_to(index.parent), replacing(index) as new:
        new.write_text(json.dumps(entries), encoding="utf-8")
