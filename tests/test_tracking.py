import hashlib
import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from kdflow import tracking
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate import predict_logits
from kdflow.models import build, weights_sha256
from kdflow.tracking import FoundRun, find_runs, get_run, open_run, run_key


@pytest.fixture(autouse=True)
def _in_a_shared_store(shared_store: Path) -> None:
    """None of these tests needs the store empty."""


def status(run_id: str) -> str:
    return str(mlflow.get_run(run_id).info.status)


def test_a_key_is_the_hash_of_step_parameters_data_and_upstream() -> None:
    key = run_key("distill", {"temp": 8.0, "alpha": 0.5}, "digest", {"teacher": "r1"})
    text = '["distill", {"alpha": 0.5, "temp": 8.0}, "digest", {"teacher": "r1"}]'
    assert key == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        ("teacher", {"temp": 8.0}, "digest", {"teacher": "r1"}),
        ("distill", {"temp": 4.0}, "digest", {"teacher": "r1"}),
        ("distill", {"temp": 8.0}, "other", {"teacher": "r1"}),
        ("distill", {"temp": 8.0}, "digest", {"teacher": "r2"}),
    ],
)
def test_keys_differ_with_each_of_their_parts(
    other: tuple[str, dict[str, float], str, dict[str, str]],
) -> None:
    assert run_key(*other) != run_key("distill", {"temp": 8.0}, "digest", {"teacher": "r1"})


def test_a_run_is_named_tagged_and_linked_to_its_data(tiny: Dataset) -> None:
    with open_run("a readable name", "teacher", tiny) as run_id:
        assert status(run_id) == "RUNNING"
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a readable name"
    assert run.data.tags["kdflow.step"] == "teacher"
    assert run.data.tags["kdflow.dataset_digest"] == tiny.digest
    logged = run.inputs.dataset_inputs[0].dataset
    assert (logged.name, logged.digest) == ("tiny", tiny.digest[:36])


@pytest.mark.parametrize(
    ("error", "ends"),
    [(KdflowError, "FAILED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")],
)
def test_a_run_that_breaks_off_says_how(
    tiny: Dataset, error: type[BaseException], ends: str
) -> None:
    ids = []

    def break_off() -> None:
        with (
            open_run("outer", "distill", tiny) as outer,
            open_run("inner", "teacher", tiny) as inner,
        ):
            ids.extend([outer, inner])
            raise error

    with pytest.raises(error):
        break_off()
    assert [status(run_id) for run_id in ids] == [ends, ends]


def test_an_upstream_run_is_a_run_of_its_own_that_knows_who_asked(tiny: Dataset) -> None:
    with open_run("asks", "distill", tiny) as asking:
        with open_run("is asked", "teacher", tiny) as upstream:
            tracking.log_metrics({"test_accuracy": 0.5})
        tracking.log_metrics({"test_accuracy": 0.75})
    tags = mlflow.get_run(upstream).data.tags
    assert tags["kdflow.asked_by"] == asking
    assert "mlflow.parentRunId" not in tags
    assert mlflow.get_run(upstream).data.metrics == {"test_accuracy": 0.5}
    assert mlflow.get_run(asking).data.metrics == {"test_accuracy": 0.75}


