"""The tracking store is reached, and named without its password."""

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    CUSTOMER_UNAUTHORIZED,
    INVALID_STATE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    UNAUTHENTICATED,
)

from kdflow.errors import KdflowError, NoRoomError, UnfitError, UnreachableError
from kdflow.tracking import store


def test_a_store_that_does_not_answer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://me:secret@there")

    def refuse(**_: object) -> None:
        raise OSError("no route\nto http://me:secret@there")

    monkeypatch.setattr(mlflow, "search_experiments", refuse)
    expected = (
        r"^tracking store: .* at http://me:\*\*\*@there, got no route to http://me:\*\*\*@there$"
    )
    with pytest.raises(KdflowError, match=expected):
        store.open_store()


@pytest.mark.parametrize(
    ("error", "proves"),
    [
        (MlflowException("Run 'a' not found", RESOURCE_DOES_NOT_EXIST), UnfitError),
        (MlflowException("API request failed: 503"), UnreachableError),
        (ConnectionError("refused"), UnreachableError),
        (PermissionError(13, "Permission denied"), UnreachableError),
        (TimeoutError(), UnreachableError),
        (MlflowException("Run 'a' has ended", INVALID_STATE), KdflowError),
    ],
)
def test_only_a_store_that_says_so_proves_that_something_is_not_there(
    error: Exception, proves: type[KdflowError]
) -> None:
    assert type(store.failure("run a", error)) is proves


@pytest.mark.parametrize("code", [PERMISSION_DENIED, UNAUTHENTICATED, CUSTOMER_UNAUTHORIZED])
def test_a_store_that_denies_access_is_not_asked_again(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", "60")
    asked = []

    def call() -> None:
        asked.append(1)
        raise MlflowException("401: the token has expired", code)

    expected = r"^run a: the tracking store at .* denies access: 401: the token .* Check the creden"
    with pytest.raises(UnreachableError, match=expected):
        store.with_retries("run a", call)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), NoRoomError, "run a: .* No space left on device"),
        (ModuleNotFoundError("No module named 'boto3'"), KdflowError, "needs, got No mod"),
    ],
)
def test_what_waiting_cannot_mend_is_not_waited_for(
    error: Exception, raised: type[KdflowError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", "60")
    asked = []

    def call() -> None:
        asked.append(1)
        raise error

    with pytest.raises(raised, match=message):
        store.with_retries("run a", call)
    assert len(asked) == 1


def test_a_full_disk_of_a_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDFLOW_STORE_PATIENCE", "60")
    monkeypatch.setattr(store, "RETRY_EVERY", 0)
    full = RestException({"error_code": "INTERNAL_ERROR", "message": "No space left on device"})
    answers = iter([full, full, None])

    def call() -> str:
        if error := next(answers):
            raise error
        return "read"

    assert store.with_retries("run a", call) == "read"


def test_an_answer_of_a_server_is_not_called_silence() -> None:
    response = requests.Response()
    said = {}
    for response.status_code in (401, 413, 503):
        error = requests.HTTPError("an answer", response=response)
        assert store.is_unreachable(error)  # what is logged is kept, and delivered later
        assert store.is_denied(error) == (response.status_code == 401)
        said[response.status_code] = store.what_it_does(error)
    assert said[401].endswith("denies access (an answer)")
    assert said[413].endswith("answers with an error (an answer)")
    assert store.what_it_does(ConnectionError("refused")).endswith("does not answer (refused)")


@pytest.mark.usefixtures("shared_store")
def test_a_server_without_logged_models_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:  # as one of MLflow 2 answers
        raise mlflow.MlflowException("API request to /logged-models/search failed with 404")

    store.open_store()
    monkeypatch.setattr(mlflow.MlflowClient, "search_logged_models", fail)
    with pytest.raises(KdflowError, match=r"^tracking store: expected a working store at .* 404"):
        store.open_store()


def test_an_error_of_the_code_is_not_blamed_on_the_store() -> None:
    def call() -> None:
        raise TypeError("unexpected keyword argument")

    with pytest.raises(TypeError, match=r"^unexpected keyword argument$"):
        store.with_retries("run a", call)
