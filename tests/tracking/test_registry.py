"""A version is registered whole or not at all."""

import mlflow
import pytest

from kdflow.errors import KdflowError
from kdflow.tracking.registry import Version, champion, promote, register

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def run_id() -> str:
    return str(mlflow.MlflowClient().create_run("0").info.run_id)


def names() -> list[str]:
    return [model.name for model in mlflow.MlflowClient().search_registered_models()]


def test_versions_count_up_and_the_last_is_the_candidate(run_id: str) -> None:
    for number in ("1", "2"):
        version = register("flowers", f"runs:/{run_id}/litert", run_id, {"of": number})
        assert version == Version("flowers", number, {"of": number})
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias("flowers", "candidate").tags == {"of": "2"}
    assert champion("flowers") is None


def test_the_champion_is_the_one_that_was_promoted(run_id: str) -> None:
    assert champion("flowers") is None
    first, _ = (register("flowers", "runs:/x/litert", run_id, {"of": each}) for each in "ab")
    promote(first)
    assert champion("flowers") == Version("flowers", "1", {"of": "a"})


@pytest.mark.parametrize("failing", ["create_model_version", "set_registered_model_alias"])
@pytest.mark.parametrize("error", [mlflow.MlflowException("no\nroom"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_is_left_of_a_registration_that_fails(
    failing: str,
    error: BaseException,
    is_new: bool,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_new:
        register("flowers", "runs:/x/litert", run_id, {})

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(mlflow.MlflowClient, failing, fail)
    expected = KdflowError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        register("flowers", "runs:/x/litert", run_id, {})
    if expected is KdflowError:
        assert str(raised.value) == "register: flowers cannot be registered: no room"
    assert names() == ([] if is_new else ["flowers"])
    versions = mlflow.MlflowClient().search_model_versions("name = 'flowers'")
    assert [version.version for version in versions] == ([] if is_new else [1])


def test_what_cannot_be_removed_after_a_failure_is_named(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("gone")

    for call in ("set_registered_model_alias", "delete_model_version"):
        monkeypatch.setattr(mlflow.MlflowClient, call, fail)
    expected = (
        r"registered: gone; version 1 of flowers cannot be removed either \(gone\): delete it"
    )
    with pytest.raises(KdflowError, match=expected):
        register("flowers", "runs:/x/litert", run_id, {})


def test_a_version_that_another_process_has_made_meanwhile_stays(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = mlflow.MlflowClient.create_model_version

    def made_by_another(client: mlflow.MlflowClient, name: str, uri: str, *_: object) -> None:
        create(client, name, uri, run_id, {"of": "the other"})
        raise mlflow.MlflowException("no room")

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", made_by_another)
    with pytest.raises(KdflowError, match="register: flowers cannot be registered: no room"):
        register("flowers", "runs:/x/litert", run_id, {})
    (version,) = mlflow.MlflowClient().search_model_versions("name = 'flowers'")
    assert version.tags == {"of": "the other"}
