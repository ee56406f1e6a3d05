"""The tracking store: open runs, log to them, find what earlier runs made.

The only module that imports mlflow.
"""

import atexit
import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import keras
import mlflow
import numpy as np
from matplotlib.figure import Figure
from mlflow.entities import LifecycleStage, Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from kdflow import interrupts
from kdflow.data import Dataset
from kdflow.errors import KdflowError, Stopped

LOGITS_FOLDER = "logits"
MODEL_NAME = "model"

SOURCES = "auto, a network's name, a run id or a folder of logits"

CODE_TAG = "kdflow.code_sha256"


@dataclass(frozen=True)
class FoundRun:
    """A finished run of this project."""

    run_id: str
    step: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    artifact_uri: str


@dataclass(frozen=True)
class _Outer:
    """The run that the next one is opened inside, and the tags that it will carry."""

    run_id: str
    experiment_id: str
    tags: Mapping[str, str]


_OUTER: ContextVar[_Outer | None] = ContextVar("outer", default=None)


def open_store() -> None:
    """Reach the tracking store, which is created if it is a new local one.

    Raises:
        KdflowError: it does not answer.
    """
    try:
        with interrupts.held_back():  # MLflow refuses a store whose tables are half made
            mlflow.search_experiments(max_results=1)
    except Exception as error:  # a driver may be missing, a server silent, a folder read-only
        reason = _without_password(" ".join(str(error).split()))
        raise KdflowError(
            f"tracking store: expected one that answers at {store_address()}, got {reason}"
        ) from error


def run_key(
    step: str, params: Mapping[str, Any], dataset_digest: str, upstream: Mapping[str, str]
) -> str:
    """What a step's result depends on, as a SHA-256: equal keys mean interchangeable runs.

    Args:
        params: typed values, without those that `upstream` or the digest stand for.
        upstream: the run id of each role that the step builds on.
    """
    described = [step, dict(params), dataset_digest, dict(upstream)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def open_run(name: str, step: str, dataset: Dataset, *, child: bool = False) -> Iterator[str]:
    """A run that is open inside the block; yields its id. It ends FINISHED, KILLED on an interrupt
    or if it is given up, or FAILED.

    The first run of the process joins the one that `mlflow run` opened, if it did.

    Args:
        child: of the run that is open. Without it, a run opened inside another one is a run of its
            own, which knows who asked for it.
    """
    tags = {
        "kdflow.step": step,
        "kdflow.dataset_digest": dataset.digest,
        CODE_TAG: code_sha256(),
    }
    outer = _OUTER.get() or _active()
    if outer is None:
        run = _start_run(name, tags)
    else:
        tags["mlflow.parentRunId" if child else "kdflow.asked_by"] = outer.run_id
        created = mlflow.MlflowClient().create_run(
            outer.experiment_id, tags=resolve_tags({**tags, **outer.tags}), run_name=name
        )
        run = mlflow.start_run(run_id=created.info.run_id, nested=True)
    with _until_ended():
        _log_dataset(dataset)
        yield run.info.run_id


@contextlib.contextmanager
def reopened(run_id: str) -> Iterator[None]:
    """An earlier run, open again inside the block; it ends as one of `open_run` does."""
    mlflow.start_run(run_id=run_id, nested=True)
    with _until_ended():
        yield


@contextlib.contextmanager
def inside(run_id: str, tags: Mapping[str, str]) -> Iterator[None]:
    """Whatever run is opened directly in the block is opened inside `run_id`, which this process or
    another one has open, and carries `tags` from its first moment on."""
    experiment = mlflow.get_run(run_id).info.experiment_id
    token = _OUTER.set(_Outer(run_id, experiment, tags))
    try:
        yield
    finally:
        _OUTER.reset(token)


@contextlib.contextmanager
def _until_ended() -> Iterator[None]:
    """The run that was just started, until it ends with the status that it deserves."""
    token = _OUTER.set(None)  # what is opened from here on is inside this run
    status = RunStatus.FAILED
    try:
        yield
        status = RunStatus.FINISHED
    except (KeyboardInterrupt, Stopped):
        status = RunStatus.KILLED
        raise
    finally:
        _OUTER.reset(token)
        mlflow.end_run(RunStatus.to_string(status))


def _active() -> _Outer | None:
    run = mlflow.active_run()
    return _Outer(run.info.run_id, run.info.experiment_id, {}) if run else None


def end_abandoned(parent: str, tags: Mapping[str, str]) -> None:
    """Mark FAILED the children of `parent` that carry `tags` and are RUNNING, though nobody runs
    them any more, and what they had open themselves."""
    client = mlflow.MlflowClient()
    running = client.search_runs(
        [client.get_run(parent).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'",
    )
    for run in running:
        if tags.items() <= run.data.tags.items():
            end_abandoned(run.info.run_id, {})
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FAILED))


