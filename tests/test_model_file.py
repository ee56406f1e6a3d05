"""A file that someone else made: no code in it runs, and it cannot fill the memory."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from kdflow.errors import KdflowError
from kdflow.model_file import load_file

L = keras.layers


def saved(path: Path, *layers: keras.Layer) -> keras.Model:
    """A sequential model of 8 numbers, saved there."""
    model = keras.Sequential([keras.Input((8,)), *layers])
    keras.saving.save_model(model, path)
    return model


def refused(path: Path) -> str:
    """The one line that says why a file is not loaded."""
    with pytest.raises(KdflowError, match=r"^no model can be loaded from ") as error:
        load_file(str(path))
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_is_loaded_without_running_code_in_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    numbers = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    model = saved(path, L.Dense(3))
    assert np.array_equal(load_file(str(path))(numbers), model(numbers))
    saved(path, L.Lambda(lambda x: x))
    assert "it needs a Lambda layer, which is not Keras' own" in refused(path)


class Doubled(keras.layers.Layer):
    """A layer that Keras does not know."""

    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def scaled(x: Any) -> Any:
    """A function that Keras does not know."""
    return 2 * x


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.keras", Doubled),
        ("model.h5", Doubled),
        ("model.keras", lambda: L.Dense(3, activation=scaled)),
    ],
)
def test_what_is_not_keras_own_is_named(
    name: str, layer: Callable[[], keras.Layer], tmp_path: Path
) -> None:
    saved(tmp_path / name, layer())
    needed = "Doubled" if layer is Doubled else "scaled"
    assert f"it needs {needed}, which is not Keras' own" in refused(tmp_path / name)


def unpacking_to_zeros(weights: Path) -> None:
    """Replace the largest array of an HDF5 file by 128 MB of zeros, in a few kB."""
    arrays: dict[str, h5py.Dataset] = {}
    with h5py.File(weights, "a") as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None
            )
        )
        largest = max(arrays, key=lambda name: arrays[name].size)
        del file[largest]
        file.create_dataset(largest, (2**25,), np.float32, chunks=(2**20,), compression="gzip")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_arrays_that_would_fill_the_memory_are_refused_unread(suffix: str, tmp_path: Path) -> None:
    path, weights = tmp_path / f"model{suffix}", tmp_path / "model.weights.h5"
    saved(path, L.Dense(3))
    if suffix == ".h5":
        unpacking_to_zeros(path)
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        weights.write_bytes(members[weights.name])
        unpacking_to_zeros(weights)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | {weights.name: weights.read_bytes()}).items():
                archive.writestr(name, content)
    assert path.stat().st_size < 100_000
    assert "expected at most 67.1 MB in memory from 0.0 MB in the file, got 134.2 MB" in refused(
        path
    )


def test_a_member_that_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    saved(path, L.Dense(3))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(2**27))
    assert "expected at most 67.1 MB in memory from 0.1 MB in the file, got 134.2 MB" in refused(
        path
    )


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.keras")
    (tmp_path / "model.h5").mkdir()
    for name in ("model.keras", "model.h5"):
        assert refused(tmp_path / name).endswith("expected a regular file")
