"""What whole steps refuse before a run is opened, and what fails a run."""

import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import artifact, runs
from mlflow.entities import Run

from kdflow.__main__ import main

pytestmark = pytest.mark.usefixtures("shared_store")


@pytest.fixture(scope="module")
def places(
    first: list[Run], hinted: Run, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What a user could name, by what it is."""
    _, exported, teacher = first
    folder = tmp_path_factory.mktemp("places")
    with mlflow.start_run() as bare:
        mlflow.set_tag("kdflow.step", "export_logits")
    unfinished = mlflow.MlflowClient().create_run("0").info.run_id
    with mlflow.start_run() as damaged:
        params = {"dataset": "digits", "holdout": "0.1", "arch": "pupil"}
        mlflow.log_params(params)
        digest = teacher.data.tags["kdflow.dataset_digest"]
        mlflow.set_tags({"kdflow.step": "teacher", "kdflow.dataset_digest": digest})
    with mlflow.start_run() as deleted:
        mlflow.set_tag("kdflow.step", "teacher")
    mlflow.MlflowClient().delete_run(deleted.info.run_id)
    (folder / "empty").mkdir()
    labels: dict[str, Any] = {"y_train": np.arange(60) % 3, "y_test": np.arange(30) % 3}
    for name, width in {"own.npz": 8, "narrow.npz": 1}.items():
        shape = (8, width, 3)
        images: dict[str, Any] = {
            f"x_{s}": np.zeros((n, *shape), np.uint8) for s, n in (("train", 60), ("test", 30))
        }
        np.savez(folder / name, **images, **labels)
    return {
        "bare": bare.info.run_id,
        "unfinished": unfinished,
        "damaged": damaged.info.run_id,
        "deleted": deleted.info.run_id,
        "exported": exported.info.run_id,
        "teacher": teacher.info.run_id,
        "hinted": hinted.info.run_id,
        "logits": str(artifact(exported, "logits")),
        "npz": str(folder / "own.npz"),
        "narrow": str(folder / "narrow.npz"),
        "empty": str(folder / "empty"),
    }


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "distill --teacher nonsense",
            "teacher: expected auto, a network's name, a run id, a .keras",
        ),
        (
            f"distill --teacher {'x' * 300}",
            "teacher: expected auto, a network's name, a run id, a .keras",
        ),
        ("distill --teacher {unfinished}", "teacher: expected a FINISHED run, got {unfinished}"),
        ("distill --teacher {deleted}", "teacher: expected a run that is not deleted, got"),
        ("distill --teacher {bare}", "teacher: run {bare} (export_logits) has no logits"),
        ("distill --teacher {damaged}", "teacher: run {damaged} (teacher): no model can be loaded"),
        (
            "distill --teacher {exported} --holdout 0.2",
            "teacher: expected a teacher trained with holdout",
        ),
        (
            "distill --teacher {teacher} --holdout 0.2",
            "teacher: expected a teacher trained with holdout",
        ),
        (
            "distill --teacher {exported} --views 2",
            "expected the first 2 views of view_set=shifts, got 1 ",
        ),
        ("distill --teacher {exported} --dataset {npz}", "teacher: logits in"),
        ("distill --teacher {teacher} --dataset {npz}", "teacher: expected a model of"),
        ("distill --teacher {empty}", "expected a manifest.json, got none"),
        ("compare --teacher {empty}", "teacher: logits in"),
        ("export_logits --model {exported}", "model: expected a run that logged a model that"),
        ("export_logits --model {deleted}", "model: expected a run that is not deleted, got"),
        (
            "export_logits --model {damaged}",
            "model: run {damaged} (teacher): no model can be loaded",
        ),
        ("export_logits --model {teacher} --dataset {npz}", "model: expected a model of"),
        ("distill --teacher {hinted}", "teacher: expected a run that logged a model that classif"),
        ("distill --init nonsense", "init: expected none, auto or the id of a hint run; got 'nons"),
        ("distill --init {unfinished}", "init: expected a FINISHED run, got {unfinished}"),
        ("distill --init {deleted}", "init: expected a run that is not deleted, got {deleted}"),
        ("distill --init {teacher}", "init: expected a hint run, got the teacher run {teacher}"),
        ("distill --init {hinted} --student pupil", "with the student pupil, got run {hinted}"),
        ("distill --init {hinted} --teacher pupil --holdout 0.2", "the holdout 0.2, got run"),
        ("distill --init {hinted} --dataset {npz}", "init: expected a hint run with the data set"),
        ("distill --init auto --teacher {logits}", "teacher: expected auto, a network's name or a"),
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
        ("main --student dense", "student: guided_layer: expected a layer of dense whose output"),
        ("main --teacher nonsense", "teacher: expected auto, a network's name, a run id"),
        ("assistant --chain nonsense,student", "chain: expected auto, a network's name, a run id"),
        ("hint --teacher nonsense", "teacher: expected auto, a network's name, a run id"),
        ("hint --teacher {empty}", "got the folder of logits {empty}"),
        ("export_logits --model nonsense", "model: expected auto"),
        ("baseline --dataset nowhere.npz", "dataset: expected an .npz file of plain arrays, got"),
        ("baseline --holdout 0.001", "holdout: expected a share that takes images of every class"),
        ("baseline --student dense --dropout 0.5", "student: dense: expected dropout=0, as it has"),
        ("teacher --dataset {narrow} --arch fast", "arch: fast: expected images of at least"),
        ("distill --dataset {narrow} --teacher fast", "teacher: fast: expected images of at least"),
    ],
)
def test_what_does_not_fit_is_one_line_status_1_and_no_run(
    argv: str, message: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(runs())
    step, *flags = argv.format(**places).split()
    assert main([step, "--dataset", "digits", *flags]) == 1
    shown = capsys.readouterr()
    assert message.format(**places) in shown.err
    assert shown.err.startswith(f"kdflow {step}: ")
    assert shown.err.count("\n") == 1
    assert len(runs()) == before


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


def test_logits_that_do_not_fit_on_the_disk_are_refused_before_a_run_opens(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(runs())
    needed = 3 * (162 * 1437 + 360) * 10 * 4  # three times, of 10 classes in float32
    usage = shutil.disk_usage("/")._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert main(["export_logits", "--dataset", "digits", "--views", "162"]) == 1
    refused = capsys.readouterr().err
    expected = f"expected 28.0 MB of room in {cache} for the logits of 162 views, got 28.0 MB"
    assert expected in refused
    assert refused.count("\n") == 1
    assert len(runs()) == before
