"""What cannot be read may be intact: the step stops, and nothing is trained or exported instead."""

import errno
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import DISTILL, resolver, runs
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from kdflow.__main__ import main
from kdflow.errors import UnreachableError
from kdflow.needs import LayersOf, LogitsOf, ModelOf, training
from kdflow.tracking import artifacts, find

pytestmark = pytest.mark.usefixtures("all_untrained", "shared_store", "cache")

EXPORT = ["export_logits", "--dataset", "digits", "--model", "pupil"]
NO_ANSWER = MlflowException("API request failed: connection refused")
DENIED = PermissionError(errno.EACCES, "Permission denied")
BROKEN = OSError(errno.EIO, "Input/output error")
AWAY = ConnectionError("the server is gone")


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def stored_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the artifacts were on a server: nothing is read in place."""
    monkeypatch.setattr(artifacts, "_local_path", lambda uri: None)


def no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    stored_elsewhere(monkeypatch)
    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", failing(AWAY))


def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    stored_elsewhere(monkeypatch)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", failing(AWAY))


def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", failing(NO_ANSWER))


def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the store has been opened, which looks for models too."""
    search, calls = mlflow.MlflowClient.search_logged_models, itertools.count()

    def after_the_first(*given: Any, **named: Any) -> Any:
        if next(calls):
            raise NO_ANSWER
        return search(*given, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "search_logged_models", after_the_first)


def denied_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.lib.format, "open_memmap", failing(DENIED))


def refusing(method: str, suffix: str, error: OSError) -> Callable[[pytest.MonkeyPatch], None]:
    """`Path.method` fails on paths with that ending."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(Path, method)

        def sometimes(self: Path, *args: Any, **options: Any) -> Any:
            if str(self).endswith(suffix):
                raise error
            return real(self, *args, **options)

        monkeypatch.setattr(Path, method, sometimes)

    return patch


@pytest.mark.parametrize(
    ("argv", "breaks"),
    [
        pytest.param(DISTILL, no_search, id="runs are searched"),
        pytest.param(DISTILL, no_listing, id="logits are listed"),
        pytest.param(DISTILL, no_download, id="logits are downloaded"),
        pytest.param(DISTILL, denied_array, id="logits are read"),
        pytest.param(DISTILL, refusing("read_text", "manifest.json", BROKEN), id="a manifest"),
        pytest.param(DISTILL, refusing("exists", "/artifacts/logits", DENIED), id="a folder"),
        pytest.param(EXPORT, no_models, id="models are searched"),
        pytest.param(EXPORT, no_listing, id="a model is listed"),
        pytest.param(EXPORT, no_download, id="a model is downloaded"),
        pytest.param(EXPORT, refusing("read_bytes", ".keras", BROKEN), id="a model is read"),
    ],
)
def test_a_step_stops_in_one_line_where_what_it_needs_cannot_be_read(
    argv: list[str],
    breaks: Callable[[pytest.MonkeyPatch], None],
    first: list[Run],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [run.info.run_id for run in runs()]
    artifacts.downloaded.cache_clear()
    with pytest.MonkeyPatch.context() as monkeypatch:
        breaks(monkeypatch)
        assert main(argv) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"kdflow {argv[0]}: ")
    assert "cannot be read" in shown.err
    assert shown.err.count("\n") == 1
    assert "plan:" not in shown.out
    assert [run.info.run_id for run in runs()] == before


def test_a_disk_that_is_not_mounted_is_not_an_empty_one(
    first: list[Run], shared_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(runs())
    (shared_store / "mlruns").rename(shared_store / "away")
    try:
        assert main(DISTILL) == 1
        assert main(EXPORT) == 1
    finally:
        (shared_store / "away").rename(shared_store / "mlruns")
    expected = f"expected the artifacts in {shared_store}/mlruns, got none\n"
    assert capsys.readouterr().err.count(expected) == 2
    assert len(runs()) == before


def test_a_run_named_by_its_id_in_a_store_that_does_not_answer(
    exported: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # and not that there is no such run
    monkeypatch.setattr(mlflow, "get_run", failing(NO_ANSWER))
    for need in (
        LogitsOf(exported.info.run_id, 0.1),
        ModelOf(exported.info.run_id, 0.1),
        LayersOf(exported.info.run_id, "student", "pupil", 0.1),
    ):
        with pytest.raises(
            UnreachableError, match=r"cannot be read: .* connection refused\. It may be"
        ):
            resolver().plan(need)


def test_a_training_to_compare_with_that_cannot_be_read_is_not_trained_again(
    first: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = training("distill", dataset="digits", teacher="pupil", epochs=2, temp=8)
    monkeypatch.setattr(mlflow.MlflowClient, "search_logged_models", failing(NO_ANSWER))
    with pytest.raises(UnreachableError, match="connection refused"):
        resolver().plan(distillation)


def test_a_silent_store_ends_the_look_for_unfinished_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # taken for a run that is gone, its kept state would be cleared
    def silent(run_id: str) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(mlflow, "get_run", silent)
    with pytest.raises(UnreachableError, match=r"connection refused"):
        find.is_unfinished("a" * 32)
