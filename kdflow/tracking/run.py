"""What is logged to an open run: everything goes to its journal, and from there to the store."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import RunStatus
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS
from mlflow.utils.time import get_current_time_millis

from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.tags import ENDED_TAG
from kdflow.tracking import journal, store
from kdflow.tracking.delivery import DELIVERY

MODEL_NAME = "model"
INTERRUPTED, PRUNED = "interrupted", "pruned"
DIED = "killed"  # the process of the run was killed
FINISHED, FAILED, KILLED, RUNNING = map(
    RunStatus.to_string,
    (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED, RunStatus.RUNNING),
)


class Run:
    """An open run.

    Args:
        run_id: its id.
        logged: of a run that is resumed, the last step of each metric.
        ends_run: whether this process ends it, or another one that has it open.

    Attributes:
        checkpoint: where its state is kept, for the case that it is interrupted.
    """

    def __init__(
        self, run_id: str, logged: Mapping[str, int] | None = None, *, ends_run: bool = True
    ) -> None:
        self.run_id = run_id
        self._status = FINISHED
        self.checkpoint: Checkpoint | None = None
        self._logged = dict(logged or {})
        self._tables: list[dict[str, str]] = []
        self._ends_run = ends_run
        self._journal = journal.new(run_id, store.address(), ends_run=ends_run)
        DELIVERY.begin(self._journal)

    def log(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log metrics, of an epoch or of the whole run; those that were logged before the run was
        interrupted are not logged twice."""
        new = {n: float(v) for n, v in metrics.items() if (epoch or 0) > self._logged.get(n, -1)}
        self._add("metrics", values=new, step=epoch or 0, timestamp=get_current_time_millis())

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters; those that `mlflow run` has logged already stay as they are."""
        self._add("params", **params)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, in place of those of the same names."""
        self._add("tags", **tags)

    def log_dataset(self, dataset: Dataset) -> None:
        """Log which images the run is trained on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # integer columns "may have missing values": not these
            described = mlflow.data.from_numpy(
                # of the images, MLflow records type and shape alone
                np.broadcast_to(np.uint8(0), dataset.x_train.shape),
                targets=dataset.y_train,
                name=dataset.short_name,
                digest=dataset.digest[:36],
            ).to_dict()
        self._add("dataset", **described)

    def log_json(self, value: Mapping[str, Any], name: str) -> None:
        """Log a file of JSON. Like every file and folder, it takes the place of one of that
        name."""
        self.log_text(json.dumps(dict(value), indent=2), name)

    def log_table(self, table: Mapping[str, list[Any]], name: str) -> None:
        """Log columns of equal length as a table that the UI shows."""
        frame = pd.DataFrame(dict(table))
        self.log_text(frame.to_json(orient="split", index=False, date_format="iso"), name)
        self._tables.append({"path": name, "type": "table"})
        self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps(self._tables)})

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a picture, in the format of the name's suffix."""
        with self._journal.new_files() as folder:
            figure.savefig(folder / name, bbox_inches="tight")  # long legends too
        self._add("files", folder=None)

    def log_array(self, array: np.ndarray, name: str) -> None:
        """Log an array as an `.npy` file."""
        with self._journal.new_files() as folder:
            np.save(folder / name, array, allow_pickle=False)
        self._add("files", folder=None)

    def log_text(self, text: str, name: str) -> None:
        """Log a text file in UTF-8."""
        with self._journal.new_files() as folder:
            (folder / name).write_text(text, encoding="utf-8")
        self._add("files", folder=None)

    def log_folder(self, folder: Path, name: str) -> None:
        """Log a copy of what a folder holds, in the run's folder `name`."""
        with self._journal.new_files() as kept:
            shutil.copytree(folder, kept, dirs_exist_ok=True)
        self._add("files", folder=name)

    def log_model(self, model: keras.Model, class_names: Sequence[str]) -> None:
        """Log a network that takes raw uint8 pixels and returns logits.

        Args:
            class_names: in the order of the logits; they go into the model's metadata.
        """
        inputs = TensorSpec(np.dtype(np.uint8), (-1, *model.input_shape[1:]))
        outputs = TensorSpec(np.dtype(np.float32), (-1, *model.output_shape[1:]))
        self.log_saved_model(
            MODEL_NAME,
            lambda folder: mlflow.keras.save_model(
                model,
                str(folder),
                signature=ModelSignature(Schema([inputs]), Schema([outputs])),
                metadata={"class_names": list(class_names)},
                pip_requirements=[
                    f"{package}=={version(package)}"
                    for package in ("keras", keras.backend.backend(), "numpy")
                ],
            ),
        )

    def log_saved_model(self, name: str, save: Callable[[Path], None]) -> None:
        """Log the MLflow model that `save` writes into an empty folder."""
        with self._journal.new_files() as folder:
            save(folder)
        self._add("model", name=name)

    def stop(self, why: str) -> None:
        """Let the run end as KILLED, with this reason in its tags."""
        self._status = KILLED
        if self._ends_run:
            self._put("tags", {ENDED_TAG: why})

    def fail(self) -> None:
        """Let the run end as FAILED."""
        self._status = FAILED

    def end(self, patience: float) -> bool:
        """End the run, as FINISHED if it was not stopped and has not failed, and wait until the
        store has all that was logged; returns whether it has.

        Args:
            patience: the seconds after which what the store does not have is left on disk.

        Raises:
            NoRoomError: the disk is full; a later command, or `sync`, ends the run as KILLED.
        """
        is_whole = False
        try:
            if self._ends_run:
                ended = {"status": self._status, "timestamp": get_current_time_millis()}
                self._put("status", ended)
            is_whole = True
        finally:
            DELIVERY.end(self._journal, is_whole=is_whole)
        return self.wait(patience)

    def wait(self, patience: float, *, counts_all: bool = True) -> bool:
        """Wait until the store has all that has been logged to the run; see `Delivery.wait`."""
        return DELIVERY.wait(self._journal, patience, counts_all=counts_all)

    def give_up(self) -> str:
        """Leave on disk what the store does not have; returns what to do about it."""
        return (
            f"tracking store: {DELIVERY.give_up()}; all that run {self.run_id} logged is kept, and"
            " `python -m kdflow sync` delivers it later"
        )

    def check(self) -> None:
        """Refuse to go on if the store has refused something that was logged.

        Raises:
            KdflowError: says why, once.
        """
        if why := self._journal.rejected:
            self._journal.rejected = ""
            raise KdflowError(f"tracking store: it rejected what run {self.run_id} logged: {why}")

    def _add(self, kind: str, **content: Any) -> None:
        self.check()
        self._put(kind, content)

    def _put(self, kind: str, content: dict[str, Any]) -> None:
        DELIVERY.put(self._journal, self._journal.add(kind, content))
