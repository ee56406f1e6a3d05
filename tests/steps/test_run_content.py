"""What the runs of whole steps hold, from the command line to the store, on the digits."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers import DISTILL, artifact, logged_table, made_by, per_epoch
from mlflow.entities import Run
from sklearn.metrics import confusion_matrix, recall_score
from sklearn.neighbors import NearestCentroid

from kdflow import network as networks
from kdflow.artifacts import logits
from kdflow.dataset import Images, split
from kdflow.features import features
from kdflow.steps.run import load

pytestmark = pytest.mark.usefixtures("shared_store", "cache")

SIZES = {"parameters", "multiply_adds", "weight_bytes"}


def test_on_an_empty_store_distill_makes_teacher_and_logits_as_runs_of_their_own(
    first: list[Run], distilled: Run, exported: Run, teacher: Run
) -> None:
    assert [run.info.status for run in first] == ["FINISHED"] * 3
    assert [run.info.run_name for run in first] == [
        "T=8 alpha=0.9 s0 distill student<-pupil",
        "views=1 export_logits pupil",
        "s0 teacher pupil",
    ]
    assert [run.data.tags["kdflow.step"] for run in first] == [
        "distill",
        "export_logits",
        "teacher",
    ]
    assert distilled.data.tags["kdflow.upstream.teacher"] == exported.info.run_id
    assert exported.data.tags["kdflow.upstream.model"] == teacher.info.run_id
    assert exported.data.tags["kdflow.asked_by"] == distilled.info.run_id
    assert teacher.data.tags["kdflow.asked_by"] == exported.info.run_id
    assert not any("mlflow.parentRunId" in run.data.tags for run in first)
    assert teacher.data.params["epochs"] == "3"  # its own default, not the asking step's


def test_what_a_network_gets_right_and_wrong_is_logged_class_by_class(distilled: Run) -> None:
    labels = load("digits", 0.1).y_test
    predicted = np.load(artifact(distilled, "test_logits.npy")).argmax(axis=1)
    counts = pd.read_csv(artifact(distilled, "confusions.csv"), index_col="class")
    assert np.array_equal(counts, confusion_matrix(labels, predicted))
    table = logged_table("classes.json", distilled).set_index("class")
    recalls = recall_score(labels, predicted, average=None)
    assert table["recall"].to_numpy() == pytest.approx(recalls)
    for name in ("confusions.png", "wrong.png"):
        assert artifact(distilled, name).read_bytes().startswith(b"\x89PNG")


def test_used_parameters_are_logged_as_resolved_each_with_one_text_per_value(
    distilled: Run,
) -> None:
    # neither the weights of other losses nor how the step was run
    assert distilled.data.params == {
        **{
            "dataset": "digits",
            "holdout": "0.1",
            "seed": "0",
            "evaluate_test": "true",
            "precision": "float32",
        },
        **{"student": "student", "teacher": "pupil", "init": "none", "temp": "8", "alpha": "0.9"},
        **{"t_squared": "true", "views": "1", "epochs": "2", "batch_size": "32"},
        **{"loss": "kd", "learning_rate": "0.001", "optimizer": "adam", "schedule": "constant"},
        **{"dropout": "0.3"},
    }


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        ("kd", {}),
        ("dkd", {"dkd_alpha": "1", "dkd_beta": "8"}),
        ("dist", {"dist_beta": "1", "dist_gamma": "1"}),
        ("ls", {}),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_a_run_logs_the_weights_of_its_own_loss_alone(
    loss: str, weights: dict[str, str], distilled: Run
) -> None:
    (run,) = made_by([*DISTILL, "--student", "pupil", "--loss", loss, "--epochs", "1"])
    shared = distilled.data.params | {"student": "pupil", "dropout": "0.2", "temp": "4"}
    assert run.data.params == shared | weights | {"loss": loss, "epochs": "1"}


def test_metrics_are_logged_once_an_epoch_and_once_at_the_end(distilled: Run) -> None:
    client = mlflow.MlflowClient()
    names = {
        *("train_loss", "train_accuracy", "train_hard_loss", "train_soft_loss", "val_loss"),
        *("val_accuracy", "learning_rate", "epoch_seconds", "images_per_second"),
    }
    final = {"test_accuracy", "test_nll", "test_ece", "teacher_agreement", "peak_memory_mb"}
    final |= {"test_balanced_accuracy"}
    assert set(distilled.data.metrics) == names | final | SIZES
    for name in names:
        history = client.get_metric_history(distilled.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2], name
    for name in final:
        assert len(client.get_metric_history(distilled.info.run_id, name)) == 1, name


def test_final_metrics_are_those_of_the_logged_test_logits(distilled: Run, exported: Run) -> None:
    digits = load("digits", 0.1)
    own = np.load(artifact(distilled, "test_logits.npy"))
    taught = np.load(artifact(exported, "logits") / "test_logits.npy")[0]
    metrics = distilled.data.metrics
    assert metrics["test_accuracy"] == pytest.approx((own.argmax(1) == digits.y_test).mean())
    assert metrics["teacher_agreement"] == pytest.approx((own.argmax(1) == taught.argmax(1)).mean())


def test_the_logged_model_serves_the_logits_that_were_evaluated(distilled: Run) -> None:
    served = mlflow.pyfunc.load_model(f"runs:/{distilled.info.run_id}/model")
    expected = np.load(artifact(distilled, "test_logits.npy"))
    found = served.predict(load("digits", 0.1).x_test)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_exported_logits_are_the_teachers(exported: Run, teacher: Run) -> None:
    digits = load("digits", 0.1)
    read = logits.read(artifact(exported, "logits"), digits)
    network = mlflow.keras.load_model(f"runs:/{teacher.info.run_id}/model")
    np.testing.assert_allclose(
        read.train[0], network.predict(digits.x_train, verbose=0), rtol=1e-4, atol=1e-5
    )
    assert read.manifest.accuracy["test"] == pytest.approx(teacher.data.metrics["test_accuracy"])
    assert read.manifest.teacher == teacher.info.run_id


def test_a_run_holds_its_config_and_a_picture_of_its_learning_curves(distilled: Run) -> None:
    assert artifact(distilled, "learning_curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert '"temp": 8.0' in artifact(distilled, "config.json").read_text()


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # of ReLUs that never fire
def test_a_hint_run_holds_a_student_and_what_its_guided_features_are_worth(
    hinted: Run, teacher: Run
) -> None:
    assert hinted.info.run_name == "s0 hint student"
    assert hinted.data.tags["kdflow.step"] == "hint"
    assert hinted.data.tags["kdflow.upstream.teacher"] == teacher.info.run_id
    assert hinted.data.tags["kdflow.hint_layer"] == "pool1"
    assert hinted.data.params == {
        **{"dataset": "digits", "holdout": "0.1", "student": "student", "teacher": "pupil"},
        **{"hint_layer": "pool1", "guided_layer": "pool1", "epochs": "2", "batch_size": "128"},
        "precision": "float32",
        **{"learning_rate": "0.001", "seed": "0"},
    }
    names = {"hint_loss", "val_hint_loss", "val_probe_accuracy", "learning_rate"}
    histories = per_epoch(hinted)
    assert set(histories) == names | SIZES
    assert {len(histories[name]) for name in names} == {2}
    assert histories["hint_loss"][1] < histories["hint_loss"][0]
    assert hinted.data.metrics["peak_memory_mb"] > 0
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(hinted.info.run_id)}
    assert files == {"config.json", "learning_curves.png"}

    digits = load("digits", 0.1)
    train, validation = split(digits.y_train, 0.1)
    network = mlflow.keras.load_model(f"runs:/{hinted.info.run_id}/model")
    assert networks.weights_sha256(network) == hinted.data.tags["kdflow.weights_sha256"]
    maps = np.asarray(features(network, "pool1")(digits.x_train), float)
    maps = maps.reshape(len(maps), -1)
    probe = NearestCentroid().fit(maps[train], digits.y_train[train])
    expected = probe.score(maps[validation], digits.y_train[validation])
    assert histories["val_probe_accuracy"][-1] == pytest.approx(expected)

    shown = Images(digits.x_train, digits.y_train, train)
    initial = networks.build("student", shown, 10, seed=0)
    same = list(map(np.array_equal, network.get_weights(), initial.get_weights()))
    assert same == [False, False, *[True] * 6]  # the layers above the guided one are untrained
