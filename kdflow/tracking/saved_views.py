"""Saved views of the table that the MLflow UI shows of an experiment: they are tags of the
experiment, and a link opens one.

The names are those of MLflow 3.17's UI: of `experiment-page/models/ExperimentPageUIState.tsx`,
`ExperimentPageSearchFacetsState.tsx` and `utils/savedViewEnvelope.ts` of its source.
"""

import contextlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from kdflow.tracking import store
from kdflow.tracking.run import ENDED_TAG, TEACHER_TAG

VIEW_TAG = "mlflow.sharedViewState."
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` listens
CHANGED = datetime(2026, 11, 28, tzinfo=UTC)  # the views


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


VAL_ACCURACY = _column("metrics", "val_accuracy")
# Widths in pixels. "Created" and "Duration" are always shown.
COLUMNS = {
    _column("attributes", "Run Name"): 330,
    VAL_ACCURACY: 110,
    _column("metrics", "test_accuracy"): 110,
    _column("params", "temp"): 60,
    _column("params", "alpha"): 65,
    _column("params", "student"): 85,
    _column("params", "teacher"): 85,
    _column("tags", TEACHER_TAG): 115,
    _column("params", "dataset"): 85,
    _column("tags", "kdflow.step"): 110,
    _column("tags", ENDED_TAG): 110,
}
STATE = {
    "selectedColumns": list(COLUMNS),
    "columnOrder": list(COLUMNS),
    "columnWidths": COLUMNS,
    "chartsSearchFilter": "(train|val)_(accuracy|loss)|test_accuracy",
}


def _view(name: str, **sorting: Any) -> str:
    """A saved view as MLflow keeps it."""
    time = int(CHANGED.timestamp() * 1000)
    state = json.dumps(STATE | sorting)
    return json.dumps({"name": name, "createdAt": time, "updatedAt": time, "state": state})


VIEWS = {
    f"{VIEW_TAG}kdflow": _view("kdflow: newest first"),
    f"{VIEW_TAG}kdflow-best": _view("kdflow: best first", orderByKey=VAL_ACCURACY),
}
"""Tags that give any experiment the saved views."""

OF_KDFLOW = {
    "mlflow.note.content": (
        "Runs of kdflow. `temp` is the temperature T, `alpha` the weight of the teacher, who is in"
        f" `{TEACHER_TAG}`; `val_accuracy` is of the validation images and is for choosing,"
        " `test_accuracy` of the test images at the end. A killed run is `interrupted` or `killed`"
        f" and can be resumed, or `pruned` by its sweep: see `{ENDED_TAG}`. The views *kdflow:"
        " newest first* and *kdflow: best first* have these columns; the second one shows the runs"
        " within `compare` and sweeps too."
    ),
    "mlflow.experimentKind": "custom_model_development",
}
"""Tags of kdflow's own experiment: its description, and that it is about models."""


def add(experiment_id: str) -> None:
    """Give an experiment the saved views, if it lacks them and the store lets it have them."""
    client = mlflow.MlflowClient()
    with contextlib.suppress(MlflowException):  # a run is not stopped for them
        tags = client.get_experiment(experiment_id).tags
        for tag, view in VIEWS.items():
            if tags.get(tag) != view:
                client.set_experiment_tag(experiment_id, tag, view)


def how_to_see(experiment_id: str) -> str:
    """The link to an experiment's table, after the command that serves it if nothing does."""
    address = store.address()
    is_served = address.startswith("http")
    server = re.sub("//[^/]*@", "//", address).rstrip("/") if is_served else LOCAL
    link = f"{server}/#/experiments/{experiment_id}/runs"
    link += "?viewStateShareKey=kdflow&workflowType=machine_learning"
    return link if is_served else f"mlflow ui --backend-store-uri {address} and {link}"
