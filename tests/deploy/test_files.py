"""Files of a network: made whole or not at all, and what they answer."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.dataset import Dataset, Images
from kdflow.deploy import litert, make
from kdflow.deploy.files import FORMATS, all_logits, open_file
from kdflow.deploy.pixels import exportable
from kdflow.errors import KdflowError, NoRoomError
from kdflow.evaluate.metrics import predict_logits
from kdflow.network import build

pytestmark = needs_deploy


@pytest.mark.parametrize(
    "name",
    [
        "pupil",
        pytest.param("fast", marks=pytest.mark.slow),
        pytest.param("fitnet", marks=pytest.mark.slow),
    ],
)
def test_files_answer_as_the_network_does(
    name: str, tiny: Dataset, train: Images, float_pixels: np.ndarray, tmp_path: Path
) -> None:
    network = build(name, train, 3, seed=0)
    made = make.make(network, float_pixels, tmp_path)
    assert [path.name for path in made.paths] == [*make.LITERT, *make.ONNX]
    assert made.not_made == {}
    assert sorted(tmp_path.iterdir()) == sorted(made.paths)
    expected = predict_logits(network, tiny.x_test)
    spread = float(np.ptp(expected))
    for path in made.paths:
        file = open_file(path)
        assert file.input.shape == (None, 8, 8, 3)
        assert file.output.shape == (None, 3)
        # int8 tells 256 values of each tensor apart, and its errors add up from layer to layer
        close = {"float32": 1e-4, "float16": 0.002 * spread, "int8": 0.03 * spread}[path.stem]
        for batch in (tiny.x_test, tiny.x_test[:1], tiny.x_test[:7]):
            answers = file.logits(batch)
            assert answers.dtype == np.float32
            assert np.abs(answers - expected[: len(batch)]).mean() < close, path.name
    sizes = {path.name: path.stat().st_size for path in made.paths}
    assert sizes["int8.tflite"] < sizes["float16.tflite"] < sizes["float32.tflite"]
    assert sizes["int8.onnx"] < sizes["float32.onnx"]


def test_any_number_of_images_is_answered_in_order(
    tiny: Dataset, small_network: keras.Model, float_pixels: np.ndarray, tmp_path: Path
) -> None:
    (path,) = make.make(small_network, float_pixels, tmp_path, [make.FLOAT32]).paths
    many = np.resize(tiny.x_test, (250, 8, 8, 3))
    assert all_logits(open_file(path), many) == pytest.approx(
        predict_logits(small_network, many), abs=1e-4
    )


def test_pixels_of_an_int8_file_are_stored_as_themselves_minus_128(
    tiny: Dataset, small_network: keras.Model, float_pixels: np.ndarray, tmp_path: Path
) -> None:
    # whatever the brightest pixel is that it was calibrated on
    make.make(small_network, float_pixels / 2, tmp_path, [make.FLOAT32, make.INT8])
    file = open_file(tmp_path / make.INT8)
    assert file.input[2:] == ("int8", 1.0, -128)
    assert np.array_equal(file.input.stored(tiny.x_test), tiny.x_test.astype(int) - 128)


def test_operations_are_read_from_the_file(
    small_network: keras.Model, float_pixels: np.ndarray, tmp_path: Path
) -> None:
    for path in make.make(small_network, float_pixels, tmp_path).paths:
        operations = FORMATS[path.suffix].operations(path)
        name = "CONV_2D" if path.suffix == ".tflite" else "Conv"
        assert operations[name] == 1
        assert not [each for each in operations if each.startswith("CUSTOM")]
        if path.suffix == ".tflite":  # it takes pixels as it computes, without converting them
            assert "CAST" not in operations
    litert.write_float32(small_network, tmp_path / "of_bytes.tflite")
    assert litert.operations(tmp_path / "of_bytes.tflite")["CAST"] == 1


def with_operation(operation: Callable[[keras.KerasTensor], keras.KerasTensor]) -> keras.Model:
    images = keras.Input((8, 8, 3))
    x = operation(keras.layers.Rescaling(1 / 256)(images))
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def test_an_operation_of_tensorflow_is_refused_by_name(
    float_pixels: np.ndarray, tmp_path: Path
) -> None:
    network = with_operation(lambda x: keras.ops.cumprod(x, axis=1))
    with pytest.raises(KdflowError, match=r"float32.tflite: expected operations of LiteRT alone"):
        make.make(network, float_pixels, tmp_path)
    assert list(tmp_path.iterdir()) == []
    litert.write_float32(exportable(network), tmp_path / "it.tflite")
    assert litert.operations(tmp_path / "it.tflite")["CUSTOM FlexCumprod"] == 1


def test_a_network_that_onnx_cannot_hold_gets_none_with_the_reason(
    float_pixels: np.ndarray, tmp_path: Path
) -> None:
    made = make.make(with_operation(keras.ops.erfinv), float_pixels, tmp_path, make.ONNX)
    assert made.paths == []
    assert "Erfinv" in made.not_made["float32.onnx"]
    assert made.not_made["int8.onnx"] == "it needs float32.onnx, which was not made"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [make.FLOAT32, "float32.onnx"])
def test_a_damaged_file_is_not_opened(
    name: str, small_network: keras.Model, float_pixels: np.ndarray, tmp_path: Path
) -> None:
    (path,) = make.make(small_network, float_pixels, tmp_path, [name]).paths
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError):  # noqa: PT011  # each runtime has its own words
        open_file(path)


@pytest.mark.parametrize("name", [make.FLOAT32, "float32.onnx"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name: str,
    small_network: keras.Model,
    float_pixels: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: keras.Model, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdflow.deploy.litert.write_float32", full)
    monkeypatch.setattr("kdflow.deploy.onnx_format.write_float32", full)
    with pytest.raises(NoRoomError, match=r"cannot be made: .* No space left on device$"):
        make.make(small_network, float_pixels, tmp_path, [name])
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_refused(
    small_network: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 2**20

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    needed = 12 * 4 * small_network.count_params()
    assert needed < 2**20
    make.check_room(small_network)
    Usage.free = needed - 1
    with pytest.raises(NoRoomError, match=r"^expected \S+ MB of room in .*set TMPDIR to another"):
        make.check_room(small_network)
