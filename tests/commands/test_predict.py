"""`predict` gives what the model gives for the same pixels."""

import csv
import json
import os
import shutil
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from helpers import artifact, made_by, needs_deploy
from mlflow.entities import Run
from PIL import Image
from scipy.special import log_softmax, softmax

from kdflow.__main__ import main
from kdflow.commands import predict, predictions
from kdflow.commands.predictions import Prediction
from kdflow.dataset import split
from kdflow.deploy import extra
from kdflow.deploy.files import all_logits, open_file
from kdflow.deploy.manifest import sha256
from kdflow.errors import KdflowError
from kdflow.evaluate.metrics import fitting_temperature, nll, predict_logits
from kdflow.steps.run import load
from kdflow.tracking.artifacts import load_model
from kdflow.tracking.find import get_run

pytestmark = pytest.mark.usefixtures("shared_store", "cache")

COUNT = 70  # more than are predicted at a time
ORDER = [*range(0, COUNT, 2), *range(1, COUNT, 2)]  # the folders one after the other


@pytest.fixture
def distilled(first: list[Run]) -> Run:
    return first[0]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Test images of the digits as PNG files, in two folders."""
    folder = tmp_path / "photos"
    for index, image in enumerate(load("digits", 0.1).x_test[:COUNT]):
        path = folder / f"{index % 2}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return folder


def predicted(*argv: str) -> list[dict[str, str]]:
    assert main(["predict", *argv]) == 0
    with Path("predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_those_of(logits: np.ndarray, rows: list[dict[str, str]]) -> None:
    """The rows have the classes and probabilities of these logits of the test images."""
    assert [row["class"] for row in rows] == [str(each) for each in logits.argmax(1)[ORDER]]
    probabilities = softmax(logits.astype(np.float64), axis=-1).max(axis=-1)[ORDER]
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, probabilities, atol=1e-5)


def test_classes_and_probabilities_are_those_of_the_models_logits(
    distilled: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = predicted("--model", distilled.info.run_id, "--images", str(photos))
    network = load_model(get_run(distilled.info.run_id))
    logits = predict_logits(network, load("digits", 0.1).x_test[:COUNT])
    assert [row["path"] for row in rows] == [
        str(photos / str(index % 2) / f"{index:03}.png") for index in ORDER
    ]
    assert_those_of(logits, rows)
    page = Path("predictions.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == COUNT
    assert "{{" not in page


def test_calibrated_probabilities_fit_the_validation_images(
    distilled: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", distilled.info.run_id, "--images", str(photos), "--calibrate", "true"]
    plain = predicted(*given[:-2])
    rows = predicted(*given)
    digits = load("digits", 0.1)
    _, validation = split(digits.y_train, 0.1)
    network = load_model(get_run(distilled.info.run_id))
    logits = predict_logits(network, digits.x_train, validation)
    temperature = fitting_temperature(logits, digits.y_train[validation])
    expected = f"predict: temperature {temperature:.3f}, of {len(validation)} validation images"
    assert expected in capsys.readouterr().out
    assert [row["class"] for row in rows] == [row["class"] for row in plain]
    scaled = predict_logits(network, digits.x_test[:COUNT]).astype(np.float64) / temperature
    assert_those_of(scaled, rows)
    shares = [[row["probability"] for row in each] for each in (rows, plain)]
    assert shares[0] != shares[1]


def test_the_fitting_temperature_is_the_one_that_the_labels_were_drawn_at() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5))
    labels = np.array([rng.choice(5, p=p) for p in np.exp(log_softmax(logits / 2.5, axis=-1))])
    found = fitting_temperature(logits, labels)
    assert found == pytest.approx(2.5, abs=0.1)
    losses = [nll(logits / t, labels) for t in np.linspace(2, 3, 101)]
    assert nll(logits / found, labels) <= min(losses) + 1e-9


def test_images_that_are_all_classified_correctly_determine_no_temperature() -> None:
    labels = np.arange(144) % 10
    logits = np.eye(10)[labels] + np.random.default_rng(0).uniform(0, 0.5, (144, 10))
    expected = r"from 0\.05 to 20, got 144 that do not \(accuracy 1\.0000\)$"
    with pytest.raises(KdflowError, match=expected):
        fitting_temperature(logits, labels)


def test_images_in_linked_folders_are_found_once_and_hidden_ones_are_not(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for path in (images / "b.png", images / ".hidden" / "c.png", elsewhere / "a.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (images / "monday").symlink_to(elsewhere)
    (elsewhere / "around").symlink_to(images)
    assert predict._files(images) == [images / "b.png", images / "monday" / "a.png"]


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_of_keras_predicts_numbers_and_needs_no_store(
    distilled: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    network = load_model(get_run(distilled.info.run_id))
    network.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdflow.tracking.store.open_store", None)
    (row,) = predicted("--model", name, "--images", str(photos / "0" / "000.png"))
    (logits,) = predict_logits(network, load("digits", 0.1).x_test[:1])
    assert row["class"] == str(logits.argmax())


@pytest.fixture(scope="module")
def deployed(first: list[Run]) -> Run:
    """A deployment of the distilled student, whose served file is registered."""
    argv = ["deploy", "--dataset", "digits", "--margin", "100", "--teacher", "none"]
    (run,) = made_by([*argv, "--model", first[-1].info.run_id, "--register", "predicting"])
    return run


@needs_deploy
@pytest.mark.slow
def test_a_shipped_file_predicts_what_its_run_and_its_registered_version_do(
    deployed: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--images", str(photos)]
    of_run = predicted("--model", deployed.info.run_id, *given)
    assert predicted("--model", "models:/predicting@candidate", *given) == of_run
    shutil.copytree(artifact(deployed, "files"), "files")
    shutil.copy(artifact(deployed, "deploy.json"), ".")
    with monkeypatch.context() as without_store:
        without_store.setattr("kdflow.tracking.store.open_store", None)
        assert predicted("--model", "files/int8.tflite", *given) == of_run
        by_onnx = predicted("--model", str(tmp_path / "files" / "float32.onnx"), *given)
    logits = all_logits(open_file(Path("files/int8.tflite")), load("digits", 0.1).x_test[:COUNT])
    assert_those_of(logits, of_run)
    network = load_model(get_run(deployed.data.tags["kdflow.upstream.model"]))
    expected = predict_logits(network, load("digits", 0.1).x_test[:COUNT]).argmax(1)[ORDER]
    assert [row["class"] for row in by_onnx] == [str(each) for each in expected]


@needs_deploy
@pytest.mark.slow
def test_a_deployed_file_is_calibrated_on_its_own_logits(
    deployed: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", deployed.info.run_id, "--images", str(photos), "--calibrate", "true"]
    predicted(*given)
    digits = load("digits", 0.1)
    _, validation = split(digits.y_train, 0.1)
    file = open_file(artifact(deployed, "files") / "int8.tflite")
    logits = all_logits(file, digits.x_train[validation])
    temperature = fitting_temperature(logits, digits.y_train[validation])
    assert f"predict: temperature {temperature:.3f}, of " in capsys.readouterr().out


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A file that no runtime runs, beside its manifest."""
    file = tmp_path / "int8.tflite"
    file.write_bytes(b"a file")
    written = {
        "files": {"int8.tflite": {"sha256": sha256(file)}, "float32.onnx": {"sha256": ""}},
        "pixels": {"shape": ["images", 8, 8, 1]},
        "class_names": ["a", "b"],
    }
    (tmp_path / "deploy.json").write_text(json.dumps(written))
    return file


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"another", "int8.tflite", "model: expected int8.tflite with SHA-256 "),
        (b"a file", "other.tflite", "model: expected a file that deploy.json in "),
        (b"a file", "files/int8.tflite", "model: expected deploy.json and files in "),
        (b"a file", "deeper/int8.tflite", "model: expected deploy.json and files in "),
        (b"another", "", "model: expected int8.tflite with SHA-256 "),  # seen from its own folder
    ],
)
def test_a_file_that_is_not_as_its_manifest_says_is_refused(
    content: bytes,
    name: str,
    expected: str,
    shipped: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped.write_bytes(content)
    model = str(shipped.parent / name)
    if not name:
        (shipped.parent / "files").mkdir()
        shipped.rename(shipped.parent / "files" / shipped.name)
        monkeypatch.chdir(shipped.parent / "files")
        model = shipped.name
    given = ["--model", model, "--images", str(photos)]
    assert main(["predict", *given]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"kdflow predict: {expected}")
    assert line.count("\n") == 1


def test_a_file_whose_runtime_is_not_installed_is_refused(
    shipped: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", "--model", str(shipped), "--images", str(photos)]
    monkeypatch.setitem(extra.RUNTIMES, ".tflite", "not_installed")
    assert main(given) == 1
    assert capsys.readouterr().err == (
        "kdflow predict: model: expected the packages of the extra `deploy`, missing:"
        f" not_installed; install them with: {extra.INSTALL}\n"
    )


@needs_deploy
def test_a_file_that_does_not_run_is_refused(
    shipped: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", str(shipped), "--images", str(photos)]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"kdflow predict: model: expected a file that runs, got {shipped}: ")
    assert line.count("\n") == 1


def made_by_hand() -> list[Prediction]:
    return [
        Prediction(f"{label}{number}", label, probability=number / 10)
        for label in "ba"
        for number in (3, 1, 2)
    ]


def test_a_file_name_that_is_no_text_is_written_escaped(tmp_path: Path) -> None:
    named = Prediction(os.fsdecode(b"caf\xe9.png"), "a", probability=0.5)
    predictions.write([named], tmp_path / "all.csv", "model.keras", 1.0, str.upper)
    assert (tmp_path / "all.csv").read_text().splitlines()[1] == r"caf\udce9.png,a,0.500000"


@pytest.mark.parametrize(
    ("most", "heading", "remark"),
    [(4, "<h2>a (2 of 3)</h2>", "4 images are shown"), (6, "<h2>a (3)</h2>", "")],
)
def test_the_page_says_how_many_images_it_leaves_out(
    most: int, heading: str, remark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "SHOWN", most)
    predictions.write(made_by_hand(), tmp_path / "all.csv", "model.keras", 1.0, str.upper)
    page = (tmp_path / "all.html").read_text()
    assert heading in page
    assert page.count("<img") == page.count("base64,A") + page.count("base64,B") == most
    assert remark in page
    assert ("are shown" in page) == bool(remark)


def test_the_page_shows_the_least_certain_images_of_every_class() -> None:
    made = made_by_hand()
    assert [it.path for it in predictions._least_certain(made, 4)] == ["a1", "a2", "b1", "b2"]
    assert [it.path for it in predictions._least_certain(made, 100)] == [
        "a1",
        "a2",
        "a3",
        "b1",
        "b2",
        "b3",
    ]
    assert [it.path for it in predictions._least_certain(made, 1)] == ["a1"]


def test_a_softmax_at_the_end_of_a_file_is_not_taken_twice(
    distilled: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_model(get_run(distilled.info.run_id))
    probabilities = keras.layers.Softmax()(network.output)
    keras.Model(network.input, probabilities).save(tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    given = ["--images", str(photos)]
    expected = predicted("--model", distilled.info.run_id, *given)
    assert predicted("--model", "model.keras", *given) == expected


def test_a_file_of_two_classes_with_one_output_predicts_both(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    output = keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(images / 255))
    model = keras.Model(images, output)
    model.save(tmp_path / "two.keras")
    monkeypatch.chdir(tmp_path)
    rows = predicted("--model", "two.keras", "--images", str(photos))
    shares = model.predict(load("digits", 0.1).x_test[:COUNT], verbose=0)[ORDER, 0]
    assert {row["class"] for row in rows} == {"0", "1"}
    assert [row["class"] for row in rows] == [str(int(share > 0.5)) for share in shares]
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, np.maximum(shares, 1 - shares), atol=1e-5)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([keras.layers.Activation("sigmoid")], "which ends in a sigmoid"),
        ([keras.layers.Dense(3, "hard_sigmoid")], "which ends in a sigmoid"),
        ([keras.layers.Dense(1, "hard_sigmoid")], "which ends in a sigmoid"),
        (
            [keras.layers.Reshape((3, 1)), keras.layers.Softmax(1), keras.layers.Flatten()],
            "which gives probabilities",
        ),
        ([keras.layers.Softmax(), keras.layers.Reshape((3,))], "which gives probabilities"),
    ],
    ids=["sigmoids", "hard sigmoids", "one hard sigmoid", "flattened", "reshaped"],
)
def test_a_file_that_gives_no_logits_is_refused(
    last: list[keras.Layer],
    expected: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    keras.Sequential([*first, *last]).save(tmp_path / "own.keras")
    given = ["--model", str(tmp_path / "own.keras"), "--images", str(photos)]
    assert main(["predict", *given]) == 1
    line = capsys.readouterr().err
    assert line.startswith("kdflow predict: model: expected ")
    assert expected in line
    assert line.count("\n") == 1


def test_a_file_of_keras_has_the_pixels_and_the_names_that_it_is_given(
    distilled: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_model(get_run(distilled.info.run_id))
    images = keras.Input(network.input_shape[1:])
    prepared = keras.layers.Rescaling(127.5, offset=127.5)(images)
    keras.Model(images, network(prepared)).save(tmp_path / "prepared.keras")
    monkeypatch.chdir(tmp_path)
    expected = predicted("--model", distilled.info.run_id, "--images", str(photos))
    names = [f"digit {digit}" for digit in range(10)]
    given = ["--model", "prepared.keras", "--images", str(photos), "--class_names", ",".join(names)]
    rows = predicted(*given, "--pixels", "-1..1")
    assert [row["class"] for row in rows] == [f"digit {row['class']}" for row in expected]
    found, of_run = ([float(row["probability"]) for row in each] for each in (rows, expected))
    np.testing.assert_allclose(found, of_run, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pixels", "0..1"], "model: expected a model of your own (a file, runs:/ or models:/) "),
        (["--class_names", "a,b"], "class_names: expected none for a model that has names of its"),
        (["--class_names", "a,b", "--model", "x.keras"], "class_names: expected 10 names separ"),
    ],
)
def test_pixels_and_names_that_do_not_fit_the_model_are_refused(
    flags: list[str],
    expected: str,
    distilled: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    load_model(get_run(distilled.info.run_id)).save("x.keras")
    assert main(["predict", "--model", distilled.info.run_id, "--images", str(photos), *flags]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"kdflow predict: {expected}")
    assert line.count("\n") == 1


def test_a_file_that_is_no_image_is_named_or_left_out(
    distilled: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "0" / "notes.txt").write_text("no image")
    (photos / ".hidden").write_text("no image either")
    given = ["--model", distilled.info.run_id, "--images", str(photos)]
    assert main(["predict", *given]) == 1
    refused = capsys.readouterr().err
    assert refused == (
        f"kdflow predict: images: {photos}/0/notes.txt: not a JPEG, PNG, WEBP, BMP or GIF image"
        " (skip_bad=true leaves it out)\n"
    )
    assert not Path("predictions.csv").exists()
    assert len(predicted(*given, "--skip_bad", "true")) == COUNT
    assert "predict: skipped 1 files that are not images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--images", "nowhere"], "images: expected an image file or a folder of images, got"),
        (["--images", "empty"], "images: expected images in empty, got no files"),
        (
            ["--images", ".", "--model", "0" * 32],
            "model: expected a run's id, a .keras",
        ),
        (["--images", ".", "--output", "a.txt"], "output: expected "),
    ],
)
def test_what_cannot_work_is_one_line(
    argv: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    try:
        status = main(["predict", "--model", "0" * 32, *argv])
    except SystemExit as error:
        status = int(str(error.code))
    refused = capsys.readouterr().err
    assert status in (1, 2)
    assert refused.startswith(f"kdflow predict: {expected}")
    assert refused.count("\n") == 1


def test_a_hint_run_cannot_predict_since_its_upper_layers_are_untrained(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run("0", tags={"kdflow.step": "hint"}).info.run_id
    client.set_terminated(run_id)
    assert main(["predict", "--model", run_id, "--images", str(photos)]) == 1
    expected = "model: expected a run that logged a model that classifies, got the hint run"
    assert f"{expected} {run_id}" in capsys.readouterr().err


def test_a_file_and_a_run_without_validation_images_cannot_calibrate(
    distilled: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_model(get_run(distilled.info.run_id)).save(tmp_path / "student.keras")
    given = ["predict", "--images", str(photos), "--calibrate", "true", "--model"]
    assert main([*given, str(tmp_path / "student.keras")]) == 1
    expected = "calibrate: expected the id of a run as model, since its validation images are"
    assert expected in capsys.readouterr().err
    without = {"dataset": "digits", "holdout": 0}
    monkeypatch.setattr("kdflow.tracking.artifacts.read_json", lambda *_: without)
    assert main([*given, distilled.info.run_id]) == 1
    expected = "calibrate: expected a run with validation images, got one of holdout=0"
    assert expected in capsys.readouterr().err


def test_data_that_have_moved_cannot_calibrate_and_it_says_so_in_one_line(
    distilled: Run,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = {"dataset": "/gone/photos", "holdout": 0.1}
    monkeypatch.setattr("kdflow.tracking.artifacts.read_json", lambda *_: moved)
    given = ["--model", distilled.info.run_id, "--images", str(photos), "--calibrate", "true"]
    assert main(["predict", *given]) == 1
    line = capsys.readouterr().err
    assert line.startswith("kdflow predict: calibrate: dataset: expected ")
    assert line.count("\n") == 1