def correct_to_killed(run_id: str, patience: float = 60) -> None:
    """Wait until the run is marked FAILED, and make it KILLED.

    Args:
        patience: seconds after which it is left as it is.
    """
    client = mlflow.MlflowClient()
    give_up = time.monotonic() + patience
    while client.get_run(run_id).info.status != RunStatus.to_string(RunStatus.FAILED):
        if time.monotonic() > give_up:
            return
        time.sleep(0.1)
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def log_params(params: Mapping[str, str]) -> None:
    """Log parameters on the open run; those that `mlflow run` logged already stay as they are."""
    run_id = mlflow.active_run().info.run_id
    logged = mlflow.get_run(run_id).data.params
    mlflow.log_params({name: value for name, value in params.items() if name not in logged})


def log_metrics(metrics: Mapping[str, float], epoch: int | None = None) -> None:
    mlflow.log_metrics(dict(metrics), step=epoch)


def set_tags(tags: Mapping[str, str]) -> None:
    mlflow.set_tags(dict(tags))


def log_json(value: Mapping[str, Any], name: str) -> None:
    mlflow.log_dict(dict(value), name)


def log_table(table: Mapping[str, list[Any]], name: str) -> None:
    """Log columns of equal length as a table that the UI shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow 3.17 selects columns in pandas' old way
        mlflow.log_table(dict(table), name)


def log_figure(figure: Figure, name: str) -> None:
    mlflow.log_figure(figure, name, save_kwargs={"bbox_inches": "tight"})  # long legends too


def log_array(array: np.ndarray, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        np.save(path, array, allow_pickle=False)
        mlflow.log_artifact(str(path))


def log_text(text: str, name: str) -> None:
    mlflow.log_text(text, name)


def log_folder(folder: Path, name: str) -> None:
    mlflow.log_artifacts(str(folder), name)


def log_model(model: keras.Model) -> None:
    """Log a network that takes raw uint8 pixels and returns logits."""
    inputs = TensorSpec(np.dtype(np.uint8), (-1, *model.input_shape[1:]))
    outputs = TensorSpec(np.dtype(np.float32), (-1, *model.output_shape[1:]))
    mlflow.keras.log_model(
        model,
        name=MODEL_NAME,
        signature=ModelSignature(Schema([inputs]), Schema([outputs])),
        pip_requirements=[
            f"{package}=={version(package)}"
            for package in ("keras", keras.backend.backend(), "numpy")
        ],
    )


def find_runs(key: str) -> list[FoundRun]:
    """The finished runs with this key, in any experiment, oldest first."""
    experiments = [
        e.experiment_id for e in mlflow.search_experiments(view_type=ViewType.ACTIVE_ONLY)
    ]
    runs = mlflow.MlflowClient().search_runs(
        experiments,
        filter_string=f"tags.`kdflow.key` = '{key}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
    )
    return [_found(run) for run in runs]


def get_run(run_id: str, expected: str = SOURCES) -> FoundRun:
    """The finished run of this project called `run_id`.

    Args:
        expected: all that could have been named, for the message.

    Raises:
        KdflowError: there is none, it is not FINISHED, or no step of this project made it.
    """
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise KdflowError(
            f"expected {expected}; got {run_id!r}, and {store_address()} has no such run"
        ) from error
    if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
        raise KdflowError(f"expected a FINISHED run, got {run_id}, which is {run.info.status}")
    if "kdflow.step" not in run.data.tags:
        raise KdflowError(f"expected a run of kdflow, got {run_id}, which has no kdflow.step tag")
    return _found(run)


def logits_folder(run: FoundRun) -> Path:
    """The run's logit artifact as a local folder: in place where the store is on this machine, else
    downloaded for as long as this process lives."""
    uri = f"{run.artifact_uri}/{LOGITS_FOLDER}"
    is_local = urlparse(uri).scheme in ("", "file")
    try:
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=None if is_local else _downloads()
            )
        )
    except (MlflowException, OSError) as error:
        raise KdflowError(f"run {run.run_id} ({run.step}) has no logits") from error


def load_model(run: FoundRun) -> keras.Model:
    """The Keras model that the run logged."""
    try:
        return load_keras(f"runs:/{run.run_id}/{MODEL_NAME}")
    except KdflowError as error:
        raise KdflowError(f"run {run.run_id} ({run.step}): {error}") from error


def load_keras(source: str) -> keras.Model:
    """The Keras model kept at `source`: a `.keras` file, or a logged or registered MLflow model.

    Raises:
        KdflowError: there is none, it is damaged, or it carries code, which is never run.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            if source.endswith(".keras"):
                model = keras.saving.load_model(source, compile=False, safe_mode=True)
            else:
                _check_flavour(source)
                options = {"compile": False, "safe_mode": True}
                model = mlflow.keras.load_model(source, folder, load_model_kwargs=options)
        except Exception as error:  # a missing or damaged file fails in many ways
            reason = " ".join(str(error).split())
            raise KdflowError(f"no model can be loaded from {source}: {reason}") from error
    if not isinstance(model, keras.Model):
        raise KdflowError(f"expected a Keras model in {source}, got a {type(model).__name__}")
    return model


