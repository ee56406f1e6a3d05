"""A run is opened, logged to, and ended with the right status."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from kdflow.dataset import Dataset, Images
from kdflow.errors import KdflowError, NoRoomError
from kdflow.evaluate.metrics import predict_logits
from kdflow.network import build, weights_sha256
from kdflow.tracking import journal, runs, saved_views
from kdflow.tracking.artifacts import load_model, read_json
from kdflow.tracking.corrected import correct
from kdflow.tracking.delivery import DELIVERY
from kdflow.tracking.find import get_run
from kdflow.tracking.runs import open_run
from kdflow.tracking.sync import deliver_left_over

pytestmark = pytest.mark.usefixtures("shared_store")


def status(run_id: str) -> str:
    return str(mlflow.get_run(run_id).info.status)


def test_a_run_is_named_tagged_and_linked_to_its_data(tiny: Dataset) -> None:
    with open_run("a readable name", "teacher", tiny, {"kdflow.more": "a tag"}) as opened:
        assert status(opened.run_id) == "RUNNING"
    run = mlflow.get_run(opened.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a readable name"
    assert run.data.tags["kdflow.step"] == "teacher"
    assert run.data.tags["kdflow.more"] == "a tag"
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
            open_run("outer", "distill", tiny, {}) as outer,
            open_run("inner", "teacher", tiny, {}) as inner,
        ):
            ids.extend([outer.run_id, inner.run_id])
            raise error

    with pytest.raises(error):
        break_off()
    assert [status(run_id) for run_id in ids] == [ends, ends]


@pytest.mark.parametrize(
    ("error", "how"), [(KdflowError, None), (KeyboardInterrupt, "interrupted")]
)
def test_a_killed_run_says_why_until_it_is_opened_again(
    tiny: Dataset, error: type[BaseException], how: str | None
) -> None:
    # in the table, a trial that was pruned looks like one that was interrupted
    with pytest.raises(error), open_run("breaks off", "distill", tiny, {}) as run:
        raise error
    assert mlflow.get_run(run.run_id).data.tags.get("kdflow.ended") == how
    with runs.resumed(run.run_id, None):
        pass
    assert "kdflow.ended" not in mlflow.get_run(run.run_id).data.tags


def test_a_run_that_is_stopped_is_killed_and_says_why(tiny: Dataset) -> None:
    with open_run("given up", "distill", tiny, {}) as run:
        run.stop("pruned")
    assert status(run.run_id) == "KILLED"
    assert mlflow.get_run(run.run_id).data.tags["kdflow.ended"] == "pruned"


def test_an_upstream_run_is_a_run_of_its_own_that_knows_who_asked(tiny: Dataset) -> None:
    with open_run("asks", "distill", tiny, {}) as asking:
        with open_run("is asked", "teacher", tiny, {}) as upstream:
            upstream.log({"test_accuracy": 0.5})
        asking.log({"test_accuracy": 0.75})
    tags = mlflow.get_run(upstream.run_id).data.tags
    assert tags["kdflow.asked_by"] == asking.run_id
    assert "mlflow.parentRunId" not in tags
    assert mlflow.get_run(upstream.run_id).data.metrics == {"test_accuracy": 0.5}
    assert mlflow.get_run(asking.run_id).data.metrics == {"test_accuracy": 0.75}


def test_a_child_is_of_the_given_parent_whichever_run_is_open(tiny: Dataset) -> None:
    with (
        open_run("compare", "compare", tiny, {}) as parent,
        open_run("distill", "distill", tiny, {}, parent=parent.run_id) as child,
        open_run("export", "export_logits", tiny, {}, parent=parent.run_id) as grandchild,
    ):
        pass
    for run in (child, grandchild):
        tags = mlflow.get_run(run.run_id).data.tags
        assert tags["mlflow.parentRunId"] == parent.run_id
        assert "kdflow.asked_by" not in tags


def test_the_first_run_joins_the_one_that_mlflow_run_opened(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0")
    mlflow.MlflowClient().log_param(opened.info.run_id, "temp", "8.0")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    with open_run("distill", "distill", tiny, {}) as run:
        run.log_params({"temp": "8", "alpha": "0.9"})
        with open_run("teacher", "teacher", tiny, {}) as upstream:
            pass
    assert run.run_id == opened.info.run_id != upstream.run_id
    joined = mlflow.get_run(run.run_id)
    assert joined.info.run_name == "distill"
    assert joined.data.params == {"temp": "8.0", "alpha": "0.9"}  # what was asked for stays


@pytest.mark.parametrize(
    ("given", "name"),
    [(None, "distill"), ("my run", "my run"), ("bold-run-1", "bold-run-1"), ("a-b-12", "a-b-12")],
)
def test_a_name_that_the_user_has_given_is_kept(
    given: str | None, name: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a name, MLflow draws one such as bold-owl-12
    opened = mlflow.MlflowClient().create_run("0", run_name=given)
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    with open_run("distill", "distill", tiny, {}) as run:
        pass
    assert mlflow.get_run(run.run_id).info.run_name == name


def test_a_run_that_mlflow_run_did_not_open_cannot_be_joined(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with (
        pytest.raises(
            KdflowError, match=r"^tracking store: no run can be opened: .*0000.*not found"
        ),
        open_run("distill", "distill", tiny, {}),
    ):
        pass


@pytest.mark.parametrize(("before", "after"), [("FAILED", "KILLED"), ("FINISHED", "FINISHED")])
def test_an_interrupted_run_is_killed_once_it_is_marked_failed(before: str, after: str) -> None:
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    mlflow.MlflowClient().set_terminated(run_id, before)
    correct(run_id, "KILLED", patience=0)
    assert status(run_id) == after


def test_a_logged_model_comes_back_and_serves_raw_pixels(tiny: Dataset, train: Images) -> None:
    network = build("pupil", train, 3, seed=0)
    with open_run("model", "teacher", tiny, {}) as run:
        run.log_model(network, tiny.class_names)
    assert weights_sha256(load_model(get_run(run.run_id))) == weights_sha256(network)
    served = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    expected = predict_logits(network, tiny.x_test)
    np.testing.assert_allclose(served.predict(tiny.x_test), expected, rtol=1e-5, atol=1e-6)
    assert served.metadata.metadata == {"class_names": ["dark", "mid", "light"]}
    pixels, logits = served.metadata.signature.inputs, served.metadata.signature.outputs
    assert (pixels.inputs[0].type, pixels.inputs[0].shape) == (np.uint8, (-1, 8, 8, 3))
    assert (logits.inputs[0].type, logits.inputs[0].shape) == (np.float32, (-1, 3))


def test_artifacts_hold_what_was_logged(tiny: Dataset) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with open_run("artifacts", "teacher", tiny, {}) as run:
        run.log_array(array, "test_logits.npy")
        run.log_json({"temp": 8.0}, "config.json")
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.run_id))
    assert np.array_equal(np.load(folder / "test_logits.npy"), array)
    assert json.loads((folder / "config.json").read_text()) == {"temp": 8.0}
    assert read_json(get_run(run.run_id), "config.json") == {"temp": 8.0}


def status_of_the_run_called(name: str) -> str:
    (run,) = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"attributes.run_name = '{name}'",
        output_format="list",
    )
    return str(run.info.status)


def test_a_run_without_room_for_its_journal_has_failed(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a journal no later command would end it."""

    def full(*_: object, **__: object) -> None:
        raise NoRoomError("cache: expected a folder with room to write to")

    monkeypatch.setattr(journal, "new", full)
    with pytest.raises(NoRoomError), open_run("no room", "teacher", tiny, {}):
        raise AssertionError("opened")
    assert status_of_the_run_called("no room") == "FAILED"


def test_an_interrupt_on_a_full_disk_stays_one_and_a_later_command_ends_the_run(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = []

    def full(*_: object) -> None:
        raise NoRoomError("expected a folder with room")

    def interrupted() -> None:
        with open_run("is full", "teacher", tiny, {}) as run:
            opened.append(run)
            monkeypatch.setattr(run, "_put", full)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err == "expected a folder with room\n"
    assert opened[0]._journal not in DELIVERY._open
    opened[0]._journal._lock.release()  # as if the process had ended
    deliver_left_over()
    assert status(opened[0].run_id) == "KILLED"


def test_an_interrupt_while_the_run_is_opened_ends_it(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_views, "add", interrupt)
    with pytest.raises(KeyboardInterrupt), open_run("interrupted", "teacher", tiny, {}):
        raise AssertionError("opened")
    assert status_of_the_run_called("interrupted") == "KILLED"
