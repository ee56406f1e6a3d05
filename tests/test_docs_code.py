"""The Python examples of the documentation run as they stand."""

import contextlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from kdflow import network
from kdflow.artifacts import logits
from kdflow.catalogue.datasets.npz import load_npz
from kdflow.config.views import Views
from kdflow.dataset import Dataset
from sweeps.driver.study import Study


@pytest.fixture(autouse=True)
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which an example finds and leaves its files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example(page: str, having: str) -> str:
    """The block of Python on a page of docs/ that has this text."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"^( *)```python\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    (found,) = (code for _, code in blocks if having in code)
    return re.sub(r"^  ", "", found, flags=re.MULTILINE) if found.startswith("  ") else found


def run(code: str, **names: Any) -> dict[str, Any]:
    """The names that an example defines, given those that its page says are there."""
    exec(compile(code, "an example", "exec"), names)
    return names


def test_a_function_of_ones_own_makes_a_network(here: Path) -> None:
    (here / "nets.py").write_text(example("networks", "def mobile"))
    built = network.untrained("nets.py:mobile", (32, 32, 3), 10)
    assert (built.input_shape, built.output_shape) == ((None, 32, 32, 3), (None, 10))


def test_a_study_has_what_the_page_gives_it() -> None:
    study = run(example("sweeps", "STUDY = Study"))["STUDY"]
    assert isinstance(study, Study)
    assert study.trials == 20
    assert study.extremes("temp") == (0.5, 4)


def test_a_teacher_of_larger_images_is_put_behind_a_layer_that_resizes() -> None:
    images = keras.Input((224, 224, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    keras.Model(images, keras.layers.Dense(3)(pooled)).save("large.keras")
    run(example("teachers", "Resizing"))
    resized = keras.saving.load_model("flowers.keras")
    assert (resized.input_shape, resized.output_shape) == ((None, 96, 96, 3), (None, 3))


class Tensor(np.ndarray):
    """An array with the methods of PyTorch that the example uses."""

    def permute(self, *axes: int) -> "Tensor":
        return self.transpose(axes).view(Tensor)

    def numpy(self) -> np.ndarray:
        return np.asarray(self)


class OfPyTorch:
    """A classifier, whose logits are red values of the channels-first image, less 1."""

    def eval(self) -> "OfPyTorch":
        return self

    def __call__(self, images: Tensor) -> Tensor:
        return (images[:, 0, 1, 2:5].astype(np.float32) - 1).view(Tensor)


def test_the_logits_of_a_classifier_of_pytorch_are_written(
    tiny: Dataset, tiny_npz: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = SimpleNamespace(
        from_numpy=lambda array: array.view(Tensor), inference_mode=contextlib.nullcontext
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    (here / "flowers.npz").write_bytes(tiny_npz.read_bytes())
    run(example("teachers", "import torch"), model=OfPyTorch())
    read = logits.read(here / "flowers_logits", load_npz("flowers.npz"), views=Views(2))
    for view, seen in enumerate((tiny.x_train, tiny.x_train[:, :, ::-1])):
        np.testing.assert_allclose(read.train[view], seen[:, 1, 2:5, 0] / 255 - 1, atol=1e-6)
    assert read.test.shape == (1, len(tiny.y_test), 3)
    assert read.manifest.network == "resnet50"


def test_photos_are_loaded_as_an_array(here: Path) -> None:
    for number in range(200):
        path = here / "photos" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (99, 97), (number, 0, 0)).save(path)
    photos = run(example("your-own-data", "load_folder"))["photos"]
    assert photos.x_train[:100].shape == (100, 96, 96, 3)


def test_arrays_of_ones_own_become_a_data_set(tiny: Dataset) -> None:
    arrays = {name: getattr(tiny, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    run(example("your-own-data", "np.savez"), **arrays)
    saved = load_npz("flowers.npz")
    assert np.array_equal(saved.x_train[:], tiny.x_train)
    assert saved.class_names == ("daisy", "rose", "tulip")


def test_two_runs_of_compare_are_compared_seed_by_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["seed", "baseline", "distilled"]
    tables = {
        "runs:/<run of loss=kd>/comparison.json": [[0, 0.1, 0.70], [1, 0.2, 0.75], [2, 0.3, 0.72]],
        "runs:/<run of loss=dkd>/comparison.json": [[0, 0.1, 0.8], [1, 0.2, 0.86], [2, 0.3, 0.81]],
    }
    monkeypatch.setattr(
        mlflow.artifacts, "load_dict", lambda uri: {"columns": columns, "data": tables[uri]}
    )
    run(example("believing-the-numbers", "def distilled"))
    shown = capsys.readouterr().out
    assert "BEATS" in shown
    assert f"{(0.1 + 0.11 + 0.09) / 3:.2f}" in shown
