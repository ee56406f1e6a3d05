"""What the tests share: small data, and tracking stores that are theirs alone."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from helpers import DISTILL, HINT, made_by, nothing_is_learned
from hypothesis import settings
from matplotlib.figure import Figure
from mlflow.entities import Run
from mlflow.tracking import fluent
from sqlalchemy import Engine, event

from kdflow.catalogue.networks import NETWORKS
from kdflow.config import precision
from kdflow.dataset import Dataset, Images
from kdflow.network import build

# The tests run in two processes, each with one thread: on two cores more would wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# A store that does not answer fails at once, unless a test waits for it.
os.environ.setdefault("KDFLOW_STORE_PATIENCE", "0")

# The same examples in every run, and no limit of time on a busy machine.
settings.register_profile("kdflow", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("kdflow")


@event.listens_for(Engine, "connect")
def _write_without_waiting_for_the_disk(connection: object, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session", autouse=True)
def float32() -> Iterator[None]:
    """precision=auto is float32 on every machine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(precision, "native_precision", lambda: "float32")
        yield


@pytest.fixture(scope="session", autouse=True)
def savefig() -> Iterator[Callable[..., None]]:
    """What draws a picture into a file. Without it, a test saves every picture blank: to draw those
    of a run takes longer than the training."""
    draw = Figure.savefig
    with pytest.MonkeyPatch.context() as monkeypatch:
        blank = Figure(figsize=(1, 1))
        monkeypatch.setattr(Figure, "savefig", lambda _, path, **options: draw(blank, path))
        yield draw


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
def train(tiny: Dataset) -> Images:
    """All but the first six training images of `tiny`."""
    return Images(tiny.x_train, tiny.y_train, np.arange(6, 60))


@pytest.fixture
def validation(tiny: Dataset) -> Images:
    """The first six training images of `tiny`."""
    return Images(tiny.x_train, tiny.y_train, np.arange(6))


@pytest.fixture
def teacher_logits() -> np.ndarray:
    """Logits of no teacher in particular, in two views of the training images of `tiny`."""
    return np.random.default_rng(5).normal(0, 3, (2, 60, 3)).astype(np.float16)


@pytest.fixture
def small_network(train: Images) -> keras.Model:
    """The smallest network of the catalogue for the images of `tiny`, with random weights."""
    return build("pupil", train, 3, seed=0)


@pytest.fixture
def float_pixels(tiny: Dataset) -> np.ndarray:
    """The training images of `tiny` as float32 pixels 0 to 255."""
    return np.asarray(tiny.x_train, np.float32)


@pytest.fixture
def tiny_npz(tiny: Dataset, tmp_path: Path) -> Path:
    """The arrays of `tiny` as a user's own .npz file."""
    path = tmp_path / "tiny.npz"
    np.savez(
        path, x_train=tiny.x_train, y_train=tiny.y_train, x_test=tiny.x_test, y_test=tiny.y_test
    )
    return path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an empty tracking store, whose tables take MLflow seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.search_experiments(max_results=1)
    mlflow.set_tracking_uri(None)
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty tracking store in a folder of its own, which is the working folder."""
    yield from _store_in(tmp_path, empty_store, monkeypatch)


@pytest.fixture(scope="module")
def shared_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As `store`, filled by the tests of one module in turn."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from _store_in(tmp_path_factory.mktemp("store"), empty_store, monkeypatch)


def _store_in(folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copy(empty_store, folder / "mlflow.db")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        location = (f"{folder}/mlruns/0",)
        database.execute("UPDATE experiments SET artifact_location = ?", location)
    monkeypatch.chdir(folder)
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    monkeypatch.setenv("KDFLOW_CACHE", str(folder / "cache"))
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds hints for as long as a student learns from them, of one test."""
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def untrained() -> Iterator[None]:
    """Trainings of the test end at once, see `nothing_is_learned`."""
    with nothing_is_learned():
        yield


@pytest.fixture(scope="module")
def all_untrained() -> Iterator[None]:
    """As `untrained`, for all tests of a module."""
    with nothing_is_learned():
        yield


@pytest.fixture(scope="module")
def quick_pupil() -> Iterator[None]:
    """The smallest network as a teacher that trains for three epochs on the digits by default."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        quick = replace(NETWORKS["pupil"], recipes={"digits": {"epochs": 3}})
        monkeypatch.setitem(NETWORKS, "pupil", quick)
        yield


@pytest.fixture(scope="module")
def first(quick_pupil: None, shared_store: Path) -> list[Run]:
    """The runs of a first distillation on an empty store."""
    return made_by([*DISTILL, "--temp", "8"])


@pytest.fixture
def distilled(first: list[Run]) -> Run:
    return first[0]


@pytest.fixture
def exported(first: list[Run]) -> Run:
    return first[1]


@pytest.fixture
def teacher(first: list[Run]) -> Run:
    return first[2]


@pytest.fixture(scope="module")
def hinted(first: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A hint run for `student`, whose teacher is in the store."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        (run,) = made_by(HINT)
    return run