def _check_flavour(source: str) -> None:
    flavours = mlflow.models.get_model_info(source).flavors
    if "keras" not in flavours or flavours["keras"].get("save_exported_model"):
        raise ValueError(
            f"expected a model saved by mlflow.keras.log_model, got one of {', '.join(flavours)}"
        )


def read_json(run: FoundRun, name: str) -> dict[str, Any]:
    """A value that `log_json` logged."""
    value: dict[str, Any] = mlflow.artifacts.load_dict(f"{run.artifact_uri}/{name}")
    return value


def other_commit(run: FoundRun) -> str:
    """A remark on the code that made `run`, empty if it is what runs now: the git commit, or that
    some of kdflow has been edited since."""
    made_by, running = (tags.get("mlflow.source.git.commit") for tags in (run.tags, resolve_tags()))
    if made_by and running and made_by != running:
        return f" (made by commit {made_by[:8]}; this is {running[:8]})"
    if run.tags.get(CODE_TAG, code_sha256()) != code_sha256():
        return " (made by kdflow before it was edited)"
    return ""


@cache
def code_sha256() -> str:
    """What names the sources of kdflow, whether committed or not."""
    package = Path(__file__).parent
    sources = {str(path.relative_to(package)): path for path in package.rglob("*.py")}
    described = [[name, sources[name].read_text(encoding="utf-8")] for name in sorted(sources)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def how_to_see() -> str:
    """The command or address that shows the runs in the MLflow UI."""
    uri = store_address()
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def store_address() -> str:
    """The tracking URI, fit to be shown."""
    return _without_password(mlflow.get_tracking_uri())


def _without_password(text: str) -> str:
    password = urlparse(mlflow.get_tracking_uri()).password
    return text.replace(f":{password}@", ":***@") if password else text


def store_uri() -> str:
    """The tracking URI as another process needs it, with its password."""
    return str(mlflow.get_tracking_uri())


def exists(run_id: str) -> bool:
    """Whether the store has a run of this id, which is not deleted."""
    try:
        found: bool = mlflow.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE
    except MlflowException:
        return False
    return found


def _start_run(name: str, tags: dict[str, str]) -> Run:
    """A new run, or the one that MLFLOW_RUN_ID names, as the active one."""
    try:
        return mlflow.start_run(run_name=name, tags=tags)
    except MlflowException as error:  # MLFLOW_RUN_ID or an experiment's name may lead nowhere
        raise KdflowError(f"tracking store: no run can be opened: {error}") from error


def _found(run: Run) -> FoundRun:
    data = run.data
    return FoundRun(
        run.info.run_id,
        data.tags["kdflow.step"],
        data.params,
        data.tags,
        data.metrics,
        run.info.artifact_uri,
    )


def _downloads() -> str:
    """A new folder that is removed when the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


def _log_dataset(dataset: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integer columns "may have missing values": these don't
        described = mlflow.data.from_numpy(
            dataset.x_train,
            targets=dataset.y_train,
            name=Path(dataset.name).name,
            digest=dataset.digest[:36],
        )
    mlflow.log_input(described, context="training")


logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
