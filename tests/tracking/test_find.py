"""Finished runs are found by their tags and by their ids."""

from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, UnreachableError
from kdflow.tags import CODE_TAG
from kdflow.tracking import find
from kdflow.tracking.find import FoundRun, exists, find_runs, get_run, other_code
from kdflow.tracking.runs import open_run

pytestmark = pytest.mark.usefixtures("shared_store")


def run_with_key(tiny: Dataset, key: str) -> str:
    with open_run(key, "teacher", tiny, {"kdflow.key": key}) as run:
        pass
    return run.run_id


def test_runs_are_found_by_tags_when_finished_in_any_experiment_oldest_first(
    tiny: Dataset,
) -> None:
    made = []
    for experiment in ("one", "two"):
        mlflow.set_experiment(experiment)
        made.append(run_with_key(tiny, "wanted"))
    mlflow.MlflowClient().set_terminated(run_with_key(tiny, "wanted"), "FAILED")
    run_with_key(tiny, "another")
    mlflow.set_experiment(experiment_id="0")
    assert [run.run_id for run in find_runs({"kdflow.key": "wanted"})] == made
    both = {"kdflow.key": "wanted", "kdflow.step": "teacher"}
    assert [run.run_id for run in find_runs(both)] == made
    assert find_runs({"kdflow.key": "wanted", "kdflow.step": "distill"}) == []
    assert find_runs({"kdflow.key": "unheard of"}) == []


def test_runs_are_found_however_many_the_store_gives_at_once(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [run_with_key(tiny, "one of many") for _ in range(3)]
    searched = SqlAlchemyStore.search_runs

    def two_at_a_time(self: SqlAlchemyStore, **given: Any) -> Any:
        return searched(self, **given | {"max_results": 2})

    monkeypatch.setattr(SqlAlchemyStore, "search_runs", two_at_a_time)
    assert [run.run_id for run in find_runs({"kdflow.key": "one of many"})] == made


def test_deleted_runs_are_not_found_and_refused_by_name(tiny: Dataset) -> None:
    kept, deleted = (run_with_key(tiny, "deletable") for _ in range(2))
    mlflow.MlflowClient().delete_run(deleted)
    assert [run.run_id for run in find_runs({"kdflow.key": "deletable"})] == [kept]
    with pytest.raises(KdflowError, match=f"not deleted, got {deleted}, which is deleted"):
        get_run(deleted)
    assert [exists(kept), exists(deleted), exists("nonsense")] == [True, False, False]


def test_a_run_that_cannot_be_built_on_is_refused(tiny: Dataset) -> None:
    with pytest.raises(KdflowError, match=r"^expected auto.* got 'nonsense'"):
        get_run("nonsense")
    with (
        open_run("still going", "teacher", tiny, {}) as running,
        pytest.raises(KdflowError, match=f"FINISHED run, got {running.run_id}, which is RUNNING"),
    ):
        get_run(running.run_id)
    with mlflow.start_run() as foreign:
        pass
    with pytest.raises(KdflowError, match=r"has no kdflow.step tag"):
        get_run(foreign.info.run_id)


def test_a_store_that_does_not_answer_is_not_one_without_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("API request to http://there failed\nwith 503")

    monkeypatch.setattr(mlflow, "get_run", refuse)
    monkeypatch.setattr(mlflow, "search_experiments", refuse)
    for read in (lambda: get_run("a"), lambda: exists("a"), lambda: find_runs({"kdflow.key": "a"})):
        with pytest.raises(
            UnreachableError, match=r"cannot be read: .*http://there failed with 503"
        ):
            read()


@pytest.fixture
def commit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "resolve_tags", lambda: {"mlflow.source.git.commit": "b" * 40})


def made(commit: str, code: str) -> FoundRun:
    tags = {"mlflow.source.git.commit": commit, CODE_TAG: code}
    return FoundRun("id", "0", "teacher", {}, tags, {}, "", 0)


@pytest.mark.usefixtures("commit_b")
def test_another_commit_is_reported_and_the_same_one_is_not() -> None:
    assert other_code(made("b" * 40, "same"), "same") == ""
    expected = " (made by commit aaaaaaaa; this is bbbbbbbb)"
    assert other_code(made("a" * 40, "same"), "same") == expected


@pytest.mark.usefixtures("commit_b")
def test_an_edit_that_nobody_has_committed_is_reported() -> None:
    edited = " (made by kdflow before it was edited)"
    assert other_code(made("b" * 40, "before"), "now") == edited
