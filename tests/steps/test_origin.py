"""What a page says of a network's origin is what the store knows, and what it does not is said."""

from dataclasses import replace
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from helpers import parameters

from kdflow.artifacts.logits import write
from kdflow.config.deploy import DeployConfig
from kdflow.config.views import Views
from kdflow.dataset import Dataset
from kdflow.errors import UnreachableError
from kdflow.needs import LogitsOf, Need
from kdflow.results.records import TrainedModel
from kdflow.reuse import Resolver
from kdflow.steps.deploy import DEPLOY
from kdflow.steps.origin import lineage, origin, upstream_needs

pytestmark = pytest.mark.usefixtures("store")


def made(step: str, params: dict[str, str], **upstream: str) -> str:
    """The id of a finished run of a step."""
    client = mlflow.MlflowClient()
    tags = {"kdflow.step": step, **{f"kdflow.upstream.{k}": v for k, v in upstream.items()}}
    run_id = str(client.create_run("0", tags=tags, run_name=f"a {step}").info.run_id)
    for name, value in params.items():
        client.log_param(run_id, name, value)
    client.log_metric(run_id, "test_accuracy", 0.5)
    client.set_terminated(run_id)
    return run_id


def model(source: str) -> TrainedModel:
    return TrainedModel(source, keras.Sequential(), "a hash", None, "own.keras")


DISTILLED = {"temp": "8", "alpha": "0.25", "student": "pupil"}


def test_a_student_is_traced_to_its_logits_and_their_teacher() -> None:
    teacher = made("teacher", {})
    logits = made("export_logits", {}, model=teacher)
    hint = made("hint", {})
    student = made("distill", DISTILLED, teacher=logits, init=hint)
    assert origin(model(student)) == {
        "Training": f"a distill, run {student}, test accuracy 0.5000",
        "Temperature T": "8",
        "alpha, the weight of the soft term": "0.25",
        "Distilled from": f"a teacher, run {teacher}, test accuracy 0.5000",
        "Logits": f"a export_logits, run {logits}, test accuracy 0.5000",
        "Lower layers start from": f"a hint, run {hint}, test accuracy 0.5000",
        "All parameters": "temp=8, alpha=0.25, student=pupil",
    }
    assert lineage(student) == {
        "kdflow.upstream.logits": logits,
        "kdflow.upstream.teacher": teacher,
    }


@pytest.fixture
def logits(tiny: Dataset, tmp_path: Path) -> str:
    """The run of an export of two views, by a teacher that has learnt nothing."""
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(2, n, 3)).astype(np.float32) for n in (60, 30))
    write(
        tmp_path / "logits", train, test, tiny, teacher="a", network="b", holdout=0.1, in_order=True
    )
    run_id = made("export_logits", {})
    with mlflow.start_run(run_id):
        mlflow.log_artifacts(str(tmp_path / "logits"), "logits")
    return run_id


TWO_VIEWS = DISTILLED | {"holdout": "0.1", "views": "2"}


def test_the_logits_that_taught_a_student_may_teach_it_again_however_weak(
    logits: str,
) -> None:
    student = made("distill", TWO_VIEWS, teacher=logits)
    need = upstream_needs(student)["logits"]
    assert isinstance(need, LogitsOf)
    assert (need.source, need.holdout, need.views) == (logits, 0.1, Views(2))
    assert need.reading.allow_weak


def test_logits_of_no_run_have_no_known_teacher() -> None:
    student = made("distill", DISTILLED, teacher="sha256:abc")
    said = origin(model(student))
    assert said["Logits"] == "not made by a run of kdflow: sha256:abc"
    assert said["Distilled from"].startswith(
        "not known: its logits were not made by a run of kdflow"
    )
    assert lineage(student) == {}


def test_a_teacher_of_no_run_is_named_by_its_hash() -> None:
    logits = made("export_logits", {}, model="sha256:abc")
    student = made("distill", DISTILLED, teacher=logits)
    expected = "not made by a run of kdflow: sha256:abc"
    assert origin(model(student))["Distilled from"] == expected


def test_what_has_been_deleted_is_said() -> None:
    teacher = made("teacher", {})
    logits = made("export_logits", {}, model=teacher)
    student = made("distill", DISTILLED, teacher=logits)
    mlflow.MlflowClient().delete_run(teacher)
    assert (
        f"run {teacher} (expected a run that is not deleted"
        in (origin(model(student))["Distilled from"])
    )
    mlflow.MlflowClient().delete_run(logits)
    said = origin(model(student))
    assert said["Distilled from"].startswith("not known: expected a run that is not deleted")
    assert said["Temperature T"] == "8"
    mlflow.MlflowClient().delete_run(student)
    said = origin(model(student))
    assert said["Training"].startswith(f"run {student} (expected a run that is not deleted")
    assert said["Distilled from"] == "not known"


def test_labels_alone_are_no_teacher() -> None:
    assert origin(model(made("baseline", {"epochs": "3"}))) | {"Training": ""} == {
        "Training": "",
        "Distilled from": "nothing: it learnt from labels alone",
        "All parameters": "epochs=3",
    }


def test_of_a_model_without_a_run_nothing_is_known() -> None:
    assert origin(model("sha256:abc")) == {
        "Training": "not known: own.keras is a model that no run of kdflow trained",
        "Distilled from": "not known",
    }


def inputs(student: str, dataset: Dataset) -> dict[str, Need]:
    """What a deployment of the student builds on, besides the student."""
    step = replace(
        DEPLOY, needs=lambda *_: upstream_needs(student), resolved=lambda config, *_: config
    )
    resolver = Resolver({"deploy": step}, dataset)
    return dict(resolver.with_inputs("deploy", parameters(DeployConfig)).inputs)


def test_logits_that_are_missing_in_the_store_are_left_out_and_said(
    tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user has not named them, so that the deployment goes on."""
    logits = made("export_logits", {})
    with mlflow.start_run(logits):
        mlflow.log_text("", "something else")
    student = made("distill", TWO_VIEWS, teacher=logits)
    assert inputs(student, tiny) == {}
    assert (
        f"logits: run {logits} (export_logits) has no logits; deploy goes on without it"
        in capsys.readouterr().out
    )


def test_logits_that_are_damaged_are_left_out_and_said(
    logits: str, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    student = made("distill", TWO_VIEWS, teacher=logits)
    assert list(inputs(student, tiny)) == ["logits"]
    Path(mlflow.get_run(logits).info.artifact_uri, "logits", "train_logits.npy").unlink()
    assert inputs(student, tiny) == {}
    shown = capsys.readouterr().out
    assert shown.startswith("logits: logits in ")
    assert shown.endswith("; deploy goes on without it\n")
    assert "expected an array in train_logits.npy" in shown


def test_an_export_that_has_been_deleted_is_left_out_and_said(
    logits: str, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    student = made("distill", TWO_VIEWS, teacher=logits)
    mlflow.MlflowClient().delete_run(logits)
    assert inputs(student, tiny) == {}
    assert f"got {logits}, which is deleted; deploy goes on without" in capsys.readouterr().out


def test_a_store_that_does_not_answer_stops_a_deployment(
    logits: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known about the logits then: they may be intact."""
    student = made("distill", TWO_VIEWS, teacher=logits)

    def unreachable(_: object) -> None:
        raise UnreachableError("no answer")

    monkeypatch.setattr("kdflow.results.logits.logits_folder", unreachable)
    with pytest.raises(UnreachableError, match="no answer"):
        inputs(student, tiny)
