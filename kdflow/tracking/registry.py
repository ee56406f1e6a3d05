"""Registered models: LiteRT files with their lineage, and which of them is the champion."""

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from kdflow.errors import KdflowError, UnreachableError, reason
from kdflow.tracking import store
from kdflow.tracking.artifacts import downloaded
from kdflow.tracking.run import Run

SERVED_NAME = "litert"
SERVED_CODE = Path(__file__).with_name("served.py")
IMAGES_PER_REQUEST = 1000
CANDIDATE, CHAMPION = "candidate", "champion"


class Version(NamedTuple):
    """A version of a registered model."""

    name: str
    number: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def log_served(run: Run, file: Path, manifest: Path, classes: int) -> None:
    """Log a LiteRT file as a model that MLflow loads and serves.

    Args:
        manifest: the `deploy.json` that describes the file.
    """
    # MLflow's message about a request that does not fit an input schema holds all pixels. So there
    # is no schema, and the model checks its input itself; see `served.py`.
    signature = ModelSignature(
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
        params=ParamSchema([ParamSpec("probabilities", DataType.boolean, False)]),
    )
    requirements = [
        f"{package}=={version(package)}" for package in ("ai-edge-litert", "numpy", "pandas")
    ]

    def save(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow asks for an example, to test the schema with
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(SERVED_CODE),
                artifacts={"file": str(file), "manifest": str(manifest)},
                signature=signature,
                pip_requirements=requirements,
            )

    run.log_saved_model(SERVED_NAME, save)


def served_file(uri: str) -> Path | None:
    """A copy of the file of a model that `log_served` logged, with its manifest beside it; None if
    there is no such model, or it is of another kind.

    Args:
        uri: `runs:/...` or `models:/...`.
    """
    try:
        flavours = mlflow.models.get_model_info(uri).flavors
    except MlflowException:
        return None
    kept = flavours.get("python_function", {}).get("artifacts", {})
    if kept.keys() != {"file", "manifest"}:
        return None
    return downloaded(uri) / Path(kept["file"]["path"])


def stored_uri(run: Run) -> str:
    """The address of the model that `log_served` logged, once the store has it.

    Raises:
        UnreachableError: the store has stopped answering.
        KdflowError: it has refused the model.
    """
    if not run.wait(store.patience(), counts_all=False):
        raise UnreachableError(
            f"register: nothing is registered, since {store.address()} does not answer"
        )
    run.check()

    def logged() -> str:
        experiment = mlflow.get_run(run.run_id).info.experiment_id
        (model,) = store.logged_models(experiment, run.run_id, SERVED_NAME)
        return str(model.model_uri)

    return store.with_retries(f"run {run.run_id}", logged)


def register(name: str, model_uri: str, run_id: str, tags: Mapping[str, str]) -> Version:
    """Make a version of the registered model `name`, which is created if need be, with the alias
    `candidate`: all of it or nothing.

    Raises:
        KdflowError: the registry refuses it or does not answer.
    """
    client = mlflow.MlflowClient()
    created, made = False, None
    try:
        if not _exists(client, name):
            client.create_registered_model(name)
            created = True
        made = client.create_model_version(name, model_uri, run_id, dict(tags))
        client.set_registered_model_alias(name, CANDIDATE, made.version)
    except BaseException as error:
        left = _remove(client, name, made, created=created)
        if isinstance(error, MlflowException):
            raise KdflowError(
                f"register: {name} cannot be registered: {reason(error)}{left}"
            ) from error
        raise
    return Version(name, str(made.version), tags)


def _remove(
    client: mlflow.MlflowClient, name: str, version: ModelVersion | None, *, created: bool
) -> str:
    """Remove what a registration that failed has made; returns what to say of what is left, since
    the registry may not answer now either."""
    try:
        if version is not None:
            client.delete_model_version(name, version.version)
        if created and not client.search_model_versions(f"name = '{name}'"):
            client.delete_registered_model(name)
    except MlflowException as error:
        what = f"version {version.version} of {name}" if version is not None else name
        return f"; {what} cannot be removed either ({reason(error)}): delete it yourself"
    return ""


def champion(name: str) -> Version | None:
    """The version with the alias `champion`, None if there is none."""
    client = mlflow.MlflowClient()
    if not _exists(client, name):
        return None
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    if number is None:
        return None
    return Version(name, str(number), client.get_model_version(name, str(number)).tags)


def promote(candidate: Version) -> None:
    """Give a version the alias `champion`."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(candidate.name, CHAMPION, candidate.number)


def answers(model: Version, images: np.ndarray) -> np.ndarray:
    """The logits of a registered file, (images, classes).

    Raises:
        KdflowError: it cannot be loaded, or does not take these images.
    """
    starts = range(0, len(images), IMAGES_PER_REQUEST)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{model.name}/{model.number}")
        parts = [loaded.predict(images[start : start + IMAGES_PER_REQUEST]) for start in starts]
    except Exception as error:  # a damaged model can fail in any way
        raise KdflowError(f"promote: {model} cannot be loaded or run: {reason(error)}") from error
    return np.concatenate(parts)


def _exists(client: mlflow.MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return False
        raise KdflowError(f"register: the registry cannot be read: {reason(error)}") from error
    return True
