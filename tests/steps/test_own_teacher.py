"""A teacher that kdflow did not train, as people have them, on the digits."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import artifact, made_by, runs
from mlflow.entities import Run
from scipy.special import softmax

from kdflow.__main__ import main
from kdflow.steps.run import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first", "shared_store", "cache")]

L = keras.layers
SHORT = ["--dataset", "digits", "--student", "pupil", "--epochs", "1"]


@pytest.fixture(scope="module")
def flowers(first: list[Run], shared_store: Path) -> Path:
    """A teacher of the digits that takes pixels from -1 to 1, of which it sees the dark ones only,
    and ends in a softmax."""
    digits = load("digits", 0.1)
    images = keras.Input((8, 8, 1), name="scaled")
    x = L.ReLU(name="dark")(L.Rescaling(-1.0, name="negative")(images))
    x = L.Conv2D(8, 3, activation="relu", name="maps")(x)
    classes = L.Dense(10, activation="softmax", name="classes")(L.Flatten()(x))
    model = keras.Model(images, classes, name="flowers")
    keras.utils.set_random_seed(0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits.x_train / 127.5 - 1, digits.y_train, epochs=12, verbose=0)
    model.save(shared_store / "flowers.keras")
    model.save(shared_store / "flowers.h5")
    return shared_store / "flowers.keras"


@pytest.fixture(scope="module")
def taught(flowers: Path) -> list[Run]:
    return made_by(["distill", *SHORT, "--teacher", str(flowers), "--pixels", "-1..1"])


def test_a_file_teaches_and_its_export_is_found_again(
    taught: list[Run], flowers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distilled, exported = taught
    assert exported.data.tags["kdflow.step"] == "export_logits"
    assert exported.data.params["pixels"] == distilled.data.params["pixels"] == "-1..1"
    found = softmax(np.load(artifact(exported, "logits/test_logits.npy"))[0], axis=-1)
    model, digits = keras.saving.load_model(flowers), load("digits", 0.1)
    expected = model.predict(digits.x_test / 127.5 - 1, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    (again,) = made_by(["distill", *SHORT, "--teacher", str(flowers), "--pixels", "-1..1"])
    assert again.data.tags["kdflow.key"] == distilled.data.tags["kdflow.key"]
    out = capsys.readouterr().out
    assert "its final softmax is removed; the softmax of the logits is its original output" in out
    parameters = (3 * 3 + 1) * 8 + (6 * 6 * 8 + 1) * 10
    assert f"its teacher, flowers: {parameters:,} parameters, 0.0 million" in out
    larger = "parameters, multiply-adds, weight-bytes"
    assert f"WARNING: the student is larger than its teacher: more {larger}\n" in out


def test_an_h5_file_is_the_same_teacher(taught: list[Run], flowers: Path) -> None:
    (run,) = made_by(
        ["distill", *SHORT, "--teacher", str(flowers.with_suffix(".h5")), "--pixels", "-1..1"]
    )
    assert run.data.tags["kdflow.key"] == taught[0].data.tags["kdflow.key"]


def test_a_teacher_that_expects_other_pixels_is_refused_with_what_would_fit(
    flowers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(runs())
    for argv in (
        ["export_logits", "--dataset", "digits", "--model"],
        ["hint", *SHORT, "--teacher"],
    ):
        assert main([*argv, str(flowers)]) == 1
        shown = capsys.readouterr().err
        assert "expected a model of pixels 0..255, got" in shown
        assert " with -1..1; set pixels=-1..1" in shown
        assert shown.count("\n") == 1
    assert len(runs()) == before
    argv = ["export_logits", "--dataset", "digits", "--model", str(flowers)]
    (run,) = made_by([*argv, "--allow_weak_teacher", "true"])
    assert run.data.metrics["train_accuracy"] < 0.2
    assert main(["distill", *SHORT, "--teacher", run.info.run_id]) == 1
    assert "teacher: expected a model that is better than chance" in capsys.readouterr().err


def test_it_gives_hints(taught: list[Run], flowers: Path) -> None:
    argv = [*SHORT, "--teacher", str(flowers), "--pixels", "-1..1", "--init", "auto"]
    run, hint = made_by(["distill", *argv])
    assert hint.data.tags["kdflow.step"] == "hint"
    assert hint.data.params["hint_layer"] == "maps"
    assert run.data.tags["kdflow.upstream.init"] == hint.info.run_id


def test_a_folder_of_probabilities_teaches_as_its_logits_do(
    first: list[Run], shared_store: Path
) -> None:
    folder = shared_store / "probabilities"
    folder.mkdir()
    for split in ("train", "test"):
        logits = np.load(artifact(first[1], f"logits/{split}_logits.npy"))[0]
        np.save(folder / f"{split}_probabilities.npy", softmax(logits.astype(float), axis=-1))
    by_folder = made_by(["distill", *SHORT, "--teacher", str(folder), "--values", "probabilities"])
    by_run = made_by(["distill", *SHORT, "--teacher", first[1].info.run_id])
    losses = [runs_[0].data.metrics["train_loss"] for runs_ in (by_folder, by_run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--teacher {saved}",
            "a SavedModel, which can carry code that is not checked; docs/teache",
        ),
        ("--teacher {empty} --values probabilities", "values: expected an array of probabilities"),
        ("--teacher pupil --values probabilities", "expected a folder with values=probabilities"),
        (
            "--teacher pupil --pixels 0..1",
            "expected a model of your own (a file, runs:/ or models:/) with pixels=0..1, got pupi",
        ),
        (
            "--teacher {exported} --pixels 0..1",
            "a model of your own (a file, runs:/ or models:/) with pixels=0..1, got {exported}",
        ),
        ("--teacher {flowers} --pixels imagenet", "pixels: expected images of 3 channels for imag"),
        ("--teacher {nothing}.keras", "no model can be loaded from"),
    ],
)
def test_what_does_not_fit_opens_no_run(
    flags: str,
    message: str,
    first: list[Run],
    flowers: Path,
    shared_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("saved", "empty"):
        (shared_store / name).mkdir(exist_ok=True)
    (shared_store / "saved/saved_model.pb").touch()
    names = {name: str(shared_store / name) for name in ("saved", "empty", "nothing")}
    argv = flags.format(**names, exported=first[1].info.run_id, flowers=flowers).split()
    before = len(runs())
    assert main(["distill", *SHORT, *argv]) == 1
    shown = capsys.readouterr().err
    parameter = message[:6] if message.startswith(("pixels: ", "values: ")) else "teacher"
    assert shown.startswith(f"kdflow distill: {parameter}: ")
    assert message.format(exported=first[1].info.run_id) in shown
    assert shown.count("\n") == 1
    assert len(runs()) == before


def test_the_softmax_of_the_teacher_is_kept_out_of_the_logits(taught: list[Run]) -> None:
    logits = np.load(artifact(taught[1], "logits/train_logits.npy"))
    assert logits.min() < 0
    digits = load("digits", 0.1)
    accuracy = (logits[0].argmax(axis=-1) == digits.y_train).mean()
    assert accuracy == taught[1].data.metrics["train_accuracy"]
