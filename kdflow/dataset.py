"""Images with their labels, and the split into training and validation images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdflow.errors import KdflowError
from kdflow.image_file import ImageFile, Pixels

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

# One constant for every run: a student must never train on what its teacher was selected on.
SPLIT_SEED = 20150309


@dataclass(frozen=True)
class Dataset:
    """Images and labels, in one fixed order.

    Attributes:
        x_train, x_test: uint8, (images, height, width, channels); in memory, or in a file where
            they may not fit.
        y_train, y_test: integers 0 to classes - 1, (images,).
        class_names: one name per class.
        options: the parameters that it was loaded with.
    """

    name: str
    x_train: Pixels
    y_train: np.ndarray
    x_test: Pixels
    y_test: np.ndarray
    class_names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a step that works on it."""
        return {"dataset": self.name, **self.options}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def short_name(self) -> str:
        """The name without the folders above it, if it is a path."""
        return Path(self.name).resolve().name

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 that names these images and labels in this order."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        described = {name: [list(a.shape), sha256(a)] for name, a in arrays.items()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Images:
    """Images and labels in the data set's own order, and which of them to use.

    Attributes:
        images: uint8, (n, height, width, channels).
        labels: integers, (n,).
        indices: the chosen ones, (m,).
    """

    images: Pixels
    labels: np.ndarray
    indices: np.ndarray

    def sample(self, count: int) -> np.ndarray:
        """At most `count` of the chosen images, drawn evenly at random, always the same ones."""
        count = min(count, len(self.indices))
        drawn = np.random.default_rng(SPLIT_SEED).choice(self.indices, count, replace=False)
        sampled: np.ndarray = self.images[np.sort(drawn)]
        return sampled


def split(labels: np.ndarray, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the training and the validation images, each ascending.

    The split is stratified by class and always the same for the same labels and `holdout`.

    Args:
        labels: (images,) integers.
        holdout: the share of validation images; 0 leaves them empty.
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    if holdout == 0:
        return everything, everything[:0]
    try:
        train, validation = train_test_split(
            everything, test_size=holdout, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:
        raise KdflowError(
            f"holdout: expected a share that takes images of every class from {len(labels)}"
            f" training images, got {holdout} ({error})"
        ) from error
    return np.sort(train), np.sort(validation)


def sha256(array: Pixels) -> str:
    """The SHA-256 of an array's bytes in C order; that of a file was computed when it was
    written."""
    if isinstance(array, ImageFile):
        return array.sha256
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
