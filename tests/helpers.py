"""What the tests of whole steps share: commands, and what they record."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.entities import Run

from kdflow.__main__ import main
from kdflow.config.base import Config

if TYPE_CHECKING:
    from kdflow.reuse import Resolver

C = TypeVar("C", bound=Config)

ROOT = Path(__file__).parent.parent
DISTILL = ["distill", "--dataset", "digits", "--teacher", "pupil", "--epochs", "2"]
HINT = ["hint", "--dataset", "digits", "--teacher", "pupil", "--guided_layer", "pool1"]
HINT += ["--epochs", "2"]
needs_deploy = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_quantizer") is None, reason="needs the extra `deploy`"
)
MEASURED = {"epoch_seconds", "images_per_second", "peak_memory_mb"}


def runs() -> list[Run]:
    """The runs that are not deleted, oldest first."""
    client = mlflow.MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def made_by(argv: list[str]) -> list[Run]:
    """The runs that a command made, oldest first."""
    before = {run.info.run_id for run in runs()}
    assert main(argv) == 0
    return [run for run in runs() if run.info.run_id not in before]


def artifact(run: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def logged_table(name: str, *made: Run) -> pd.DataFrame:
    """A table that some runs of one experiment have logged, the rows of each in turn."""
    ids = [run.info.run_id for run in made]
    return mlflow.MlflowClient().load_table(made[0].info.experiment_id, name, ids)


def per_epoch(run: Run) -> dict[str, list[float]]:
    """The history of every metric that does not depend on the machine's speed."""
    client = mlflow.MlflowClient()
    return {
        name: [m.value for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name not in MEASURED
    }


@contextlib.contextmanager
def nothing_is_learned() -> Iterator[None]:
    """Trainings that end at once and keep their initial weights, with empty learning curves, and
    whose teachers may be no better than chance: for tests of what is trained and what is reused."""
    from kdflow.evaluate import chance, plots
    from kdflow.steps import training
    from kdflow.training import hint

    def fit(*_: Any, **__: Any) -> Iterator[tuple[int, dict[str, float]]]:
        yield 1, {"train_loss": 1.0, "val_loss": 1.0, "train_accuracy": 0.1, "val_accuracy": 0.1}

    def fit_hint(*_: Any, **__: Any) -> Iterator[tuple[int, dict[str, float]]]:
        yield 1, {"hint_loss": 1.0, "val_hint_loss": 1.0, "val_probe_accuracy": 0.1}

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(training, "fit", fit)
        monkeypatch.setattr(hint, "fit_hint", fit_hint)
        monkeypatch.setattr(chance, "SIGNIFICANT", 2)  # no p-value is so large
        for curves in ("learning_curves", "hint_curves"):
            monkeypatch.setattr(plots, curves, lambda *_: Figure())
        yield


def command_line(*words: str) -> list[str]:
    """A command of the environment that runs the tests."""
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def environment(folder: Path) -> dict[str, str]:
    """The variables of a process that has its tracking store in `folder`."""
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": binaries,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }


def wait_for_it(reached: Callable[[], bool]) -> None:
    for _ in range(600):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError("not reached in 30 seconds")


def wait_for(reached: Callable[[], bool], log: Path) -> None:
    for _ in range(600):
        if reached():
            return
        time.sleep(0.2)
    raise AssertionError(f"not reached in two minutes: {log.read_text()}")


def parameters(config: type[C], **values: Any) -> C:
    """The parameters of a step; mypy does not know which of them have defaults."""
    return config.model_validate(values)


def resolver(reuse: str = "any") -> Resolver:
    """What finds or plans what steps on the digits need."""
    from kdflow.reuse import Resolver
    from kdflow.steps.run import ALL_STEPS, load

    return Resolver(ALL_STEPS, load("digits", 0.1), reuse)
