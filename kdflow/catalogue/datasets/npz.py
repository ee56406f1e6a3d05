"""A user's own images in an `.npz` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdflow.catalogue.datasets.record import DatasetRecord
from kdflow.errors import KdflowError, reason
from kdflow.late import late

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = late("numpy")


def load_npz(name: str) -> Dataset:
    """The images of an `.npz` file.

    Raises:
        KdflowError: it is not what a data set has to be.
    """
    from kdflow.dataset import ARRAYS, Dataset

    path = Path(name)
    arrays = read_npz(path)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise KdflowError(
            f"dataset: expected the arrays {', '.join(ARRAYS)} in {path}, got"
            f" {', '.join(arrays) or 'none'} (missing: {', '.join(missing)})"
        )
    x_train, x_test = (_checked_images(name, arrays[name]) for name in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise KdflowError(
            "dataset: expected training and test images of one shape, got"
            f" {x_train.shape[1:]} and {x_test.shape[1:]}"
        )
    y_train = _checked_labels("y_train", arrays["y_train"], len(x_train))
    y_test = _checked_labels("y_test", arrays["y_test"], len(x_test))
    seen = np.unique(y_train)
    classes = len(seen)
    out_of_range = [int(y) for y in np.union1d(seen, y_test) if y >= classes]
    if out_of_range or classes < 2:
        found = f"the label {out_of_range[0]}" if out_of_range else "a single class"
        raise KdflowError(
            "dataset: expected labels 0 to classes - 1, at least two classes, each with training"
            f" images; got {found} where {classes} classes have training images"
        )
    label_type = np.uint8 if classes <= 256 else np.int32
    return Dataset(
        name,
        x_train,
        y_train.astype(label_type),
        x_test,
        y_test.astype(label_type),
        tuple(map(str, range(classes))),
    )


def _checked_images(name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise KdflowError(
            f"dataset: expected {name} as uint8 images (n, height, width) or"
            f" (n, height, width, channels), got {images.dtype} {images.shape}"
        )
    return images if images.ndim == 4 else images[..., np.newaxis]


def _checked_labels(name: str, labels: np.ndarray, images: int) -> np.ndarray:
    if labels.shape == (images, 1):
        labels = labels[:, 0]
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise KdflowError(
            f"dataset: expected {name} as {images} integers, one per image, got"
            f" {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0:
        raise KdflowError(f"dataset: expected labels of 0 or more in {name}, got {labels.min()}")
    return labels


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; one that would need pickle is refused."""
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            read = {name: arrays[name] for name in arrays.files}
            if not all(isinstance(array, np.ndarray) for array in read.values()):
                raise ValueError("something in it is no array")
            return read
    except Exception as error:  # a damaged or strangely packed file fails in many ways
        raise KdflowError(
            f"dataset: expected an .npz file of plain arrays, got {path.absolute()}:"
            f" {reason(error)}"
        ) from error


NPZ = DatasetRecord("the path of an .npz file", load_npz, suffix=".npz")
