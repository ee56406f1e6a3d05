"""What is logged to an open run."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
from matplotlib.figure import Figure
from mlflow.entities import RunStatus, RunTag
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from kdflow.artifacts.unfinished import Unfinished

MODEL_NAME = "model"
FINISHED, FAILED, KILLED, RUNNING = map(
    RunStatus.to_string,
    (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED, RunStatus.RUNNING),
)


class Run:
    """An open run of this process.

    Args:
        run_id: its id.
        logged: of a run that is resumed, the last step of each metric.

    Attributes:
        status: what it ends as if nothing interrupts it.
        place: where its state is kept, for the case that it is interrupted.
    """

    def __init__(self, run_id: str, logged: Mapping[str, int] | None = None) -> None:
        self.run_id = run_id
        self.status = FINISHED
        self.place: Unfinished | None = None
        self._logged = dict(logged or {})

    def log(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log metrics, of an epoch or of the whole run; those that were logged before the run was
        interrupted are not logged twice."""
        new = {n: v for n, v in metrics.items() if (epoch or 0) > self._logged.get(n, -1)}
        mlflow.log_metrics(new, step=epoch, run_id=self.run_id)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters; those that `mlflow run` has logged already stay as they are."""
        logged = mlflow.get_run(self.run_id).data.params
        new = {name: value for name, value in params.items() if name not in logged}
        mlflow.log_params(new, run_id=self.run_id)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        described = [RunTag(name, value) for name, value in tags.items()]
        mlflow.MlflowClient().log_batch(self.run_id, tags=described)

    def log_json(self, value: Mapping[str, Any], name: str) -> None:
        mlflow.log_dict(dict(value), name, run_id=self.run_id)

    def log_table(self, table: Mapping[str, list[Any]], name: str) -> None:
        """Log columns of equal length as a table that the UI shows."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow 3.17 selects columns in pandas' old way
            mlflow.log_table(dict(table), name, run_id=self.run_id)

    def log_figure(self, figure: Figure, name: str) -> None:
        client, tight = mlflow.MlflowClient(), {"bbox_inches": "tight"}  # long legends too
        client.log_figure(self.run_id, figure, name, save_kwargs=tight)

    def log_array(self, array: np.ndarray, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            np.save(path, array, allow_pickle=False)
            mlflow.log_artifact(str(path), run_id=self.run_id)

    def log_text(self, text: str, name: str) -> None:
        mlflow.log_text(text, name, run_id=self.run_id)

    def log_folder(self, folder: Path, name: str) -> None:
        mlflow.log_artifacts(str(folder), name, run_id=self.run_id)

    def log_model(self, model: keras.Model) -> None:
        """Log a network that takes raw uint8 pixels and returns logits. The run must be the one
        that was opened last."""
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
