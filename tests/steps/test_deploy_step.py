"""A distilled student becomes judged, measured and registered files."""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import ROOT, artifact, made_by, needs_deploy, parameters, runs
from mlflow.entities import Run
from scipy.special import softmax

from kdflow.__main__ import main
from kdflow.deploy.files import all_logits, open_file
from kdflow.evaluate.metrics import predict_logits
from kdflow.steps.distill import DistillCommand
from kdflow.steps.run import load
from kdflow.tracking.artifacts import load_model
from kdflow.tracking.find import get_run
from kdflow.tracking.registry import promote, register

pytestmark = [pytest.mark.slow, needs_deploy, pytest.mark.usefixtures("shared_store")]

# a network of two epochs is so little trained that few test images say little of its files
DEPLOY = ["deploy", "--dataset", "digits", "--margin", "5", "--calibration_images", "200"]
MIN_PER_CLASS = ["--onnx", "false", "--teacher", "none"]
DIGITS = load("digits", 0.1)


@pytest.fixture(scope="module")
def deployed(first: list[Run]) -> Run:
    """The deployment of the distilled student, registered and promoted."""
    argv = [*DEPLOY, "--register", "digits-student", "--promote", "true"]
    (run,) = made_by(argv)
    return run


@pytest.fixture
def written(deployed: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(artifact(deployed, "deploy.json").read_text())
    return content


def registered() -> mlflow.MlflowClient:
    return mlflow.MlflowClient()


def test_auto_is_the_last_distillation_beside_its_teacher(
    deployed: Run, distilled: Run, exported: Run, teacher: Run
) -> None:
    assert deployed.info.status == "FINISHED"
    assert deployed.data.params["model"] == distilled.info.run_id
    assert deployed.data.tags["kdflow.upstream.model"] == distilled.info.run_id
    assert deployed.data.tags["kdflow.upstream.teacher"] == teacher.info.run_id
    version = registered().get_model_version_by_alias("digits-student", "candidate")
    lineage = {name.removeprefix("kdflow.upstream."): tag for name, tag in version.tags.items()}
    assert lineage["model"] == distilled.info.run_id
    assert lineage["logits"] == exported.info.run_id
    assert lineage["teacher"] == teacher.info.run_id
    assert version.tags["kdflow.dataset_digest"] == DIGITS.digest
    assert version.run_id == deployed.info.run_id


def test_the_files_are_artifacts_and_as_the_manifest_says(
    deployed: Run, written: dict[str, Any]
) -> None:
    folder = artifact(deployed, "files")
    names = ["float16.tflite", "float32.onnx", "float32.tflite", "int8.onnx", "int8.tflite"]
    assert sorted(path.name for path in folder.iterdir()) == names == sorted(written["files"])
    for name, described in written["files"].items():
        content = (folder / name).read_bytes()
        assert described["sha256"] == hashlib.sha256(content).hexdigest()
    assert written["calibration"]["images"] == 200
    assert artifact(deployed, "files.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_page_says_what_was_distilled_from_what(
    deployed: Run, distilled: Run, exported: Run, teacher: Run, written: dict[str, Any]
) -> None:
    page = artifact(deployed, "report.html").read_text()
    for run in (distilled, exported, teacher):
        name = html.escape(run.data.tags["mlflow.runName"])
        assert f"{name}, run {run.info.run_id}" in page
    assert re.search(r"<dt>Temperature T</dt><dd>8</dd>", page)
    assert all(described["sha256"] in page for described in written["files"].values())
    assert page.count("data:image/png;base64,") == 2


def test_the_figures_are_those_of_the_logged_model_and_the_logged_files(
    deployed: Run, distilled: Run
) -> None:
    model = mlflow.keras.load_model(f"runs:/{distilled.info.run_id}/model")
    metrics = deployed.data.metrics
    own = predict_logits(model, DIGITS.x_test).argmax(axis=1)
    assert metrics["keras_test_accuracy"] == pytest.approx((own == DIGITS.y_test).mean())
    int8 = open_file(artifact(deployed, "files") / "int8.tflite")
    answers = all_logits(int8, DIGITS.x_test).argmax(axis=1)
    assert metrics["int8_tflite_test_accuracy"] == pytest.approx((answers == DIGITS.y_test).mean())
    assert metrics["int8_tflite_agreement"] == pytest.approx((answers == own).mean())
    assert metrics["float32_tflite_agreement"] == 1


def test_each_file_is_compared_with_the_teacher(
    deployed: Run, teacher: Run, written: dict[str, Any]
) -> None:
    taught = predict_logits(load_model(get_run(teacher.info.run_id)), DIGITS.x_test)
    answers = all_logits(open_file(artifact(deployed, "files") / "int8.tflite"), DIGITS.x_test)
    right, before = (each.argmax(axis=1) == DIGITS.y_test for each in (answers, taught))
    found = written["files"]["int8.tflite"]["test"]["accuracy_difference_from_teacher"]
    assert found["difference"] == pytest.approx(right.mean() - before.mean())
    assert (found["lost"], found["gained"]) == ((before & ~right).sum(), (right & ~before).sum())
    assert (
        "of its teacher&#39;s accuracy on 360 test" in artifact(deployed, "report.html").read_text()
    )


def test_the_tables_have_teacher_and_student(deployed: Run) -> None:
    table = json.loads(artifact(deployed, "files.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["role"], row["file"]) for row in rows] == [
        ("student", "Keras"),
        ("student", "float32.tflite"),
        ("student", "float16.tflite"),
        ("student", "int8.tflite"),
        ("student", "float32.onnx"),
        ("student", "int8.onnx"),
        ("teacher", "Keras"),
        ("teacher", "float32.tflite"),
        ("teacher", "int8.tflite"),
    ]
    assert all(row["median_ms"] > 0 and row["p90_ms"] >= row["median_ms"] for row in rows)
    classes = json.loads(artifact(deployed, "classes.json").read_text())
    assert [row[0] for row in classes["data"]] == [str(digit) for digit in range(10)]


def test_the_champion_gives_the_files_logits_or_probabilities_by_class(deployed: Run) -> None:
    served = mlflow.pyfunc.load_model("models:/digits-student@champion")
    expected = all_logits(open_file(artifact(deployed, "files") / "int8.tflite"), DIGITS.x_test)
    assert served.predict(DIGITS.x_test) == pytest.approx(expected)
    shares = served.predict(DIGITS.x_test, params={"probabilities": True})
    assert list(shares.columns) == list(DIGITS.class_names)
    assert shares.to_numpy() == pytest.approx(softmax(expected, axis=1), abs=1e-6)


def test_the_example_of_the_docs_classifies(
    deployed: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    monkeypatch.chdir(_together(deployed, tmp_path))
    names: dict[str, Any] = {"pixels": DIGITS.x_test}
    exec(example, names)
    expected = all_logits(open_file(tmp_path / "files" / "int8.tflite"), DIGITS.x_test)
    assert names["logits"] == pytest.approx(expected, abs=1e-5)


def _together(run: Run, folder: Path) -> Path:
    """A folder with the run's files and manifest."""
    for name in ("files", "deploy.json"):
        mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path=name, dst_path=str(folder)
        )
    return folder


def test_a_second_version_is_promoted_if_it_is_shown_to_be_no_worse(
    deployed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--serve", "float32", "--register", "digits-student", "--promote", "true"]
    (run,) = made_by([*DEPLOY, *MIN_PER_CLASS, *flags])
    shown = capsys.readouterr().out
    assert "verdict against the champion, digits-student version 1: SAME, " in shown
    model = registered().get_registered_model("digits-student")
    assert model.aliases == {"candidate": 2, "champion": 2}
    assert run.data.tags["kdflow.promoted"] == "true"
    assert run.data.tags["kdflow.registered"] == "digits-student version 2"


def test_weights_of_4_bits_make_a_smaller_file(deployed: Run) -> None:
    (run,) = made_by([*DEPLOY, *MIN_PER_CLASS, "--weight_bits", "4", "--quantised_epochs", "0"])
    written = json.loads(artifact(run, "deploy.json").read_text())
    assert written["int8_litert"] == {"weight_bits": 4, "fine_tuned": None}
    of_4_bits, of_8_bits = (artifact(each, "files") / "int8.tflite" for each in (run, deployed))
    network = load_model(get_run(deployed.data.tags["kdflow.upstream.model"]))
    kernels = sum(np.prod(it.shape) for it in network.weights if it.name == "kernel")
    saved = of_8_bits.stat().st_size - of_4_bits.stat().st_size
    assert saved == pytest.approx(kernels / 2, rel=0.1)  # a byte holds two of them


@pytest.fixture
def badly_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 ranges are measured on black images, which fit no other."""
    black = np.zeros((50, *DIGITS.image_shape), np.float32)
    monkeypatch.setattr("kdflow.deploy.calibration.calibration_images", lambda *_: black)


@pytest.mark.usefixtures("badly_calibrated")
def test_a_file_that_is_worse_fails_the_run_and_is_not_registered(
    deployed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DEPLOY, *MIN_PER_CLASS, "--register", "worse", "--promote", "true"]) == 1
    run = runs()[-1]
    assert run.info.status == "FAILED"
    assert run.data.tags["kdflow.verdict"] == "WORSE"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "int8.tflite is worse than the Keras model: it loses more than 5 percentage" in error
    assert sorted(path.name for path in artifact(run, "files").iterdir())[0] == "float16.tflite"
    assert artifact(run, "deploy.json").exists()
    assert [each.name for each in registered().search_registered_models()] == ["digits-student"]
    assert not mlflow.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}'",
        output_format="list",
    )


def test_a_candidate_is_not_promoted_over_a_champion_of_other_images(
    deployed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    client = registered()
    run_id, other = deployed.info.run_id, {"kdflow.dataset_digest": "another"}
    promote(register("other", f"runs:/{run_id}/litert", run_id, other))
    made_by([*DEPLOY, *MIN_PER_CLASS, "--register", "other", "--promote", "true"])
    assert (
        "not promoted to champion: other version 1, the champion, was judged on other images"
        in (capsys.readouterr().out)
    )
    assert client.get_registered_model("other").aliases == {"candidate": 2, "champion": 1}


def test_a_distillation_deploys_its_student_as_a_child_and_keeps_its_key(
    deployed: Run, distilled: Run
) -> None:
    argv = ["distill", "--dataset", "digits", "--teacher", "pupil", "--epochs", "30"]
    trained, files = made_by([*argv, "--student", "pupil", "--deploy", "true"])
    assert files.data.tags["mlflow.parentRunId"] == trained.info.run_id
    assert files.data.tags["kdflow.upstream.model"] == trained.info.run_id
    assert (trained.info.status, files.info.status) == ("FINISHED", "FINISHED")
    assert "deploy" not in trained.data.params
    keys = [parameters(DistillCommand, deploy=each).keyed() for each in (True, False)]
    assert keys[0] == keys[1]
