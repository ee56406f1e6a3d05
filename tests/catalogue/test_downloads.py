import gzip
import http.server
import io
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from kdflow.catalogue.datasets import downloads, find_dataset
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError

SIZES = {"cifar100": (50_000, 10_000), "fashion_mnist": (60_000, 10_000)}
FASHION = "keras.src.datasets.fashion_mnist.get_file"
CIFAR = "keras.src.datasets.cifar100.get_file"


def load(name: str) -> Dataset:
    record = find_dataset(name)
    assert record
    return record.load(name)


def idx(array: np.ndarray) -> bytes:
    """An array as MNIST's files have it, compressed."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=1)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files are downloaded."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def from_here(
    get_file: Callable[..., str],
    address: str,
    cache_dir: Path,
    fname: str,
    origin: str,
    **given: str,
) -> str:
    """As Keras' `get_file`, with the same checks, of the test's own server."""
    here = address + origin.rsplit("/", 1)[1]
    cache_dir.mkdir(exist_ok=True)  # else Keras takes another folder
    return get_file(fname, origin=here, cache_dir=str(cache_dir), **given)


def test_fashion_mnist_is_what_keras_downloads(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    arrays = {}
    for name, images in (("train", 60_000), ("t10k", 10_000)):
        arrays[name] = np.arange(images * 784, dtype=np.uint64).astype(np.uint8)
        labels = (np.arange(images) % 10).astype(np.uint8)
        pixels = arrays[name].reshape(images, 28, 28)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    patched = partial(from_here, keras.utils.get_file, address, tmp_path / "keras")
    monkeypatch.setattr(FASHION, patched)
    fashion = load("fashion_mnist")
    assert fashion.x_train.shape == (60_000, 28, 28, 1)
    assert np.array_equal(fashion.x_test.ravel(), arrays["t10k"])
    assert fashion.y_test[:11].tolist() == [*range(10), 0]
    assert (fashion.class_names[0], fashion.class_names[9]) == ("T-shirt/top", "Ankle boot")
    archive = folder / "t10k-images-idx3-ubyte.gz"
    damaged = bytearray(archive.read_bytes())
    damaged[-8] ^= 1  # of gzip's checksum
    archive.write_bytes(damaged)
    patched = partial(from_here, keras.utils.get_file, address, tmp_path / "keras again")
    monkeypatch.setattr(FASHION, patched)
    with pytest.raises(KdflowError, match=r"fashion_mnist could not be downloaded .*CRC.*delete"):
        load("fashion_mnist")


def test_another_archive_than_cifar100s_is_refused_by_keras(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name in ("train", "test"):
            images = {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 1]}
            content = pickle.dumps(images)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    patched = partial(from_here, keras.utils.get_file, address, tmp_path / "keras")
    monkeypatch.setattr(CIFAR, patched)
    with pytest.raises(KdflowError, match=r"cifar100 could not be .* hash does not match"):
        load("cifar100")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders of Keras that need no network."""

    def split(count: int, classes: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(count) % classes).astype(np.uint8)
        return np.zeros((count, *shape), np.uint8), labels[:, np.newaxis]

    shape = (32, 32, 3)
    both = tuple(split(count, 100, shape) for count in SIZES["cifar100"])
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", lambda: both)


@pytest.mark.usefixtures("made_up")
def test_cifar100_has_flat_fine_labels_with_their_names() -> None:
    cifar100 = load("cifar100")
    assert cifar100.y_train.shape == (50_000,)
    assert cifar100.image_shape == (32, 32, 3)
    names = cifar100.class_names
    assert len(names) == len(set(names)) == 100
    assert list(names) == sorted(names)  # the official order is the alphabetical one
    # by number, as the documentation of the data set lists them
    assert (names[0], names[11], names[49], names[99]) == ("apple", "boy", "mountain", "worm")


def test_another_number_of_images_or_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    few = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10, dtype=np.uint8)
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", lambda: (few, few))
    with pytest.raises(
        KdflowError, match=r"expected 60,000 images of 100 classes of cifar100, got 20 of 10"
    ):
        load("cifar100")


def test_a_silent_server_is_given_up_after_half_a_minute() -> None:
    before = socket.getdefaulttimeout()
    assert downloads.within_timeout(socket.getdefaulttimeout) == 30  # type: ignore[arg-type,comparison-overlap]
    assert socket.getdefaulttimeout() == before
