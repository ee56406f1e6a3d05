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

from kdflow.tags import ENDED_TAG, STEP_TAG, TEACHER_TAG
from kdflow.tracking import store

EXPERIMENT = "kdflow"  # kdflow's own
VIEW_TAG, DESCRIPTION_TAG = "mlflow.sharedViewState.", "mlflow.note.content"
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` listens
CHANGED = datetime(2026, 11, 28, tzinfo=UTC)  # the views


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


VAL_ACCURACY = _column("metrics", "val_accuracy")
# Widths in pixels. "Created" and "Duration" are always shown.
COLUMNS = {
    _column("attributes", "Run Name"): 315,
    VAL_ACCURACY: 100,
    _column("metrics", "test_accuracy"): 105,
    _column("params", "temp"): 60,
    _column("params", "alpha"): 65,
    _column("params", "student"): 75,
    _column("params", "teacher"): 75,
    _column("params", "dataset"): 75,
    _column("tags", TEACHER_TAG): 115,
    _column("tags", ENDED_TAG): 105,
    _column("tags", STEP_TAG): 100,
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

DESCRIPTION = (
    "Runs of kdflow: `val_accuracy` is of the validation images and is for choosing,"
    " `test_accuracy` of the test images at the end; `temp` is the temperature, `alpha` the weight"
    f" of the soft term, `{TEACHER_TAG}` the teacher. `{ENDED_TAG}` says why a run was killed:"
    " `pruned` by its sweep, or `interrupted` or `killed`, and then it can be resumed. The"
    " saved view *kdflow: best first* has the runs within `compare` and sweeps too."
)
"""Of kdflow's own experiment, as Markdown."""


def add(experiment_id: str) -> None:
    """Give an experiment the saved views, and kdflow's own its description, if it lacks them and
    the store lets it have them."""
    client = mlflow.MlflowClient()
    with contextlib.suppress(MlflowException):  # a run is not stopped for them
        experiment = client.get_experiment(experiment_id)
        lacks = {tag: view for tag, view in VIEWS.items() if experiment.tags.get(tag) != view}
        if experiment.name == EXPERIMENT and DESCRIPTION_TAG not in experiment.tags:
            lacks[DESCRIPTION_TAG] = DESCRIPTION
        for tag, value in lacks.items():
            client.set_experiment_tag(experiment_id, tag, value)


def link_or_command(experiment_id: str) -> str:
    """The link to an experiment's table, after the command that serves it if nothing does."""
    address = store.address()
    is_served = address.startswith("http")
    server = re.sub("//[^/]*@", "//", address).rstrip("/") if is_served else LOCAL
    link = f"{server}/#/experiments/{experiment_id}/runs"
    link += "?viewStateShareKey=kdflow&workflowType=machine_learning"
    return link if is_served else f"start `mlflow ui --backend-store-uri {address}` and open {link}"
