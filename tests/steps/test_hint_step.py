"""Hints, from the command line to the student that starts from them, on the digits."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from helpers import DISTILL, HINT, made_by, parameters, per_epoch, runs
from mlflow.entities import Run

from kdflow import network as networks
from kdflow.__main__ import main
from kdflow.artifacts import checkpoints
from kdflow.catalogue.networks import NETWORKS
from kdflow.dataset import Images
from kdflow.features import features
from kdflow.steps.hint import HintConfig
from kdflow.steps.run import load
from kdflow.tracking import journal
from kdflow.tracking import run as tracking
from kdflow.training import hint as training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store", "cache")]


def hints_in(cache: Path) -> list[Path]:
    """What is in the cache besides the states of interrupted runs, and journals."""
    kept = (checkpoints.FOLDER, journal.FOLDER)
    return [path for path in cache.iterdir() if path.name not in kept]


def test_a_seed_repeats_a_hint_run(hinted: Run) -> None:
    (again,) = made_by(HINT)
    assert per_epoch(again) == per_epoch(hinted)
    for tag in ("kdflow.key", "kdflow.weights_sha256"):
        assert again.data.tags[tag] == hinted.data.tags[tag]


def test_hints_that_are_recomputed_train_as_cached_ones_do_up_to_half_precision(
    hinted: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.artifacts.hints.cached", None)
    (run,) = made_by([*HINT, "--hint_values", "recomputed"])
    for name in ("hint_loss", "val_hint_loss"):
        assert per_epoch(run)[name] == pytest.approx(per_epoch(hinted)[name], rel=1e-2)


@pytest.mark.usefixtures("untrained")
def test_a_layer_that_is_spelt_out_is_the_same_as_auto(first: list[Run]) -> None:
    # the key has what `auto` stands for, so that another default layer makes another key
    auto = ["hint", "--dataset", "digits", "--teacher", "pupil", "--student", "pupil"]
    spelt_out = ["--hint_layer", "pool1", "--guided_layer", "pool1"]
    ((by_auto,), (by_name,), (other,)) = (
        made_by([*auto, "--epochs", "1", *layers])
        for layers in ([], spelt_out, ["--hint_layer", "conv1", "--guided_layer", "conv1"])
    )
    assert by_auto.data.tags["kdflow.key"] == by_name.data.tags["kdflow.key"]
    assert by_auto.data.params == by_name.data.params
    assert by_auto.data.params["hint_layer"] == "pool1"
    assert other.data.tags["kdflow.key"] != by_auto.data.tags["kdflow.key"]


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
    reference = features(teacher, "pool1")
    passed: list[int] = []
    predict_on_batch, fit_hint = keras.Model.predict_on_batch, training.fit_hint

    def counting(self: keras.Model, batch: np.ndarray) -> Any:
        if self.name == "pupil_to_pool1":  # the student is another network
            passed.append(len(batch))
        return predict_on_batch(self, batch)

    def checking(guided: keras.Model, *sets: Images, **given: Any) -> Iterator[Any]:
        for shown, hints in zip(
            sets, (given["train_hints"], given["validation_hints"]), strict=True
        ):
            some = shown.indices[-5:]
            found, expected = hints.of(some), np.asarray(reference(shown.images[some]))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        return fit_hint(guided, *sets, **given)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counting)
    monkeypatch.setattr(training, "fit_hint", checking)
    made_by([*HINT, "--holdout", holdout, "--epochs", "2"])
    assert sum(passed) == images
    assert hints_in(cache) == []
    assert ("val_ metrics are of the TEST set" in capsys.readouterr().out) == (holdout == "0")


def test_the_hints_are_gone_after_a_failure_and_an_interrupt(
    first: list[Run], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*HINT, "--learning_rate", "1e30"]) == 1
    assert runs()[-1].info.status == "FAILED"
    assert hints_in(cache) == []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.Run, "log", interrupt)
    assert main(HINT) == 130
    assert runs()[-1].info.status == "KILLED"
    assert hints_in(cache) == []


def test_too_small_a_disk_is_refused_before_a_run_is_opened(
    first: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = shutil.disk_usage("/")._replace(free=600_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: little)
    before = len(runs())
    assert main(HINT) == 1  # 1,437 images of 4x4x16 halves
    assert "kdflow hint: expected 0.7 MB of room in" in capsys.readouterr().err
    assert len(runs()) == before


def test_a_distillation_starts_from_the_guided_layers_of_its_hint_run_and_from_its_seed(
    hinted: Run,
) -> None:
    init = hinted.info.run_id
    unmoved = ["--epochs", "1", "--learning_rate", "1e-30", "--seed", "3"]
    (run,) = made_by([*DISTILL, "--init", init, *unmoved])
    assert run.info.run_name == "T=4 alpha=0.9 hint s3 distill student..."
    assert run.data.tags["kdflow.upstream.init"] == init
    guided, found = (
        mlflow.keras.load_model(f"runs:/{made}/model").get_weights()
        for made in (init, run.info.run_id)
    )
    digits = load("digits", 0.1)
    shown = Images(digits.x_train, digits.y_train, np.arange(len(digits.y_train)))
    own = networks.build("student", shown, 10, seed=3).get_weights()
    # the hint run guided `pool1`, which only the first convolution's two weights are below
    for expected, weight in zip([*guided[:2], *own[2:]], found, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-25)


@pytest.mark.usefixtures("untrained")
def test_auto_makes_the_hint_run_at_its_default_settings_once(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DISTILL, "--student", "pupil", "--seed", "11", "--init", "auto"]
    run, hint = made_by(argv)
    assert hint.data.params["epochs"] == str(parameters(HintConfig).epochs)
    assert hint.data.params["seed"] == "0"
    assert hint.data.tags["kdflow.asked_by"] == run.info.run_id
    assert run.data.tags["kdflow.upstream.init"] == hint.info.run_id
    assert "  train   s0 hint pupil, under a minute\n" in capsys.readouterr().out
    (again,) = made_by(argv)
    assert f"  found   hint run of pupil, run {hint.info.run_id}\n" in capsys.readouterr().out
    for tag in ("kdflow.key", "kdflow.weights_sha256"):
        assert again.data.tags[tag] == run.data.tags[tag]
    (named,) = made_by([*argv[:-1], hint.info.run_id])
    assert named.data.tags["kdflow.key"] == run.data.tags["kdflow.key"]
    # another way to name the teacher finds the same hint run
    (by_export,) = made_by([*argv, "--teacher", first[1].info.run_id])
    assert by_export.data.tags["kdflow.upstream.init"] == hint.info.run_id


def test_a_hint_run_of_a_student_that_has_changed_since_is_refused(
    hinted: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(NETWORKS, "student", NETWORKS["pupil"])
    assert main([*DISTILL, "--init", hinted.info.run_id]) == 1
    assert (
        f"init: expected the present architecture of student, got run {hinted.info.run_id}, whose"
        " layers or settings differ"
    ) in capsys.readouterr().err


@pytest.mark.usefixtures("untrained")
def test_a_damaged_hint_run_is_refused_by_name_and_made_anew_by_auto(
    quick_pupil: None, store: Path, capsys: pytest.CaptureFixture[str]
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
    assert "hint: expected weights with SHA-256 another" in capsys.readouterr().out
    assert run.data.tags["kdflow.upstream.init"] == again.info.run_id
    assert again.data.tags["kdflow.upstream.teacher"] == teacher.info.run_id
