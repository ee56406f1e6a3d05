"""Whole steps on the digits, from the command line to what the store holds.

The teacher here is `pupil`, the quickest network to train; its runs are found again by every test.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.entities import Run
from sklearn.neighbors import NearestCentroid

from kdflow import data, logits, models, tracking, training
from kdflow.__main__ import main
from kdflow.config import BaselineConfig, HintConfig
from kdflow.steps import baseline

ROOT = Path(__file__).parent.parent
DISTILL = ["distill", "--dataset", "digits", "--teacher", "pupil", "--epochs", "2"]
HINT = ["hint", "--dataset", "digits", "--teacher", "pupil", "--guided_layer", "pool1"]
HINT += ["--epochs", "2"]
MEASURED = {"epoch_seconds", "images_per_second", "peak_memory_mb"}

pytestmark = pytest.mark.usefixtures("shared_store")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds hints for as long as a student learns from them."""
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def runs() -> list[Run]:
    return list(mlflow.MlflowClient().search_runs(["0"], order_by=["attributes.start_time ASC"]))


def made_by(argv: list[str]) -> list[Run]:
    """The runs that a command made, oldest first."""
    before = {run.info.run_id for run in runs()}
    assert main(argv) == 0
    return [run for run in runs() if run.info.run_id not in before]


