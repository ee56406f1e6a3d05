"""Read what runs have logged: models, logits, JSON files."""

import atexit
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import keras
import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.utils.file_utils import local_file_uri_to_path

from kdflow.errors import KdflowError, NoRoomError, UnfitError, UnreachableError, is_disk_full
from kdflow.model_file import MODEL_FILES, check_file, load_file, loaded
from kdflow.tracking.find import FoundRun
from kdflow.tracking.run import MODEL_NAME
from kdflow.tracking.store import logged_models, with_retries

LOGITS_FOLDER = "logits"


def folder(run: FoundRun, name: str = "") -> Path:
    """What the run has logged under `name`, all of it by default, as a local folder: in place where
    the store is on this machine, else downloaded for as long as this process lives.

    Raises:
        UnfitError: the run has none.
        UnreachableError: it cannot be read, though it may be there.
    """
    return _fetched(f"{run.artifact_uri}/{name}".rstrip("/"), run, name or "artifacts")


def logits_folder(run: FoundRun) -> Path:
    """The run's logit artifact as a local folder; see `folder`."""
    return folder(run, LOGITS_FOLDER)


def load_model(run: FoundRun) -> keras.Model:
    """The Keras model that the run logged.

    Raises:
        UnfitError: the run has none, or it is damaged.
        UnreachableError: it cannot be read, though it may be there.
        NoRoomError: the disk or the memory has no room for it.
    """
    what = f"run {run.run_id} ({run.step})"
    models = with_retries(what, lambda: logged_models(run.experiment_id, run.run_id, MODEL_NAME))
    logged = [model for model in models if model.status == LoggedModelStatus.READY]
    if not logged:
        raise UnfitError(f"{what}: no model can be loaded: it has logged none")
    folder = _fetched(logged[0].artifact_location, run, MODEL_NAME)
    try:
        for file in folder.rglob("*.keras"):
            file.read_bytes()
    except OSError as error:  # of the disk or the network, not of what the file holds
        raise UnreachableError(f"{what}: its {MODEL_NAME} cannot be read: {error}") from error
    try:
        return load_keras(str(folder))
    except KdflowError as error:
        no_room = is_disk_full(error) or isinstance(error.__cause__, MemoryError)
        raise (NoRoomError if no_room else UnfitError)(f"{what}: {error}") from error


def load_keras(source: str) -> keras.Model:
    """The Keras model kept at `source`: a `.keras` or `.h5` file, or a logged or registered MLflow
    model.

    Raises:
        KdflowError: there is none, it is damaged, or it carries code, which is never run.
    """
    if source.endswith(MODEL_FILES):
        return load_file(source)
    with tempfile.TemporaryDirectory() as folder:

        def load() -> object:
            _check_flavour(source)
            local = Path(mlflow.artifacts.download_artifacts(source, dst_path=folder))
            for file in local.rglob("*.keras"):
                check_file(file)
            options = {"compile": False, "safe_mode": True}
            return mlflow.keras.load_model(str(local), load_model_kwargs=options)

        return loaded(source, load)


def _check_flavour(source: str) -> None:
    flavours = mlflow.models.get_model_info(source).flavors
    if "keras" not in flavours or flavours["keras"].get("save_exported_model"):
        raise ValueError(
            f"expected a model saved by mlflow.keras.log_model, got one of {', '.join(flavours)}"
        )


def read_json(run: FoundRun, name: str) -> dict[str, Any]:
    """A value that `Run.log_json` logged.

    Raises:
        UnfitError: the run has none.
        UnreachableError: it cannot be read, though it may be there.
    """
    uri = f"{run.artifact_uri}/{name}"
    if _local_path(uri):
        _fetched(uri, run, name)  # is it there?
    elif name not in with_retries(uri, lambda: _logged_files(run)):
        raise UnfitError(f"run {run.run_id} ({run.step}) has no {name}")
    value: dict[str, Any] = with_retries(uri, lambda: mlflow.artifacts.load_dict(uri))
    return value


def _logged_files(run: FoundRun) -> list[str]:
    """The names of the files that the run has logged outside of folders."""
    listed = mlflow.artifacts.list_artifacts(artifact_uri=run.artifact_uri)
    return [Path(file.path).name for file in listed]  # the path has the URI's last folder in it


def _fetched(uri: str, run: FoundRun, what: str) -> Path:
    """An artifact's local folder. It counts as missing only where the store answers that it is, or
    where the folder of all of the store's artifacts is there and the artifact's is not."""
    described = f"run {run.run_id} ({run.step})"
    local = _local_path(uri)
    if local:
        try:
            if local.exists():
                return local
            root = _folder_of_all(run)
            if not root or root.exists():
                raise UnfitError(f"{described} has no {what}")
        except OSError as error:  # `exists` raises if a folder above must not be read
            raise UnreachableError(f"{described}: its {what} cannot be read: {error}") from error
        raise UnreachableError(f"{described}: expected the artifacts in {root}, got none")
    listed = mlflow.artifacts.list_artifacts
    if not with_retries(f"{described}: its {what}", lambda: listed(artifact_uri=uri)):
        raise UnfitError(f"{described} has no {what}")
    return with_retries(f"{described}: its {what}", lambda: downloaded(uri))


def _folder_of_all(run: FoundRun) -> Path | None:
    """The folder with the artifacts of all runs of the store or, if the experiment has an artifact
    location of its own, of the experiment; None if it is not local."""
    of_run = _local_path(run.artifact_uri)  # <of all>/<experiment>/<run>/artifacts
    if of_run is None:
        return None
    of_experiment = of_run.parents[1]
    return of_experiment.parent if of_experiment.name == run.experiment_id else of_experiment


def _local_path(uri: str) -> Path | None:
    scheme = urlparse(uri).scheme
    if not scheme:  # a path, in which `#`, `?` and `%` stand for themselves
        return Path(uri)
    return Path(local_file_uri_to_path(uri)) if scheme == "file" else None


@cache
def downloaded(uri: str) -> Path:
    """A copy of an artifact, or of a logged or registered model, for as long as this process
    lives."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder.name))
