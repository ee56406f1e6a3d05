"""Data sets in the cache folder: written once, whole or not at all, and read from there by part.

The arrays of a data set are in a folder that its key names, with a manifest that has their digests.
The digests are not computed again as long as size and time of modification of each file are those
of when it was written; else the arrays are written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kdflow.cache import cache_folder, writing_to
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = lazy_import("numpy")

FOLDER = "datasets"  # in the cache
MANIFEST = "manifest.json"


class StoredArray(BaseModel):
    """What the manifest has of an array.

    Attributes:
        sha256: of its bytes in C order.
        size, mtime_ns: of its file.
    """

    sha256: str
    size: int
    mtime_ns: int


class Manifest(BaseModel):
    """What is stored.

    Attributes:
        format: the version of this layout.
        arrays: `x_train`, `y_train`, `x_test` and `y_test`, each a `.npy` file.
        class_names: one name per class.
        remarks: what the user should know of the data set, a line each.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    arrays: dict[str, StoredArray]
    class_names: list[str]
    remarks: list[str]


class NewDataset:
    """The folder that a data set is written to.

    Attributes:
        class_names, remarks: see `Manifest`; to be set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.class_names: list[str] = []
        self.remarks: list[str] = []
        self._sha256: dict[str, str] = {}

    def write(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[bytes]
    ) -> None:
        """Write an array.

        Args:
            parts: its bytes in C order.

        Raises:
            ValueError: they are not as many as `shape` says.
        """
        digest, count = hashlib.sha256(), 0
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        with (self.folder / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
            for part in parts:
                file.write(part)
                digest.update(part)
                count += len(part)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave a manifest without content
        if count != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"expected {math.prod(shape) * dtype.itemsize} bytes, got {count}")
        self._sha256[name] = digest.hexdigest()

    def manifest(self) -> Manifest:
        arrays = {}
        for name, sha256 in self._sha256.items():
            status = (self.folder / f"{name}.npy").stat()
            arrays[name] = StoredArray(
                sha256=sha256, size=status.st_size, mtime_ns=status.st_mtime_ns
            )
        return Manifest(arrays=arrays, class_names=self.class_names, remarks=self.remarks)


def stored(name: str, key: str, write: Callable[[NewDataset], None]) -> Dataset:
    """The data set that is stored under `key`, written first if it is not there. Only one process
    writes it; others wait.

    Args:
        name: the data set's.
        key: a file name that follows from all that the arrays depend on.
        write: writes the four arrays and sets the class names.

    Raises:
        KdflowError: the cache cannot be written to, or what `write` raises. Nothing is stored then.
    """
    from kdflow.dataset import Dataset
    from kdflow.image_file import ImageFile

    root = cache_folder() / FOLDER
    manifest = _found(root / key)
    if manifest is None:
        with writing_to(root), _alone(root, key):
            manifest = _found(root / key)  # another process may have written it
            if manifest is None:
                manifest = _written(root / key, write)
    for remark in manifest.remarks:
        print(f"dataset: {remark}")
    x_train, x_test = (
        ImageFile(root / key / f"{array}.npy", manifest.arrays[array].sha256)
        for array in ("x_train", "x_test")
    )
    y_train, y_test = (
        np.load(root / key / f"{array}.npy", allow_pickle=False) for array in ("y_train", "y_test")
    )
    return Dataset(name, x_train, y_train, x_test, y_test, tuple(manifest.class_names))


def _found(folder: Path) -> Manifest | None:
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        files = {name: (folder / f"{name}.npy").stat() for name in manifest.arrays}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        files, manifest = {}, None
    if manifest and all(
        (files[name].st_size, files[name].st_mtime_ns) == (array.size, array.mtime_ns)
        for name, array in manifest.arrays.items()
    ):
        return manifest
    print(f"dataset: {folder} has changed since it was written; it is written again")
    return None


def is_being_written(folder: Path) -> bool:
    """Whether a process is writing this data set to the cache.

    Args:
        folder: of the data set, or of what is written of it so far.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


@contextlib.contextmanager
def _alone(root: Path, key: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(root / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("dataset: waiting for another process that writes this data set to the cache")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _written(folder: Path, write: Callable[[NewDataset], None]) -> Manifest:
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir()
    try:
        dataset = NewDataset(new)
        write(dataset)
        manifest = dataset.manifest()
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.replace(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return manifest
