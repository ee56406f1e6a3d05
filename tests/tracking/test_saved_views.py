"""The table of an experiment has the columns that a user compares runs by."""

import json
from pathlib import Path

import mlflow
import pytest
from helpers import parameters

from kdflow.steps.distill import DistillConfig
from kdflow.tracking import saved_views

UI = Path(mlflow.__file__).parent / "server/js/build/static/js"
SHOWN = {
    "metrics": ["val_accuracy", "test_accuracy"],
    "params": ["temp", "alpha", "student", "teacher", "dataset"],
    "tags": ["kdflow.teacher", "kdflow.step", "kdflow.ended"],
}


@pytest.fixture(scope="module")
def ui() -> str:
    """The code of the MLflow UI that shows experiments."""
    return "".join(path.read_text(encoding="utf-8") for path in UI.glob("*.js"))


def decoded(key: str) -> tuple[str, dict[str, object]]:
    """The name and the state of a saved view."""
    saved = json.loads(saved_views.VIEWS[f"mlflow.sharedViewState.{key}"])
    assert saved["createdAt"] == saved["updatedAt"] == 1795824000000  # 2026-11-28
    return saved["name"], json.loads(saved["state"])


def test_a_saved_view_has_the_columns_that_runs_are_compared_by() -> None:
    name, state = decoded("kdflow")
    assert name == "kdflow: newest first"
    columns = ["attributes.`Run Name`"]
    columns += [f"{kind}.`{name}`" for kind in ("metrics", "params") for name in SHOWN[kind]]
    tags = [f"tags.`{name}`" for name in SHOWN["tags"]]
    assert isinstance(state["selectedColumns"], list)
    assert sorted(state["selectedColumns"]) == sorted(columns + tags)
    assert state["columnOrder"] == state["selectedColumns"]
    assert isinstance(state["columnWidths"], dict)
    assert state["columnWidths"].keys() == set(columns + tags)
    assert set(SHOWN["params"]) <= parameters(DistillConfig).used().keys()
    assert "orderByKey" not in state  # MLflow's own: newest first, children under their parents


def test_the_description_says_what_the_columns_mean() -> None:
    shown = [*SHOWN["metrics"], "temp", "alpha", "kdflow.teacher", "kdflow.ended"]
    assert all(f"`{name}`" in saved_views.DESCRIPTION for name in shown)
    for ended in ("pruned", "interrupted", "killed"):
        assert f"`{ended}`" in saved_views.DESCRIPTION


def test_another_view_has_the_best_runs_first() -> None:
    name, state = decoded("kdflow-best")
    assert name == "kdflow: best first"
    assert state.pop("orderByKey") == "metrics.`val_accuracy`"
    assert state == decoded("kdflow")[1]


def test_the_ui_of_the_installed_mlflow_knows_what_a_view_is_made_of(ui: str) -> None:
    state = decoded("kdflow-best")[1]
    assert '"selectedColumns","columnOrder","columnWidths",' in ui
    for name in (*state, "mlflow.sharedViewState.", "viewStateShareKey", "workflowType"):
        assert f'"{name}"' in ui, name
    assert '"machine_learning"' in ui
    assert '"/experiments/:experimentId/:tabName"' in ui


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@there.org/mlflow/", "https://there.org/mlflow/#"),
        (
            "postgresql://me:secret@db/x",
            "start `mlflow ui --backend-store-uri postgresql://me:***@db/x` and open http://127.0.0.1:5000/#",
        ),
        (
            "sqlite:///mlflow.db",
            f"start `mlflow ui --backend-store-uri sqlite:///{Path.cwd()}/mlflow.db` and open"
            " http://127.0.0.1:5000/#",
        ),
    ],
)
def test_the_link_opens_the_view_and_shows_no_password(
    uri: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    rest = "/experiments/7/runs?viewStateShareKey=kdflow&workflowType=machine_learning"
    assert saved_views.link_or_command("7") == shown + rest
