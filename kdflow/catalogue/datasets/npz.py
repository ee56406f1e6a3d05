"""A user's own images in an `.npz` file."""

from __future__ import annotations

import hashlib
import math
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from kdflow.cache import check_room
from kdflow.catalogue.datasets.content import sha256_of
from kdflow.catalogue.datasets.record import DatasetRecord
from kdflow.catalogue.datasets.stored import NewDataset, stored
from kdflow.errors import KdflowError, is_disk_full, reason
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = lazy_import("numpy")

# The names that kdflow and Keras give the arrays, and those of MedMNIST's files.
NAMES = {
    "x_train": "train_images",
    "y_train": "train_labels",
    "x_test": "test_images",
    "y_test": "test_labels",
}
CLASS_NAMES = "class_names"
CHUNK = 2**20  # bytes


class Member(NamedTuple):
    """An array in an `.npz` file, before it is unpacked.

    Attributes:
        name: in the file.
    """

    archive: zipfile.ZipFile
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool

    def parts(self) -> Iterator[bytes]:
        """Its bytes in C order."""
        with self.archive.open(f"{self.name}.npy") as file:
            if self.fortran_order:  # its first image has bytes everywhere
                array = np.lib.format.read_array(file, allow_pickle=False)
                yield np.ascontiguousarray(array).tobytes()
                return
            _header(file)
            while part := file.read(CHUNK):
                yield part

    def read(self) -> np.ndarray:
        """The whole array."""
        flat = np.frombuffer(b"".join(self.parts()), self.dtype)
        return flat.reshape(self.shape)


def load_npz(name: str) -> Dataset:
    """The images of an `.npz` file, unpacked once into the cache.

    Raises:
        KdflowError: it is not what a data set has to be, or the cache cannot be written to.
    """
    path = Path(name)
    _check_regular(path)
    (sha256,) = sha256_of([path], path)

    def write(new: NewDataset) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                _write(new, path, archive)
        except KdflowError:
            raise
        except Exception as error:  # a damaged or strangely packed file fails in many ways
            if is_disk_full(error):  # of the cache
                raise
            raise _npz_error(path, error) from error

    return stored(name, hashlib.sha256(f"npz 1 {sha256}".encode()).hexdigest(), write)


def _write(new: NewDataset, path: Path, archive: zipfile.ZipFile) -> None:
    members = _chosen(path, archive)
    x_train, x_test = (_checked_images(members[name]) for name in ("x_train", "x_test"))
    if x_train[1:] != x_test[1:]:
        raise KdflowError(
            "dataset: expected training and test images of one shape, got"
            f" {x_train[1:]} and {x_test[1:]}"
        )
    y_train = _checked_labels(members["y_train"], x_train[0])
    y_test = _checked_labels(members["y_test"], x_test[0])
    classes = _checked_classes(y_train, y_test)
    new.class_names = _class_names(members.get(CLASS_NAMES), classes)
    needed = (x_train[0] + x_test[0]) * math.prod(x_train[1:])
    check_room(new.folder, needed, f"the images of {path}")
    label_type = np.dtype(np.uint8 if classes <= 256 else np.int32)
    for split, shape, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        new.write(f"x_{split}", shape, np.dtype(np.uint8), members[f"x_{split}"].parts())
        small = labels.astype(label_type)
        new.write(f"y_{split}", small.shape, label_type, [small.tobytes()])
    read = {member.name for member in members.values()}
    if unused := [name for name in _arrays(archive) if name not in read]:
        new.remarks.append(
            f"{', '.join(unused)} of {path}: not used; validation images are taken from the"
            " training images (holdout)"
        )


