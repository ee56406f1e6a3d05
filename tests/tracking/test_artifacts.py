"""What runs have logged is read in place or downloaded. What is missing is distinguished from what
cannot be read."""

from dataclasses import replace
from pathlib import Path

import keras
import mlflow
import pytest
from mlflow.entities import FileInfo

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, NoRoomError, UnfitError, UnreachableError
from kdflow.tracking.artifacts import (
    LOGITS_FOLDER,
    load_keras,
    load_model,
    logits_folder,
    read_json,
)
from kdflow.tracking.find import FoundRun, get_run
from kdflow.tracking.runs import open_run

pytestmark = pytest.mark.usefixtures("shared_store")


@pytest.fixture
def export(tiny: Dataset, tmp_path: Path) -> FoundRun:
    (tmp_path / "manifest.json").write_text("{}")
    with open_run("export", "export_logits", tiny, {}) as run:
        run.log_folder(tmp_path, LOGITS_FOLDER)
    return get_run(run.run_id)


@pytest.fixture
def remote(export: FoundRun) -> FoundRun:
    return replace(export, artifact_uri=f"mlflow-artifacts:/{export.run_id}/artifacts")


def test_what_a_run_lacks_is_named(tiny: Dataset) -> None:
    with open_run("empty", "teacher", tiny, {}) as opened:
        opened.log_json({}, "config.json")
    run = get_run(opened.run_id)
    with pytest.raises(UnfitError, match=f"run {run.run_id} .teacher. has no logits"):
        logits_folder(run)
    with pytest.raises(UnfitError, match=f"run {run.run_id} .teacher.: no model can be loaded"):
        load_model(run)
    assert read_json(run, "config.json") == {}
    with pytest.raises(UnfitError, match=f"run {run.run_id} .teacher. has no other.json"):
        read_json(run, "other.json")


def test_logits_are_read_in_place_from_a_local_store_and_downloaded_from_another(
    export: FoundRun, remote: FoundRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logits_folder(export) == Path(export.artifact_uri) / "logits"

    asked: list[dict[str, str]] = []

    def download(**where: str) -> str:
        asked.append(where)
        return where["dst_path"]

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", lambda artifact_uri: ["a file"])
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    downloaded = logits_folder(remote)
    assert downloaded.is_dir()
    assert logits_folder(remote) == downloaded
    assert [where["artifact_uri"] for where in asked] == [f"{remote.artifact_uri}/logits"]


def test_a_server_that_lists_nothing_has_no_logits_and_a_silent_one_may_have(
    remote: FoundRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", lambda artifact_uri: [])
    with pytest.raises(UnfitError, match=f"run {remote.run_id} .export_logits. has no logits"):
        logits_folder(remote)
    with pytest.raises(UnfitError, match=f"run {remote.run_id} .export_logits. has no config.json"):
        read_json(remote, "config.json")
    listed = [FileInfo("artifacts/config.json", False, 2)]  # as MLflow lists them
    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", lambda artifact_uri: listed)
    monkeypatch.setattr(
        mlflow.artifacts, "load_dict", {f"{remote.artifact_uri}/config.json": {}}.get
    )
    assert read_json(remote, "config.json") == {}

    def refuse(**_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", refuse)
    with pytest.raises(
        UnreachableError, match=r"its logits cannot be read: no route\. It may be intact"
    ):
        logits_folder(remote)


def test_an_artifact_location_that_is_not_mounted_is_not_an_empty_one(
    tiny: Dataset, tmp_path: Path
) -> None:
    location = tmp_path / "mounted" / "of_mine"
    experiment = mlflow.create_experiment("elsewhere", str(location))
    tags = {"kdflow.step": "export_logits"}
    run_id = mlflow.MlflowClient().create_run(experiment, tags=tags).info.run_id
    mlflow.MlflowClient().set_terminated(run_id)
    run = get_run(run_id)
    location.parent.mkdir()
    with pytest.raises(UnreachableError, match=f"expected the artifacts in {location}, got none"):
        logits_folder(run)
    location.mkdir()
    with pytest.raises(UnfitError, match="has no logits"):
        logits_folder(run)


@pytest.mark.parametrize(
    "error", [mlflow.MlflowException("[Errno 28] No space left on device"), MemoryError()]
)
def test_a_model_for_which_there_is_no_room_is_not_damaged(
    error: Exception, tiny: Dataset, small_network: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run("a teacher", "teacher", tiny, {}) as run:
        run.log_model(small_network, tiny.class_names)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(mlflow.keras, "load_model", fail)
    with pytest.raises(NoRoomError, match=f"^run {run.run_id} .teacher.: no model can be loaded"):
        load_model(get_run(run.run_id))


def test_a_file_that_is_no_model_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "broken.keras").write_bytes(b"no archive")
    for name in ("broken.keras", "nowhere.keras"):
        with pytest.raises(KdflowError, match=f"^no model can be loaded from .*{name}: "):
            load_keras(str(tmp_path / name))
