"""What the tests share: small data, and tracking stores that are theirs alone."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest

from kdflow.data import Dataset


@pytest.fixture
def tiny() -> Dataset:
    """60 training and 30 test images of 8x8x3 pixels in three classes, told apart by brightness."""
    rng = np.random.default_rng(0)
    y_train = np.tile(np.arange(3, dtype=np.uint8), 20)
    y_test = np.tile(np.arange(3, dtype=np.uint8), 10)

    def images(labels: np.ndarray) -> np.ndarray:
        noise = rng.integers(0, 80, size=(len(labels), 8, 8, 3))
        return np.asarray(noise + 80 * labels[:, None, None, None], np.uint8)

    return Dataset(
        "tiny", images(y_train), y_train, images(y_test), y_test, ("dark", "mid", "light")
    )


@pytest.fixture
def tiny_npz(tiny: Dataset, tmp_path: Path) -> Path:
    """The arrays of `tiny` as a user's own .npz file."""
    path = tmp_path / "tiny.npz"
    np.savez(
        path, x_train=tiny.x_train, y_train=tiny.y_train, x_test=tiny.x_test, y_test=tiny.y_test
    )
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty tracking store in a folder of its own, which is the working folder."""
    yield from _store_in(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As `store`, filled by the tests of one module in turn."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from _store_in(tmp_path_factory.mktemp("store"), monkeypatch)


def _store_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(variable, raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    yield folder
    mlflow.set_tracking_uri(None)
