"""What cannot be deployed is one line; nothing is half registered."""

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from helpers import artifact, needs_deploy, parameters, runs

from kdflow.__main__ import main
from kdflow.config.deploy import DeployConfig
from kdflow.config.reading import Reading
from kdflow.dataset import Dataset
from kdflow.deploy import calibration, make
from kdflow.needs import ModelOf
from kdflow.steps import deploy
from kdflow.steps.run import load
from kdflow.tags import DATASET_DIGEST_TAG, WEIGHTS_TAG

UNTRAINED = ["--dataset", "digits", "--allow_weak_teacher", "true"]

pytestmark = pytest.mark.usefixtures("store")


def network(*layers: keras.Layer) -> keras.Model:
    images = keras.Input((8, 8, 1), dtype="uint8")
    outputs = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(images, outputs, name="own")


@pytest.fixture
def files(store: Path) -> dict[str, str]:
    """Models that a user could name, by what is wrong with them."""
    made = {
        "sound": network(keras.layers.Dense(10)),
        "of_three": network(keras.layers.Dense(3)),
        "code": network(keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(10)),
    }
    made["weightless"] = keras.Model(
        (images := keras.Input((8, 8, 1))), keras.layers.Flatten()(images)[:, :10]
    )
    for name, model in made.items():
        model.save(store / f"{name}.keras")
    content = (store / "sound.keras").read_bytes()
    (store / "damaged.keras").write_bytes(content[: len(content) // 2])
    with (
        zipfile.ZipFile(store / "sound.keras") as whole,
        zipfile.ZipFile(store / "emptied.keras", "w") as emptied,
    ):
        for name in whole.namelist():
            if not name.endswith(".h5"):
                emptied.writestr(name, whole.read(name))
    return {path.stem: str(path) for path in store.glob("*.keras")}


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints which opens no run."""
    assert main(["deploy", *UNTRAINED, *argv]) == 1
    line = capsys.readouterr().err
    assert line.startswith("kdflow deploy: ")
    assert line.count("\n") == 1
    assert runs() == []
    assert mlflow.MlflowClient().search_registered_models() == []
    return line


@needs_deploy
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_three", "expected a network that gives 10 logits per image, got"),
        ("code", "no model can be loaded from"),
        ("weightless", "expected a network with weights, got"),
        ("damaged", "no model can be loaded from"),
        ("emptied", "no model can be loaded from"),
        ("missing", "no model can be loaded from"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    name: str, message: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["--model", files.get(name, "missing.keras"), "--register", "own"], capsys)
    assert f"model: {message}" in line


def test_auto_without_a_distillation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    expected = (
        "model: expected a finished run of distill or compare on digits with holdout=0.1, got"
    )
    assert expected in refused([], capsys)


def test_auto_leaves_out_the_students_of_a_chain_and_of_a_sweep() -> None:
    """Some of them are assistants and controls."""
    digits = load("digits", 0.1)
    tags = {"kdflow.dataset_digest": digits.digest, "kdflow.weights_sha256": "0" * 64}

    def finished(step: str, parent: str | None = None) -> str:
        related = {"mlflow.parentRunId": parent} if parent else {}
        with mlflow.start_run(tags=tags | related | {"kdflow.step": step}) as run:
            mlflow.log_param("holdout", 0.1)
        made: str = run.info.run_id
        return made

    def chosen() -> str:
        need = deploy.needs(parameters(DeployConfig, dataset="digits"), digits)["model"]
        assert isinstance(need, ModelOf)
        return need.source

    alone = finished("distill")
    for step in ("main", "assistant", "sweep"):
        finished("distill", finished(step))
    assert chosen() == alone
    compared = finished("distill", finished("compare"))
    assert chosen() == compared


def test_a_teacher_of_ones_own_is_read_as_by_distill_and_one_of_kdflow_may_be_weak(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "upstream_needs", lambda *_: {})

    def teacher(name: str, **given: object) -> ModelOf:
        config = parameters(DeployConfig, dataset="digits", model="a run", teacher=name, **given)
        need = deploy.needs(config, tiny)["teacher"]
        assert isinstance(need, ModelOf)
        return need

    assert teacher("another run").reading == Reading("0..255", allow_weak=True)
    assert teacher("own.keras", pixels="0..1").reading == Reading("0..1", allow_weak=False)
    allowed = teacher("own.keras", allow_weak_teacher=True)
    assert allowed.reading == Reading("0..255", allow_weak=True)


@needs_deploy
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--calibration_images 5", "calibration_images: expected 10 or more"),
        ("--teacher nonsense", "teacher: expected auto, a network's name, a run id"),
        ("--teacher {of_three}", "teacher: expected a network that gives 10 logits per image"),
    ],
)
def test_other_settings_are_refused(
    flags: str, message: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", files["sound"], *flags.format(**files).split()]
    assert message in refused(argv, capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--register a/b", "register: expected a name without / or :, got 'a/b'"),
        ("--promote true", "promote: expected false without register=name, got 'true'"),
        ("--margin -1", "margin: expected greater than or equal to 0, got '-1'"),
        ("--serve int4", "serve: expected 'int8', 'float16' or 'float32', got 'int4'"),
    ],
)
def test_an_invalid_parameter_exits_with_status_2(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["deploy", "--dataset", "digits", *flags.split()])
    assert exited.value.code == 2
    assert capsys.readouterr().err == f"kdflow deploy: {message}\n"


@pytest.fixture
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the extra that is not installed, while all others are."""
    there = importlib.util.find_spec

    def find_spec(name: str) -> Any:
        return None if name == request.param else there("json")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return str(request.param)


@pytest.mark.parametrize("missing", ["ai_edge_quantizer", "tf2onnx"], indirect=True)
def test_without_the_extra_no_run_is_opened(
    missing: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["--model", files["sound"]], capsys)
    assert f"expected the packages of the extra `deploy`, missing: {missing}; install" in line


@pytest.mark.parametrize("missing", ["ai_edge_litert"], indirect=True)
def test_a_distillation_that_is_to_be_deployed_needs_the_extra_before_it_trains(
    missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["distill", "--dataset", "digits", "--teacher", "pupil", "--deploy", "true"]
    assert main(argv) == 1
    assert f"the extra `deploy`, missing: {missing}; install them" in capsys.readouterr().err
    assert runs() == []


@needs_deploy
def test_what_its_deployment_refuses_is_refused_before_a_distillation_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = calibration.calibration_images

    def fewer(dataset: Dataset, holdout: float, count: int, seed: int) -> np.ndarray:
        return drawn(dataset, holdout, 5, seed)

    monkeypatch.setattr(calibration, "calibration_images", fewer)
    argv = ["distill", "--dataset", "digits", "--teacher", "pupil", "--deploy", "true"]
    assert main(argv) == 1
    assert "calibration_images: expected 10 or more" in capsys.readouterr().err
    assert runs() == []


@needs_deploy
def test_too_little_room_opens_no_run(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make, "ROOM_PER_BYTE", 2**60)
    assert "of room in" in refused(["--model", files["sound"]], capsys)


@needs_deploy
def test_a_disk_that_fills_up_fails_the_run_and_registers_nothing(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdflow.deploy.litert.write_int8", full)
    argv = ["--model", files["sound"], "--register", "own", "--promote", "true"]
    assert main(["deploy", *UNTRAINED, *argv]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "int8.tflite cannot be made: [Errno 28] No space left on device" in line
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert mlflow.MlflowClient().search_registered_models() == []


@pytest.mark.slow
@needs_deploy
def test_a_network_of_a_users_own_is_deployed_without_a_teacher(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", files["sound"], "--onnx", "false", "--margin", "100"]
    assert main(["deploy", *UNTRAINED, *argv]) == 0
    (run,) = runs()
    assert run.data.tags["kdflow.upstream.model"].startswith("sha256:")
    assert "kdflow.upstream.teacher" not in run.data.tags
    metrics = run.data.metrics
    assert metrics["float32_tflite_test_accuracy"] == metrics["keras_test_accuracy"]
    assert np.isfinite(list(metrics.values())).all()
    page = artifact(run, "report.html").read_text()
    assert f"{files['sound']} is a model that no run of kdflow trained" in page


@needs_deploy
@pytest.mark.slow
def test_a_teacher_that_litert_cannot_hold_is_compared_without_files(
    files: dict[str, str], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = keras.Input((8, 8, 1), dtype="uint8")
    sums = keras.ops.cumprod(keras.layers.Rescaling(1 / 255)(images), axis=1)
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(sums))
    keras.Model(images, outputs).save(store / "flex.keras")
    argv = ["--model", files["sound"], "--teacher", str(store / "flex.keras"), "--onnx", "false"]
    assert main(["deploy", *UNTRAINED, *argv, "--margin", "100"]) == 0
    shown = capsys.readouterr().out
    assert "teacher: float32.tflite: expected operations of LiteRT alone" in shown
    assert "percentage points of its teacher's accuracy on 360 test images" in shown
    (run,) = runs()
    table = json.loads(artifact(run, "files.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["file"] for row in rows if row["role"] == "teacher"] == ["Keras"]


@pytest.mark.parametrize(
    ("model", "teacher", "of_model", "of_teacher"),
    [
        ("own.keras", "none", "0..1", None),
        ("a run", "own.keras", "0..255", "0..1"),
        ("own.keras", "other.keras", "0..1", "0..1"),
        ("a run", "none", "0..1", None),  # which is refused: kdflow's own take 0 to 255
    ],
)
def test_what_a_model_of_ones_own_expects_of_a_pixel_is_said_of_the_teacher_too(
    model: str,
    teacher: str,
    of_model: str,
    of_teacher: str | None,
    tiny: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deploy, "upstream_needs", lambda *_: {})
    config = parameters(DeployConfig, dataset="digits", model=model, teacher=teacher, pixels="0..1")
    needed = deploy.needs(config, tiny)
    read = {role: need.reading.pixels for role, need in needed.items()}  # type: ignore[attr-defined]
    assert read == {"model": of_model} | ({"teacher": of_teacher} if of_teacher else {})


def test_auto_is_the_distillation_that_finished_last(tiny: Dataset) -> None:
    """One that was interrupted, resumed and finished after another was started before it."""
    client = mlflow.MlflowClient()
    tags = {"kdflow.step": "distill", DATASET_DIGEST_TAG: tiny.digest, WEIGHTS_TAG: "0"}
    made = []
    for started, ended in ((1, 9), (2, 8), (3, 7)):
        made.append(client.create_run("0", start_time=started, tags=tags).info.run_id)
        client.log_param(made[-1], "holdout", 0.1)
        client.set_terminated(made[-1], end_time=ended)
    assert deploy._last_distillation(parameters(DeployConfig), tiny) == made[0]
