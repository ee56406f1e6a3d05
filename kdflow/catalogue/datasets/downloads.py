"""Data sets that Keras downloads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdflow.errors import KdflowError, reason
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = lazy_import("numpy")

TIMEOUT = 30  # seconds without an answer

Loaded = tuple[tuple["np.ndarray", "np.ndarray"], tuple["np.ndarray", "np.ndarray"]]


def within_timeout(load_data: Callable[[], Loaded]) -> Loaded:
    """What one of Keras' loaders returns; a server that does not answer for `TIMEOUT` seconds is an
    error."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return load_data()
    finally:
        socket.setdefaulttimeout(before)


def downloaded(
    name: str, load_data: Callable[[], Loaded], class_names: tuple[str, ...], images: int
) -> Dataset:
    """A data set of Keras', which Keras downloads to its own cache if it is not there.

    Args:
        images: how many there are for training and testing together.

    Raises:
        KdflowError: it cannot be downloaded, or is a different data set.
    """
    from kdflow.dataset import Dataset

    try:
        (x_train, y_train), (x_test, y_test) = within_timeout(load_data)
    except Exception as error:  # a download may fail in any way
        raise KdflowError(
            f"dataset: {name} could not be downloaded or read ({reason(error)}); delete its"
            " files in Keras' cache, ~/.keras/datasets"
        ) from error
    y_train, y_test = y_train.ravel(), y_test.ravel()
    labels = np.union1d(y_train, y_test)
    if len(x_train) + len(x_test) != images or labels.tolist() != list(range(len(class_names))):
        raise KdflowError(
            f"dataset: expected {images:,} images of {len(class_names)} classes of {name}, got"
            f" {len(x_train) + len(x_test):,} of {len(labels)}"
        )
    if x_train.ndim == 3:
        x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    return Dataset(name, x_train, y_train, x_test, y_test, class_names)
