"""The tracking store is reached, and named without its password."""

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE, RESOURCE_DOES_NOT_EXIST

from kdflow.errors import KdflowError, UnfitError, UnreachableError
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


def test_an_error_of_the_code_is_not_blamed_on_the_store() -> None:
    def call() -> None:
        raise TypeError("unexpected keyword argument")

    with pytest.raises(TypeError, match=r"^unexpected keyword argument$"):
        store.with_retries("run a", call)