def test_the_first_run_joins_the_one_that_mlflow_run_opened(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0")
    mlflow.MlflowClient().log_param(opened.info.run_id, "temp", "8.0")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    with open_run("distill", "distill", tiny) as run_id:
        tracking.log_params({"temp": "8", "alpha": "0.9"})
        with open_run("teacher", "teacher", tiny) as upstream:
            pass
    assert run_id == opened.info.run_id != upstream
    joined = mlflow.get_run(run_id)
    assert joined.info.run_name == "distill"
    assert joined.data.params == {"temp": "8.0", "alpha": "0.9"}  # what was asked for stays


@pytest.mark.parametrize(("before", "after"), [("FAILED", "KILLED"), ("FINISHED", "FINISHED")])
def test_an_interrupted_run_is_killed_once_it_is_marked_failed(before: str, after: str) -> None:
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    mlflow.MlflowClient().set_terminated(run_id, before)
    tracking.correct_to_killed(run_id, patience=0)
    assert status(run_id) == after


def test_runs_are_found_by_key_when_finished_in_any_experiment_oldest_first(tiny: Dataset) -> None:
    def run_with_key(key: str) -> str:
        with open_run(key, "teacher", tiny) as run_id:
            tracking.set_tags({"kdflow.key": key})
        return run_id

    made = []
    for experiment in ("one", "two"):
        mlflow.set_experiment(experiment)
        made.append(run_with_key("wanted"))
    mlflow.MlflowClient().set_terminated(run_with_key("wanted"), "FAILED")
    run_with_key("another")
    mlflow.set_experiment(experiment_id="0")
    assert [run.run_id for run in find_runs("wanted")] == made
    assert find_runs("unheard of") == []


def test_a_run_that_cannot_be_built_on_is_refused(tiny: Dataset) -> None:
    with pytest.raises(KdflowError, match=r"^expected auto.* got 'nonsense'"):
        get_run("nonsense")
    with (
        open_run("still going", "teacher", tiny) as running,
        pytest.raises(KdflowError, match=f"FINISHED run, got {running}, which is RUNNING"),
    ):
        get_run(running)
    with mlflow.start_run() as foreign:
        pass
    with pytest.raises(KdflowError, match=r"has no kdflow.step tag"):
        get_run(foreign.info.run_id)


def test_what_a_run_lacks_is_named(tiny: Dataset) -> None:
    with open_run("empty", "teacher", tiny) as run_id:
        pass
    run = get_run(run_id)
    with pytest.raises(KdflowError, match=f"run {run_id} .teacher. has no logits"):
        tracking.logits_folder(run)
    with pytest.raises(KdflowError, match=f"run {run_id} .teacher.: no model can be loaded"):
        tracking.load_model(run)


def test_a_logged_model_comes_back_and_serves_raw_pixels(tiny: Dataset) -> None:
    network = build("pupil", tiny.x_train, 3, seed=0)
    with open_run("model", "teacher", tiny) as run_id:
        tracking.log_model(network)
    assert weights_sha256(tracking.load_model(get_run(run_id))) == weights_sha256(network)
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    expected = predict_logits(network, tiny.x_test)
    np.testing.assert_allclose(served.predict(tiny.x_test), expected, rtol=1e-5, atol=1e-6)
    pixels, logits = served.metadata.signature.inputs, served.metadata.signature.outputs
    assert (pixels.inputs[0].type, pixels.inputs[0].shape) == (np.uint8, (-1, 8, 8, 3))
    assert (logits.inputs[0].type, logits.inputs[0].shape) == (np.float32, (-1, 3))


def test_logits_are_read_in_place_from_a_local_store_and_downloaded_from_another(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with open_run("export", "export_logits", tiny) as run_id:
        tracking.log_folder(tmp_path, tracking.LOGITS_FOLDER)
    run = get_run(run_id)
    folder = tracking.logits_folder(run)
    assert folder == Path(run.artifact_uri) / "logits"

    remote = replace(run, artifact_uri=f"mlflow-artifacts:/{run_id}/artifacts")
    asked: list[dict[str, str]] = []

    def download(**where: str) -> str:
        asked.append(where)
        return where["dst_path"]

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    downloaded = tracking.logits_folder(remote)
    assert downloaded.is_dir()
    assert asked[0]["artifact_uri"] == f"mlflow-artifacts:/{run_id}/artifacts/logits"


def test_artifacts_hold_what_was_logged(tiny: Dataset) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with open_run("artifacts", "teacher", tiny) as run_id:
        tracking.log_array(array, "test_logits.npy")
        tracking.log_json({"temp": 8.0}, "config.json")
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
    assert np.array_equal(np.load(folder / "test_logits.npy"), array)
    assert json.loads((folder / "config.json").read_text()) == {"temp": 8.0}


def test_another_commit_is_reported_and_the_same_one_is_not() -> None:
    def made_by(commit: str) -> FoundRun:
        return FoundRun("id", "teacher", {}, {"mlflow.source.git.commit": commit}, {}, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "resolve_tags", lambda: {"mlflow.source.git.commit": "b" * 40})
        assert tracking.other_commit(made_by("b" * 40)) == ""
        expected = " (made by commit aaaaaaaa; this is bbbbbbbb)"
        assert tracking.other_commit(made_by("a" * 40)) == expected


def test_an_edit_that_nobody_has_committed_is_reported() -> None:
    def made_by(code: str) -> FoundRun:
        tags = {"mlflow.source.git.commit": "b" * 40, tracking.CODE_TAG: code}
        return FoundRun("id", "teacher", {}, tags, {}, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "resolve_tags", lambda: {"mlflow.source.git.commit": "b" * 40})
        assert tracking.other_commit(made_by(tracking.code_sha256())) == ""
        edited = " (made by kdflow before it was edited)"
        assert tracking.other_commit(made_by("0" * 64)) == edited


def test_a_run_that_mlflow_run_did_not_open_cannot_be_joined(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with (
        pytest.raises(
            KdflowError, match=r"^tracking store: no run can be opened: .*0000.*not found"
        ),
        open_run("distill", "distill", tiny),
    ):
        pass


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@there.org/mlflow", "https://me:***@there.org/mlflow"),
        ("postgresql://me:secret@db/x", "mlflow ui --backend-store-uri postgresql://me:***@db/x"),
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
    ],
)
def test_the_stores_password_is_not_shown(
    uri: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    assert tracking.how_to_see() == shown


def test_a_store_that_does_not_answer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://me:secret@there")

    def refuse(**_: object) -> None:
        raise OSError("no route\nto http://me:secret@there")

    monkeypatch.setattr(mlflow, "search_experiments", refuse)
    expected = (
        r"^tracking store: .* at http://me:\*\*\*@there, got no route to http://me:\*\*\*@there$"
    )
    with pytest.raises(KdflowError, match=expected):
        tracking.open_store()