def artifact(run: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def per_epoch(run: Run) -> dict[str, list[float]]:
    """The history of every metric that does not depend on the machine's speed."""
    client = mlflow.MlflowClient()
    return {
        name: [m.value for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name not in MEASURED
    }


@pytest.fixture(scope="module")
def first(shared_store: Path) -> list[Run]:
    """The runs of a first distillation on an empty store."""
    return made_by([*DISTILL, "--temp", "8"])


@pytest.fixture
def distilled(first: list[Run]) -> Run:
    return first[0]


@pytest.fixture
def exported(first: list[Run]) -> Run:
    return first[1]


@pytest.fixture
def teacher(first: list[Run]) -> Run:
    return first[2]


@pytest.fixture(scope="module")
def hinted(first: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A hint run for `student`, whose teacher is in the store."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        (run,) = made_by(HINT)
    return run


# --- what a run holds ---------------------------------------------------------------------------


def test_on_an_empty_store_distill_makes_teacher_and_logits_as_runs_of_their_own(
    first: list[Run], distilled: Run, exported: Run, teacher: Run
) -> None:
    assert [run.info.status for run in first] == ["FINISHED"] * 3
    assert [run.info.run_name for run in first] == [
        "distill student T=8 alpha=0.9 seed=0",
        "export_logits pupil views=1",
        "teacher pupil seed=0",
    ]
    assert [run.data.tags["kdflow.step"] for run in first] == [
        "distill",
        "export_logits",
        "teacher",
    ]
    assert distilled.data.tags["kdflow.upstream.teacher"] == exported.info.run_id
    assert exported.data.tags["kdflow.upstream.model"] == teacher.info.run_id
    assert exported.data.tags["kdflow.asked_by"] == distilled.info.run_id
    assert teacher.data.params["epochs"] == "30"  # its own default, not the asking step's


def test_parameters_are_logged_as_resolved_each_with_one_text_per_value(distilled: Run) -> None:
    assert distilled.data.params == {
        **{"dataset": "digits", "holdout": "0.1", "seed": "0", "evaluate_test": "true"},
        **{"student": "student", "teacher": "pupil", "init": "none", "temp": "8", "alpha": "0.9"},
        **{"t_squared": "true", "views": "1", "epochs": "2", "batch_size": "32"},
        **{"loss": "kd", "dkd_alpha": "1", "dkd_beta": "8", "dist_beta": "1", "dist_gamma": "1"},
        **{"learning_rate": "0.001", "optimizer": "adam", "schedule": "constant", "dropout": "0.3"},
    }


def test_metrics_are_logged_once_an_epoch_and_once_at_the_end(distilled: Run) -> None:
    client = mlflow.MlflowClient()
    names = {
        *("train_loss", "train_accuracy", "train_hard_loss", "train_soft_loss", "val_loss"),
        *("val_accuracy", "learning_rate", "epoch_seconds", "images_per_second"),
    }
    final = {"test_accuracy", "test_nll", "test_ece", "teacher_agreement", "peak_memory_mb"}
    assert set(distilled.data.metrics) == names | final | {"parameters"}
    for name in names:
        history = client.get_metric_history(distilled.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2], name
    for name in final:
        assert len(client.get_metric_history(distilled.info.run_id, name)) == 1, name


def test_final_metrics_are_those_of_the_logged_test_logits(distilled: Run, exported: Run) -> None:
    digits = data.load("digits")
    own = np.load(artifact(distilled, "test_logits.npy"))
    taught = np.load(artifact(exported, "logits") / "test_logits.npy")[0]
    metrics = distilled.data.metrics
    assert metrics["test_accuracy"] == pytest.approx((own.argmax(1) == digits.y_test).mean())
    assert metrics["teacher_agreement"] == pytest.approx((own.argmax(1) == taught.argmax(1)).mean())


def test_the_logged_model_serves_the_logits_that_were_evaluated(distilled: Run) -> None:
    served = mlflow.pyfunc.load_model(f"runs:/{distilled.info.run_id}/model")
    expected = np.load(artifact(distilled, "test_logits.npy"))
    found = served.predict(data.load("digits").x_test)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_exported_logits_are_the_teachers(exported: Run, teacher: Run) -> None:
    digits = data.load("digits")
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


# --- reuse --------------------------------------------------------------------------------------


def test_another_temperature_reuses_the_logits_and_says_so(
    exported: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = made_by([*DISTILL, "--temp", "4"])
    assert run.data.tags["kdflow.upstream.teacher"] == exported.info.run_id
    shown = capsys.readouterr().out
    assert f"logits: found in {exported.info.run_id}" in shown
    accuracy = run.data.metrics["test_accuracy"]
    assert f"distill student T=4 alpha=0.9 seed=0: test accuracy {accuracy:.4f}" in shown
    assert "its teacher, pupil: test accuracy" in shown
    assert "mlflow ui --backend-store-uri sqlite:///" in shown


def test_logits_that_another_commit_made_are_said_to_be(
    exported: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolved(tags: dict[str, str] | None = None) -> dict[str, str]:
        return (tags or {}) | {"mlflow.source.git.commit": "b" * 40}

    mlflow.MlflowClient().set_tag(exported.info.run_id, "mlflow.source.git.commit", "a" * 40)
    monkeypatch.setattr(tracking, "resolve_tags", resolved)
    made_by([*DISTILL, "--temp", "6"])
    train, test = (exported.data.metrics[f"{split}_accuracy"] for split in ("train", "test"))
    assert (
        f"logits: found in {exported.info.run_id}, train accuracy {train:.4f}, test accuracy"
        f" {test:.4f} (made by commit aaaaaaaa; this is bbbbbbbb)"
    ) in capsys.readouterr().out


def test_a_teacher_can_be_an_export_a_model_or_a_folder(
    distilled: Run, exported: Run, teacher: Run
) -> None:
    folder = str(artifact(exported, "logits"))
    by_source = {}
    for source in (exported.info.run_id, teacher.info.run_id, folder):
        (run,) = made_by([*DISTILL, "--temp", "8", "--teacher", source])
        assert per_epoch(run) == per_epoch(distilled)
        by_source[source] = run.data.tags["kdflow.upstream.teacher"]
    assert by_source[exported.info.run_id] == by_source[teacher.info.run_id] == exported.info.run_id
    assert by_source[folder].startswith("sha256:")


def test_a_trial_teacher_is_never_picked_up_by_accident(exported: Run) -> None:
    made_by(["teacher", "--dataset", "digits", "--arch", "pupil", "--epochs", "1"])
    (run,) = made_by([*DISTILL, "--temp", "2"])
    assert run.data.tags["kdflow.upstream.teacher"] == exported.info.run_id


def test_any_model_of_this_project_can_teach(distilled: Run) -> None:
    student_id = distilled.info.run_id
    run, export = made_by([*DISTILL, "--teacher", student_id, "--student", "pupil"])
    assert export.data.tags["kdflow.upstream.model"] == student_id
    found = np.load(artifact(export, "logits") / "test_logits.npy")[0]
    expected = np.load(artifact(distilled, "test_logits.npy"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert run.data.tags["kdflow.upstream.teacher"] == export.info.run_id


def test_damaged_logits_are_exported_anew_and_the_sound_ones_found_next_time(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, export, _ = made_by(DISTILL)
    damaged = Path(export.info.artifact_uri) / "logits" / "train_logits.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    run, again = made_by(DISTILL)
    assert "SHA-256 of train_logits.npy" in capsys.readouterr().out
    assert run.data.tags["kdflow.upstream.teacher"] == again.info.run_id
    (run,) = made_by(DISTILL)
    assert run.data.tags["kdflow.upstream.teacher"] == again.info.run_id


def test_alpha_0_is_the_baseline_whether_its_teacher_was_found_or_made(
    first: list[Run], store: Path
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


# --- comparison ---------------------------------------------------------------------------------


def test_compare_trains_pairs_as_children_and_reuses_what_exists(
    exported: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", "digits", "--epochs", "1", "--teacher", "pupil", "--temp", "8"]
    (existing,) = made_by(["distill", *argv, "--seed", "6"])
    made = made_by(["compare", *argv, "--seeds", "3", "--seed", "5"])
    parent, children = made[0], made[1:]
    assert parent.info.run_name == "compare student T=8 alpha=0.9 seeds=3"
    assert [run.data.tags["kdflow.step"] for run in children] == (
        ["baseline", "distill", "baseline", "baseline", "distill"]
    )
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert "kdflow.asked_by" not in run.data.tags
    assert [run.data.params["seed"] for run in children] == ["5", "5", "6", "7", "7"]
    assert f"distill: found run {existing.info.run_id}" in capsys.readouterr().out

    alone = [run.data.metrics["test_accuracy"] for run in children if "temp" not in run.data.params]
    taught = [children[1], existing, children[4]]
    gains = [
        run.data.metrics["test_accuracy"] - accuracy
        for run, accuracy in zip(taught, alone, strict=True)
    ]
    metrics = parent.data.metrics
    assert metrics["difference_mean"] == pytest.approx(np.mean(gains))
    half = 4.302653 * np.std(gains, ddof=1) / np.sqrt(3)
    assert metrics["difference_high"] - metrics["difference_mean"] == pytest.approx(half, rel=1e-5)
    low, high = metrics["difference_low"], metrics["difference_high"]
    expected = "BEATS" if low > 0 else "WORSE" if high < 0 else "INCONCLUSIVE"
    assert parent.data.tags["kdflow.verdict"] == expected
    table = mlflow.load_table("comparison.json", run_ids=[parent.info.run_id])
    assert table["distilled_run"].tolist() == [run.info.run_id for run in taught]
    assert artifact(parent, "comparison.png").stat().st_size > 0


# --- hints --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # of ReLUs that never fire
def test_a_hint_run_holds_a_student_and_what_its_guided_features_are_worth(
    hinted: Run, teacher: Run
) -> None:
    assert hinted.info.run_name == "hint student seed=0"
    assert hinted.data.tags["kdflow.step"] == "hint"
    assert hinted.data.tags["kdflow.upstream.teacher"] == teacher.info.run_id
    assert hinted.data.tags["kdflow.hint_layer"] == "pool1"
    assert hinted.data.params == {
        **{"dataset": "digits", "holdout": "0.1", "student": "student", "teacher": "pupil"},
        **{"hint_layer": "auto", "guided_layer": "pool1", "epochs": "2", "batch_size": "128"},
        **{"learning_rate": "0.001", "seed": "0"},
    }
    names = {"hint_loss", "val_hint_loss", "val_probe_accuracy", "learning_rate"}
    histories = per_epoch(hinted)
    assert set(histories) == names | {"parameters"}
    assert {len(histories[name]) for name in names} == {2}
    assert histories["hint_loss"][1] < histories["hint_loss"][0]
    assert hinted.data.metrics["peak_memory_mb"] > 0
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(hinted.info.run_id)}
    assert files == {"config.json", "learning_curves.png"}

    digits = data.load("digits")
    train, validation = data.split(digits.y_train, 0.1)
    network = mlflow.keras.load_model(f"runs:/{hinted.info.run_id}/model")
    assert models.weights_sha256(network) == hinted.data.tags["kdflow.weights_sha256"]
    maps = np.asarray(models.features(network, "pool1")(digits.x_train), float)
    maps = maps.reshape(len(maps), -1)
    probe = NearestCentroid().fit(maps[train], digits.y_train[train])
    expected = probe.score(maps[validation], digits.y_train[validation])
    assert histories["val_probe_accuracy"][-1] == pytest.approx(expected)

    initial = models.build("student", digits.x_train[train], 10, seed=0)
    same = list(map(np.array_equal, network.get_weights(), initial.get_weights()))
    assert same == [False, False, *[True] * 6]  # the layers above the guided one are untrained


def test_a_seed_repeats_a_hint_run(hinted: Run) -> None:
    (again,) = made_by(HINT)
    assert per_epoch(again) == per_epoch(hinted)
    for tag in ("kdflow.key", "kdflow.weights_sha256"):
        assert again.data.tags[tag] == hinted.data.tags[tag]


@pytest.mark.parametrize(
    ("holdout", "images"), [("0.1", 1437), ("0", 1437 + 360)], ids=["holdout", "no holdout"]
)
def test_each_image_passes_the_teacher_once_and_its_hints_are_kept_as_its_own(
    holdout: str,
    images: int,
    first: list[Run],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # the teacher is in the store from now on
    earlier, *_ = made_by([*HINT, "--holdout", holdout, "--epochs", "1"])
    teacher = mlflow.keras.load_model(f"runs:/{earlier.data.tags['kdflow.upstream.teacher']}/model")
    reference = models.features(teacher, "pool1")
    passed: list[int] = []
    predict_on_batch, fit_hint = keras.Model.predict_on_batch, training.fit_hint

    def counting(self: keras.Model, batch: np.ndarray) -> Any:
        if self.name == "pupil_to_pool1":  # the student is another network
            passed.append(len(batch))
        return predict_on_batch(self, batch)

    def checking(guided: keras.Model, *sets: training.Images, **given: Any) -> Any:
        for shown, hints in zip(
            sets, (given["train_hints"], given["validation_hints"]), strict=True
        ):
            some = shown.indices[-5:]
            found, expected = hints.of(some), np.asarray(reference(shown.images[some]))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        return fit_hint(guided, *sets, **given)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counting)
    monkeypatch.setattr(training, "fit_hint", checking)
    made_by([*HINT, "--holdout", holdout, "--epochs", "3"])
    assert sum(passed) == images
    assert list(cache.iterdir()) == []
    assert ("val_ metrics are of the TEST set" in capsys.readouterr().out) == (holdout == "0")


def test_the_hints_are_gone_after_a_failure_and_an_interrupt(
    first: list[Run], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*HINT, "--learning_rate", "1e30"]) == 1
    assert runs()[-1].info.status == "FAILED"
    assert list(cache.iterdir()) == []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "log_metrics", interrupt)
    assert main(HINT) == 130
    assert runs()[-1].info.status == "KILLED"
    assert list(cache.iterdir()) == []


def test_too_small_a_disk_is_refused_before_a_run_is_opened(
    first: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = shutil.disk_usage("/")._replace(free=600_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: little)
    before = len(runs())
    assert main(HINT) == 1  # 1,437 images of 4x4x16 halves
    assert "kdflow hint: cache: expected 0.7 MB of room in" in capsys.readouterr().err
    assert len(runs()) == before


def test_a_distillation_starts_from_the_guided_layers_of_its_hint_run_and_from_its_seed(
    hinted: Run,
) -> None:
    init = hinted.info.run_id
    unmoved = ["--epochs", "1", "--learning_rate", "1e-30", "--seed", "3"]
    (run,) = made_by([*DISTILL, "--init", init, *unmoved])
    assert run.info.run_name == "distill student T=4 alpha=0.9 init=hint seed=3"
    assert run.data.tags["kdflow.upstream.init"] == init
    guided, found = (
        mlflow.keras.load_model(f"runs:/{made}/model").get_weights()
        for made in (init, run.info.run_id)
    )
    digits = data.load("digits")
    own = models.build("student", digits.x_train, 10, seed=3).get_weights()
    # the hint run guided `pool1`, which only the first convolution's two weights are below
    for expected, weight in zip([*guided[:2], *own[2:]], found, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-25)


def test_auto_makes_the_hint_run_at_its_default_settings_once(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DISTILL, "--student", "pupil", "--seed", "11", "--init", "auto"]
    run, hint = made_by(argv)
    assert hint.data.params["epochs"] == str(HintConfig().epochs)  # type: ignore[call-arg]
    assert hint.data.params["seed"] == "0"
    assert hint.data.tags["kdflow.asked_by"] == run.info.run_id
    assert run.data.tags["kdflow.upstream.init"] == hint.info.run_id
    assert "init: no hint run of pupil at its default settings" in capsys.readouterr().out
    (again,) = made_by(argv)
    start = f"init: starts from the hint run of pupil, run {hint.info.run_id}"
    assert start in capsys.readouterr().out
    assert per_epoch(again) == per_epoch(run)
    assert again.data.tags["kdflow.key"] == run.data.tags["kdflow.key"]
    (named,) = made_by([*argv[:-1], hint.info.run_id])
    assert named.data.tags["kdflow.key"] == run.data.tags["kdflow.key"]
    # another way to name the teacher finds the same hint run
    (by_export,) = made_by([*argv, "--teacher", first[1].info.run_id])
    assert by_export.data.tags["kdflow.upstream.init"] == hint.info.run_id


def test_a_hint_run_of_a_student_that_has_changed_since_is_refused(
    hinted: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(models.NETWORKS, "student", models.NETWORKS["pupil"])
    assert main([*DISTILL, "--init", hinted.info.run_id]) == 1
    expected = f"init: expected student as it is now, got run {hinted.info.run_id}, whose weights"
    assert expected in capsys.readouterr().err


def test_a_run_of_a_network_that_has_changed_since_is_not_found(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = BaselineConfig(dataset="digits", student="pupil", epochs=1)  # type: ignore[call-arg]
    digits = data.load("digits")
    made = baseline.run(config, digits)
    assert baseline.find_or_run(config, digits).run_id == made.run_id
    monkeypatch.setitem(models.NETWORKS, "pupil", models.NETWORKS["student"])
    assert baseline.find_or_run(config, digits).run_id != made.run_id
    assert (
        f"baseline: expected pupil as it is now, got run {made.run_id}, whose weights have other"
        " shapes; it is not used"
    ) in capsys.readouterr().out


def test_without_init_the_key_is_that_of_a_run_which_never_heard_of_it(
    distilled: Run, exported: Run
) -> None:
    params = {
        **{"holdout": 0.1, "epochs": 2, "batch_size": 32, "learning_rate": 0.001},
        **{"optimizer": "adam", "schedule": "constant", "dropout": 0.3},
        **{"seed": 0, "evaluate_test": True, "student": "student"},
        **{"temp": 8.0, "alpha": 0.9, "t_squared": True, "views": 1},
        **{"loss": "kd", "dkd_alpha": 1.0, "dkd_beta": 8.0, "dist_beta": 1.0, "dist_gamma": 1.0},
    }
    upstream = {"teacher": exported.info.run_id}
    key = tracking.run_key("distill", params, data.load("digits").digest, upstream)
    assert distilled.data.tags["kdflow.key"] == key


def test_a_damaged_hint_run_is_refused_by_name_and_made_anew_by_auto(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", "digits", "--teacher", "pupil", "--student", "pupil", "--epochs", "1"]
    hint, teacher = made_by(["hint", *argv[:-2]])
    mlflow.MlflowClient().set_tag(hint.info.run_id, "kdflow.weights_sha256", "another")
    made_by(["export_logits", "--dataset", "digits", "--model", "pupil"])
    before = len(runs())
    assert main(["distill", *argv, "--init", hint.info.run_id]) == 1
    assert "init: expected weights with SHA-256 another" in capsys.readouterr().err
    assert len(runs()) == before
    run, again = made_by(["distill", *argv, "--init", "auto"])
    assert "init: expected weights with SHA-256 another" in capsys.readouterr().out
    assert run.data.tags["kdflow.upstream.init"] == again.info.run_id
    assert again.data.tags["kdflow.upstream.teacher"] == teacher.info.run_id


def test_compare_starts_every_student_from_one_hint_run_and_no_baseline(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", "digits", "--epochs", "1", "--teacher", "pupil", "--student", "pupil"]
    parent, *made = made_by(["compare", *argv, "--seeds", "2", "--seed", "20", "--init", "auto"])
    hint = parent.data.tags["kdflow.upstream.init"]
    assert parent.info.run_name == "compare pupil T=4 alpha=0.9 init=hint seeds=2"
    inits = [
        run.data.tags.get("kdflow.upstream.init")
        for run in made
        if run.data.tags["kdflow.step"] in ("baseline", "distill")
    ]
    assert inits == [None, hint, None, hint]
    assert "(the 10 epochs of hints are the distilled side's alone)" in capsys.readouterr().out
    again = made_by(["compare", *argv, "--seeds", "2", "--seed", "20", "--init", "auto"])
    assert len(again) == 1  # its pairs are found, hint run and all


# --- protocol -----------------------------------------------------------------------------------


def test_without_evaluate_test_the_test_set_is_not_read(
    first: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    read = logits.read(artifact(export, "logits"), data.load(str(tiny_npz)), views=3)
    assert read.train.shape == (3, 60, 3)
    (run,) = made_by(["distill", *argv, "--teacher", export.info.run_id, "--views", "2"])
    assert run.data.params["views"] == "2"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("distill --teacher nonsense", "teacher: expected auto, a network's name, a run id or"),
        (f"distill --teacher {'x' * 300}", "teacher: expected auto, a network's name, a run id or"),
        ("distill --teacher {unfinished}", "teacher: expected a FINISHED run, got {unfinished}"),
        ("distill --teacher {bare}", "teacher: run {bare} (export_logits) has no logits"),
        ("distill --teacher {damaged}", "teacher: run {damaged} (teacher): no model can be loaded"),
        (
            "distill --teacher {exported} --holdout 0.2",
            "teacher: expected one trained with holdout",
        ),
        ("distill --teacher {teacher} --holdout 0.2", "teacher: expected one trained with holdout"),
        ("distill --teacher {exported} --views 2", "expected the first 2 views, got 1"),
        ("distill --teacher {exported} --dataset {npz}", "teacher: logits in"),
        ("distill --teacher {teacher} --dataset {npz}", "teacher: expected a model of"),
        ("distill --teacher {empty}", "expected a manifest.json, got none"),
        ("compare --teacher {empty}", "teacher: logits in"),
        ("export_logits --model {exported}", "model: expected a run that logged a model that"),
        (
            "export_logits --model {damaged}",
            "model: run {damaged} (teacher): no model can be loaded",
        ),
        ("export_logits --model {teacher} --dataset {npz}", "model: expected a model of"),
        ("distill --teacher {hinted}", "teacher: expected a run that logged a model that classif"),
        ("distill --init nonsense", "init: expected none, auto or the id of a hint run; got 'nons"),
        ("distill --init {unfinished}", "init: expected a FINISHED run, got {unfinished}"),
        ("distill --init {teacher}", "init: expected a hint run, got the teacher run {teacher}"),
        ("distill --init {hinted} --student pupil", "with the student pupil, got run {hinted}"),
        ("distill --init {hinted} --teacher pupil --holdout 0.2", "the holdout 0.2, got run"),
        ("distill --init {hinted} --dataset {npz}", "init: expected a hint run with the data set"),
        ("distill --init auto --teacher pupil", "init: hint_layer, guided_layer: expected maps of"),
        ("distill --init auto --teacher {logits}", "teacher: expected auto, a network's name or a"),
        ("compare --init auto --teacher pupil", "init: hint_layer, guided_layer: expected maps of"),
        (
            "hint --teacher pupil",
            "pool1 of pupil with 4x4 and pool2 of student with 2x2, which fits no layer of pupil",
        ),
        ("hint --guided_layer conv1", "fast with 2x2 and conv1 of student with 8x8, which fits wh"),
        (
            "hint --hint_layer conv9",
            "hint_layer: expected a layer of fast whose output is maps (height, width, channels)",
        ),
        ("hint --guided_layer dense128", "guided_layer: expected a layer of student whose output"),
        ("hint --teacher {hinted}", "teacher: expected a run that logged a model that classifies"),
        (
            "hint --teacher {teacher} --holdout 0.2",
            "teacher: expected a model trained with holdout=0.",
        ),
        ("hint --teacher {teacher} --dataset {npz}", "teacher: expected a model of"),
        ("hint --student fast --dataset {narrow} --teacher vgg", "student: fast: expected images"),
        (
            "main --student pupil",
            "student: hint_layer, guided_layer: expected maps of equal",
        ),
        ("main --student dense", "student: guided_layer: expected a layer of dense whose output"),
        ("main --teacher nonsense", "teacher: expected auto, a network's name, a run id"),
        ("assistant --chain nonsense,student", "chain: expected auto, a network's name, a run id"),
        ("hint --teacher nonsense", "teacher: expected auto, a network's name, a run id"),
        ("hint --teacher {empty}", "got the folder of logits {empty}"),
        ("export_logits --model nonsense", "model: expected auto"),
        ("baseline --dataset nowhere.npz", "dataset: expected an .npz file of plain arrays, got"),
        ("baseline --holdout 0.001", "holdout: expected a share that takes images of every class"),
        ("teacher --dataset {narrow} --arch fast", "arch: fast: expected images of at least"),
        ("distill --dataset {narrow} --teacher fast", "teacher: fast: expected images of at least"),
    ],
)
def test_what_does_not_fit_is_one_line_status_1_and_no_run(
    argv: str,
    message: str,
    exported: Run,
    teacher: Run,
    hinted: Run,
    tiny_npz: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mlflow.start_run() as bare:
        mlflow.set_tag("kdflow.step", "export_logits")
    unfinished = mlflow.MlflowClient().create_run("0").info.run_id
    with mlflow.start_run() as damaged:
        params = {"dataset": "digits", "holdout": "0.1", "arch": "pupil"}
        mlflow.log_params(params)
        digest = teacher.data.tags["kdflow.dataset_digest"]
        mlflow.set_tags({"kdflow.step": "teacher", "kdflow.dataset_digest": digest})
    (tmp_path / "empty").mkdir()
    narrow = {name: array[:, :, :1] for name, array in np.load(tiny_npz).items() if name[0] == "x"}
    np.savez(tmp_path / "narrow.npz", **dict(np.load(tiny_npz)) | narrow)
    places = {
        "bare": bare.info.run_id,
        "unfinished": unfinished,
        "exported": exported.info.run_id,
        "teacher": teacher.info.run_id,
        "hinted": hinted.info.run_id,
        "logits": str(artifact(exported, "logits")),
        "npz": str(tiny_npz),
        "empty": str(tmp_path / "empty"),
        "damaged": damaged.info.run_id,
        "narrow": str(tmp_path / "narrow.npz"),
    }
    before = len(runs())
    step, *flags = argv.format(**places).split()
    assert main([step, "--dataset", "digits", *flags]) == 1
    shown = capsys.readouterr()
    assert message.format(**places) in shown.err
    assert shown.err.startswith(f"kdflow {step}: ")
    assert shown.err.count("\n") == 1
    assert len(runs()) == before
    mlflow.MlflowClient().set_terminated(unfinished)


def test_a_loss_that_is_no_number_fails_the_run_and_names_the_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["baseline", "--dataset", "digits", "--learning_rate", "1e30", "--optimizer", "sgd"]
    assert main(argv) == 1
    expected = r"expected a finite loss, got (nan|inf) in epoch 1 of 30, by batch"
    assert re.search(expected, capsys.readouterr().err)
    assert runs()[-1].info.status == "FAILED"


def test_weights_that_the_last_update_spoiled_fail_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["baseline", "--dataset", "digits", "--epochs", "1", "--batch_size", "2000"]
    assert main([*argv, "--learning_rate", "3e38", "--evaluate_test", "false"]) == 1
    assert (
        "expected a finite validation loss, got nan after epoch 1 of 1" in capsys.readouterr().err
    )
    assert runs()[-1].info.status == "FAILED"


def test_a_damaged_teacher_is_trained_anew(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (teacher,) = made_by(["teacher", "--dataset", "digits", "--arch", "pupil"])
    for file in (store / "mlruns").rglob("*.keras"):
        file.write_bytes(file.read_bytes()[:1000])
    _, _, again = made_by(DISTILL)
    shown = capsys.readouterr().out
    assert f"run {teacher.info.run_id} (teacher): no model can be loaded" in shown
    assert again.data.tags["kdflow.step"] == "teacher"


# --- other processes ----------------------------------------------------------------------------


def command_line(*words: str) -> list[str]:
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def environment(folder: Path) -> dict[str, str]:
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": binaries,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }


def wait_for(reached: Callable[[], bool], log: Path) -> None:
    for _ in range(600):
        if reached():
            return
        time.sleep(0.2)
    raise AssertionError(f"not reached in two minutes: {log.read_text()}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["python", "-m", "kdflow", "distill", "--dataset", "digits"],
        [
            "mlflow",
            "run",
            str(ROOT),
            "-e",
            "distill",
            "-P",
            "dataset=digits",
            "--env-manager=local",
        ],
    ],
    ids=["python", "mlflow run"],
)
def test_ctrl_c_ends_every_open_run_as_killed(store: Path, command: list[str]) -> None:
    log = store / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_line(*command),
            cwd=store,
            env=environment(store),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: b"epoch  2/10" in log.read_bytes() or process.poll() is not None, log)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.wait(60) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # `mlflow run` itself first writes FAILED
    wait_for(lambda: [run.info.status for run in runs()] == ["KILLED"] * 3, log)
    assert "kdflow distill: interrupted" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_refusal_is_one_line_whatever_libraries_say_as_they_load(store: Path) -> None:
    argv = command_line("python", "-m", "kdflow", "distill", "--dataset", "nowhere.npz")
    done = subprocess.run(
        argv, cwd=store, env=environment(store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("kdflow distill: dataset: expected an .npz file")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_mlflow_run_gives_one_finished_run_with_what_was_asked_for(store: Path) -> None:
    argv = command_line("mlflow", "run", str(ROOT), "-e", "distill", "--env-manager", "local")
    for parameter in ("temp=8", "dataset=digits", "teacher=pupil", "epochs=2"):
        argv += ["-P", parameter]
    done = subprocess.run(
        argv, cwd=store, env=environment(store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    distilled, exported, _ = runs()
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert distilled.info.run_name == "distill student T=8 alpha=0.9 seed=0"
    assert exported.data.tags["kdflow.asked_by"] == distilled.info.run_id
    assert distilled.data.params["temp"] == "8"
    assert distilled.data.params["epochs"] == "2"
    assert "test_accuracy" in distilled.data.metrics


@pytest.mark.slow
def test_mlflow_run_with_bad_input_fails_with_the_one_line(store: Path) -> None:
    argv = command_line("mlflow", "run", str(ROOT), "-e", "distill", "--env-manager", "local")
    done = subprocess.run(
        [*argv, "-P", "temp=0"],
        cwd=store,
        env=environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "kdflow distill: temp: expected greater than 0, got '0'" in done.stderr
    assert [run.info.status for run in runs()] == ["FAILED"]


@pytest.mark.slow
def test_the_default_teacher_of_the_digits_is_a_good_one(shared_store: Path) -> None:
    (teacher,) = made_by(["teacher", "--dataset", "digits"])
    assert teacher.data.metrics["test_accuracy"] >= 0.98