def _arrays(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in it."""
    names = archive.namelist()
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def _chosen(path: Path, archive: zipfile.ZipFile) -> dict[str, Member]:
    """The arrays that are read, by kdflow's names."""
    found = _arrays(archive)
    names = next(
        (naming for naming in (list(NAMES), list(NAMES.values())) if set(naming) & set(found)),
        list(NAMES),
    )
    missing = [name for name in names if name not in found]
    if missing:
        raise KdflowError(
            f"dataset: expected the arrays {', '.join(NAMES)} (or {', '.join(NAMES.values())}) in"
            f" {path}, got {', '.join(found) or 'none'} (missing: {', '.join(missing)})"
        )
    members = {ours: _member(archive, name) for ours, name in zip(NAMES, names, strict=True)}
    if CLASS_NAMES in found:
        members[CLASS_NAMES] = _member(archive, CLASS_NAMES)
    return members


def _member(archive: zipfile.ZipFile, name: str) -> Member:
    """An array, once the size that its header declares is that of the file in the archive."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran_order, dtype = _header(file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{name} has objects, which only pickle can read")
    declared = archive.getinfo(f"{name}.npy").file_size
    if size != declared:
        raise ValueError(f"{name} of shape {shape} takes {size} bytes, the file has {declared}")
    return Member(archive, name, shape, dtype, fortran_order)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"expected an array of format 1.0 or 2.0, got {version}")
    shape, fortran_order, dtype = read[version](file)
    return shape, fortran_order, dtype


def _how_to_convert(images: Member) -> str:
    if images.dtype.kind != "f":
        return ""
    return (
        f"; save {images.name}.round().astype(np.uint8), and multiply by 255 first where pixels are"
        " from 0 to 1"
    )


def _checked_images(images: Member) -> tuple[int, ...]:
    """The shape of the images, (n, height, width, channels)."""
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
        raise KdflowError(
            f"dataset: expected {images.name} as uint8 images (n, height, width) or"
            f" (n, height, width, channels), got {images.dtype} {shape}{_how_to_convert(images)}"
        )
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise KdflowError(
            f"dataset: expected {images.name} as (n, height, width, channels), got {shape}, which"
            " is PyTorch's order (n, channels, height, width): save"
            f" {images.name}.transpose(0, 2, 3, 1)"
        )
    return shape if len(shape) == 4 else (*shape, 1)


def _checked_labels(labels: Member, images: int) -> np.ndarray:
    if labels.shape not in ((images,), (images, 1)) or not np.issubdtype(labels.dtype, np.integer):
        raise KdflowError(
            f"dataset: expected {labels.name} as {images} integers, one per image, got"
            f" {labels.dtype} {labels.shape}"
        )
    numbers = labels.read().ravel()
    if numbers.min() < 0:
        raise KdflowError(
            f"dataset: expected labels of 0 or more in {labels.name}, got {numbers.min()}"
        )
    return numbers


def _checked_classes(y_train: np.ndarray, y_test: np.ndarray) -> int:
    """How many classes there are; each has training images."""
    seen = np.unique(y_train)
    classes = len(seen)
    out_of_range = [int(y) for y in np.union1d(seen, y_test) if y >= classes]
    if out_of_range or classes < 2:
        found = f"the label {out_of_range[0]}" if out_of_range else "a single class"
        raise KdflowError(
            "dataset: expected labels 0 to classes - 1, at least two classes, each with training"
            f" images; got {found} where {classes} classes have training images"
        )
    return classes


def _class_names(stored: Member | None, classes: int) -> list[str]:
    if stored is None:
        return [str(number) for number in range(classes)]
    if stored.shape != (classes,) or stored.dtype.kind != "U":
        raise KdflowError(
            f"dataset: expected {CLASS_NAMES} as {classes} strings, one per class, got"
            f" {stored.dtype} {stored.shape}"
        )
    names = [str(name) for name in stored.read()]
    if len(set(names)) < classes:
        raise KdflowError(f"dataset: expected {classes} different {CLASS_NAMES}, got {names}")
    return names


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, in memory; one that would need pickle is refused."""
    _check_regular(path)
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            read = {name: arrays[name] for name in arrays.files}
            if not all(isinstance(array, np.ndarray) for array in read.values()):
                raise ValueError("something in it is not an array")
            return read
    except Exception as error:  # a damaged or strangely packed file fails in many ways
        raise _npz_error(path, error) from error


def _check_regular(path: Path) -> None:
    """Refuse a missing file, and one that is not regular: reading a device may never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _npz_error(path, error) from error
    if not stat.S_ISREG(mode):
        raise _npz_error(path, ValueError("not a regular file"))


def _npz_error(path: Path, error: Exception) -> KdflowError:
    return KdflowError(
        f"dataset: expected an .npz file of plain arrays, got {path.absolute()}: {reason(error)}"
    )


NPZ = DatasetRecord(
    "the path of an .npz file",
    load_npz,
    teacher="broad",
    student="compact",
    pupil="mini",
    recognises=lambda it: it.endswith(".npz"),
)
