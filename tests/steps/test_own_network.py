"""A student of one's own through whole steps, on the digits."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from helpers import made_by, parameters, per_epoch, resolver, runs
from mlflow.entities import Run

from kdflow.__main__ import main
from kdflow.errors import KdflowError
from kdflow.needs import Planned, training
from kdflow.network import architecture_sha256, weights_sha256
from kdflow.steps.baseline import BASELINE, BaselineConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first", "shared_store", "cache")]

NETS = """
import keras
from keras import layers as L

def small(shape, classes):
    images = keras.Input(shape)
    x = L.Conv2D(8, 3, padding="same", activation="relu")(L.Rescaling(1 / 255)(images))
    x = L.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = L.Dropout(0.3)(L.Flatten()(x))
    return keras.Model(images, L.Dense(classes, activation="softmax")(x))

def normalised(shape, classes):
    images = keras.Input(shape)
    x = L.BatchNormalization(momentum=0.999)(L.Conv2D(8, 3)(images))
    return keras.Model(images, L.Dense(classes)(L.Flatten()(x)))
"""
TAUGHT = ["--dataset", "digits", "--teacher", "pupil", "--epochs", "2"]


@pytest.fixture(scope="module")
def small(shared_store: Path) -> str:
    (shared_store / "nets.py").write_text(NETS)
    return f"{shared_store}/nets.py:small"


@pytest.fixture(scope="module")
def distilled_own(first: list[Run], small: str) -> Run:
    (run,) = made_by(["distill", *TAUGHT, "--student", small])
    return run


def test_alpha_0_is_the_baseline_bit_for_bit(first: list[Run], small: str) -> None:
    argv = ["--dataset", "digits", "--student", small, "--epochs", "2", "--seed", "3"]
    (alone,) = made_by(["baseline", *argv])
    (taught,) = made_by(["distill", *argv, "--teacher", "pupil", "--alpha", "0"])
    for tag in ("kdflow.weights_sha256",):
        assert alone.data.tags[tag] == taught.data.tags[tag]
    assert per_epoch(alone)["val_loss"] == per_epoch(taught)["val_loss"]


def test_its_run_has_a_readable_name_and_its_model_loads_without_the_file(
    distilled_own: Run, small: str
) -> None:
    assert distilled_own.info.run_name == "T=4 alpha=0.9 s0 distill nets.py:smal..."
    assert distilled_own.data.params["student"] == small
    model = mlflow.keras.load_model(f"runs:/{distilled_own.info.run_id}/model")
    assert weights_sha256(model) == distilled_own.data.tags["kdflow.weights_sha256"]
    outputs = model.predict(np.zeros((2, 8, 8, 1), np.uint8), verbose=0)
    assert outputs.shape == (2, 10)


def test_the_key_is_of_the_network_and_not_of_the_name_of_its_file(
    distilled_own: Run, small: str, shared_store: Path
) -> None:
    (shared_store / "copy.py").write_text(NETS)
    (shared_store / "other.py").write_text(NETS.replace("Dropout(0.3)", "Dropout(0.2)"))
    keys = []
    for name in ("copy.py", "other.py"):
        student = f"{shared_store}/{name}:small"
        (run,) = made_by(["distill", *TAUGHT, "--student", student])
        keys.append(run.data.tags["kdflow.key"])
    assert keys[0] == distilled_own.data.tags["kdflow.key"] != keys[1]


def test_a_file_of_a_student_is_trained_anew_or_from_its_weights(
    distilled_own: Run, shared_store: Path
) -> None:
    model = mlflow.keras.load_model(f"runs:/{distilled_own.info.run_id}/model")
    model.save(shared_store / "student.keras")
    argv = ["baseline", "--dataset", "digits", "--student", f"{shared_store}/student.keras"]
    argv += ["--epochs", "1", "--learning_rate", "1e-30"]
    (fresh,) = made_by(argv)
    (kept,) = made_by([*argv, "--initial_weights", "kept"])
    taught = distilled_own.data.metrics["test_accuracy"]
    assert kept.data.metrics["test_accuracy"] == taught
    assert fresh.data.metrics["test_accuracy"] < 0.4 < taught
    assert kept.data.params["initial_weights"] == "kept"
    assert "initial_weights" not in fresh.data.params
    loaded = mlflow.keras.load_model(f"runs:/{fresh.info.run_id}/model")
    assert architecture_sha256(loaded) == architecture_sha256(model)


def test_it_learns_hints_from_a_layer_of_another_size_and_starts_from_them(
    first: list[Run], small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # the hint layer of `pupil` has 4x4 maps, the student's layers 8x8 and 3x3
    argv = ["--dataset", "digits", "--teacher", "pupil", "--student", small, "--epochs", "1"]
    (hint,) = made_by(["hint", *argv])
    assert (
        "hints: pool1 4x4x16 of pupil for conv2d 8x8x8 of nets.py:small\n"
        in capsys.readouterr().out
    )
    (by_name,) = made_by(["hint", *argv, "--guided_layer", "conv2d_1"])
    assert by_name.data.params["guided_layer"] == "conv2d_1"
    (run,) = made_by(["distill", *argv, "--init", hint.info.run_id])
    assert run.data.tags["kdflow.upstream.init"] == hint.info.run_id


def test_baselines_of_ones_own_network_are_reused_by_compare(
    first: list[Run], small: str, shared_store: Path
) -> None:
    argv = [*TAUGHT, "--epochs", "1", "--student", small, "--seeds", "2"]
    made_by(["compare", *argv])
    file, moved = shared_store / "nets.py", shared_store / "moved.py"
    file.rename(moved)
    again = made_by(["compare", *argv[:-3], f"{moved}:small", "--seeds", "2"])
    moved.rename(file)
    assert [run.data.tags["kdflow.step"] for run in again] == ["compare"]


def test_ones_own_network_is_a_teacher_too(first: list[Run], small: str) -> None:
    made = made_by(["distill", "--dataset", "digits", "--teacher", small, "--epochs", "1"])
    steps = [run.data.tags["kdflow.step"] for run in made]
    assert steps == ["distill", "export_logits", "teacher"]
    assert made[2].data.params["arch"] == small


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--student {folder}/nets.py:absent", "student: expected a function absent in"),
        (
            "--student {small} --dropout 0.5",
            "student: {small}: expected dropout=0, as none is added",
        ),
        ("--student {small} --initial_weights kept", "student: {small}: expected initial_weights="),
        ("--student applications:MobileNetV2", "student: MobileNetV2: expected images of 3 chann"),
    ],
)
def test_what_does_not_fit_opens_no_run(
    flags: str,
    message: str,
    small: str,
    shared_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = len(runs())
    argv = flags.format(folder=shared_store, small=small).split()
    assert main(["baseline", "--dataset", "digits", *argv]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"kdflow baseline: {message.format(small=small)}")
    assert shown.count("\n") == 1
    assert len(runs()) == before


def test_statistics_that_a_training_is_too_short_for_are_said(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = small.replace(":small", ":normalised")
    argv = ["baseline", "--dataset", "digits", "--epochs", "1", "--student"]
    made_by([*argv, own])  # 41 steps of 32 images: 0.999 ** 41
    shown = capsys.readouterr().out
    assert "after the 41 steps of this training, 96% of the statistics" in shown
    made_by([*argv, small])
    assert "batch normalisation" not in capsys.readouterr().out


def test_a_file_that_changes_during_a_command_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    given = {"dataset": "digits", "student": f"{file}:small"}
    needs = [training("baseline", **given, seed=seed) for seed in (0, 1)]
    looks_up = resolver()
    assert isinstance(looks_up.plan(needs[0]), Planned)
    file.write_text(NETS.replace("L.Conv2D(8,", "L.Conv2D(9,"))
    with pytest.raises(KdflowError, match=f"^student: expected the same network in {file}:small "):
        looks_up.plan(needs[1])


def test_a_run_has_its_name_once_the_file_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    config = parameters(BaselineConfig, dataset="digits", student=f"{file}:small")
    file.unlink()
    assert BASELINE.title(config) == "s0 baseline nets.py:small"
