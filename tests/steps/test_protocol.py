"""Which images are read, from the command line to the store, on the digits and a user's own."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from helpers import DISTILL, artifact, made_by, per_epoch
from mlflow.entities import Run

from kdflow import views
from kdflow.artifacts import logits
from kdflow.config.views import Views
from kdflow.evaluate.metrics import final_metrics, predict_logits
from kdflow.steps.run import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store")]


def test_without_evaluate_test_the_test_set_is_not_read(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = made_by([*DISTILL, "--evaluate_test", "false"])
    assert not any(name.startswith("test_") for name in run.data.metrics)
    assert "teacher_agreement" not in run.data.metrics
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert names == {"config.json", "learning_curves.png"}
    assert "(test set not read)" in capsys.readouterr().out


def test_without_holdout_the_watched_set_is_labelled_as_the_test_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run,) = made_by(["baseline", "--dataset", "digits", "--epochs", "1", "--holdout", "0"])
    assert run.data.metrics["val_accuracy"] == run.data.metrics["test_accuracy"]
    assert "the test set" in run.data.tags["kdflow.validation"]
    shown = capsys.readouterr().out
    assert "all val_ metrics are of the TEST set" in shown
    assert "1,437 images" in shown


def test_a_users_own_images_go_through_every_step(tiny_npz: Path) -> None:
    argv = ["--dataset", str(tiny_npz), "--epochs", "1"]
    (teacher,) = made_by(["teacher", *argv, "--arch", "pupil"])
    model = teacher.info.run_id
    (export,) = made_by(
        ["export_logits", "--dataset", str(tiny_npz), "--model", model, "--views", "3"]
    )
    read = logits.read(artifact(export, "logits"), load(str(tiny_npz), 0.1), views=Views(3))
    assert read.train.shape == (3, 60, 3)
    taught = ["--teacher", export.info.run_id, "--views", "2"]
    (run,) = made_by(["distill", *argv, *taught, "--allow_weak_teacher", "true"])  # one epoch
    assert run.data.params["views"] == "2"


def test_crops_and_colours_are_taught_with_logits_of_their_own(tiny_npz: Path) -> None:
    argv = ["--dataset", str(tiny_npz), "--epochs", "1", "--view_set", "photos"]
    plain, exported, teacher = made_by(
        ["distill", *argv, "--views", "18", "--teacher", "pupil", "--allow_weak_teacher", "true"]
    )
    assert plain.data.params["view_set"] == exported.data.params["view_set"] == "photos"
    assert "view_set" not in teacher.data.params  # at its default
    read = logits.read(
        artifact(exported, "logits"), load(str(tiny_npz), 0.1), views=Views(18, "photos")
    )
    network = mlflow.keras.load_model(f"runs:/{teacher.info.run_id}/model")
    shown = views.apply(
        load(str(tiny_npz), 0.1).x_train, np.full(60, 17), views=views.VIEW_SETS["photos"]
    )
    assert read.train[17] == pytest.approx(predict_logits(network, shown), abs=1e-4)


def test_a_teacher_may_be_asked_about_mirror_images_too(exported: Run, teacher: Run) -> None:
    averaged = [*DISTILL, "--epochs", "1", "--averaged", "true"]
    run, means = made_by(averaged)  # the export of the teacher's own logits does not serve
    assert means.data.params["averaged"] == run.data.params["averaged"] == "true"
    dataset = load("digits", 0.1)
    own = logits.read(artifact(exported, "logits"), dataset)
    read = logits.read(artifact(means, "logits"), dataset, averaged=True)
    network = mlflow.keras.load_model(f"runs:/{teacher.info.run_id}/model")
    mirrored = predict_logits(network, dataset.x_test, view=views.SHIFTS[1])
    assert read.test[0] == pytest.approx((own.test[0] + mirrored) / 2, abs=1e-4)
    figures = final_metrics(np.load(artifact(run, "test_logits.npy")), dataset.y_test, read.test[0])
    assert run.data.metrics["teacher_agreement"] == figures["teacher_agreement"]
    (plain,) = made_by([*DISTILL, "--epochs", "1"])
    assert plain.data.tags["kdflow.upstream.teacher"] == exported.info.run_id
    assert per_epoch(plain)["train_loss"] != per_epoch(run)["train_loss"]
    (again,) = made_by([*averaged, "--temp", "2"])  # which finds the means
    assert again.data.tags["kdflow.upstream.teacher"] == means.info.run_id


def test_alpha_0_is_the_baseline_with_every_setting_of_a_training(first: list[Run]) -> None:
    settings = "--optimizer adamw --weight_decay 0.01 --warmup 1 --clip_norm 1 --ema 0.9"
    settings += " --label_smoothing 0.1 --class_weight balanced --keep best_loss --patience 1"
    argv = [*settings.split(), "--epochs", "3", "--seed", "4"]
    (baseline,) = made_by(["baseline", "--dataset", "digits", *argv])
    (zero,) = made_by([*DISTILL, *argv, "--alpha", "0"])
    assert zero.data.tags["kdflow.weights_sha256"] == baseline.data.tags["kdflow.weights_sha256"]
    assert zero.data.params["class_weight"] == "balanced"
    assert zero.data.metrics["kept_epoch"] == 1 + np.argmin(per_epoch(zero)["val_loss"])


def test_alpha_0_is_the_baseline_whether_its_teacher_was_found_or_made(
    quick_pupil: None, store: Path
) -> None:
    argv = ["--dataset", "digits", "--epochs", "2", "--seed", "3"]
    (baseline,) = made_by(["baseline", *argv])
    zero = ["distill", *argv, "--teacher", "pupil", "--alpha", "0"]
    teacher_made, _, _ = made_by(zero)
    (teacher_found,) = made_by(zero)
    for run in (teacher_made, teacher_found):
        assert run.data.tags["kdflow.weights_sha256"] == baseline.data.tags["kdflow.weights_sha256"]
        histories = per_epoch(run)
        assert {name: histories[name] for name in per_epoch(baseline)} == per_epoch(baseline)


def test_a_seed_repeats_its_metrics_and_another_does_not(distilled: Run) -> None:
    (again,) = made_by([*DISTILL, "--temp", "8"])
    assert per_epoch(again) == per_epoch(distilled)
    assert again.data.tags["kdflow.key"] == distilled.data.tags["kdflow.key"]
    (other,) = made_by([*DISTILL, "--temp", "8", "--seed", "1"])
    assert per_epoch(other)["train_loss"] != per_epoch(distilled)["train_loss"]
    assert other.data.tags["kdflow.key"] != distilled.data.tags["kdflow.key"]


def test_a_teacher_can_be_an_export_a_model_or_a_folder(
    distilled: Run, exported: Run, teacher: Run
) -> None:
    folder = str(artifact(exported, "logits"))
    by_source = {}
    for source in (exported.info.run_id, teacher.info.run_id, folder):
        (run,) = made_by([*DISTILL, "--temp", "8", "--teacher", source])
        assert per_epoch(run) == per_epoch(distilled)
        assert run.data.tags["kdflow.key"] == distilled.data.tags["kdflow.key"]
        by_source[source] = run.data.tags["kdflow.upstream.teacher"]
    assert by_source[exported.info.run_id] == by_source[teacher.info.run_id] == exported.info.run_id
    assert by_source[folder].startswith("sha256:")
