"""An interrupted step is resumed under its own run by the same command."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
from helpers import DISTILL, command_line, environment, made_by, per_epoch, runs, wait_for
from mlflow.entities import Run

from kdflow import sources
from kdflow.__main__ import main
from kdflow.artifacts import checkpoints
from kdflow.errors import NoRoomError
from kdflow.tracking import journal, store, sync
from kdflow.training.loop import Loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store", "first")]


def interrupt(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run of a command that was interrupted after its first epoch."""
    finish_epoch = Loop.finish_epoch

    def once(*given: object, **named: object) -> None:
        finish_epoch(*given, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "finish_epoch", once)
        assert main(argv) == 130
    return runs()[-1]


def steps_of(run: Run, metric: str) -> list[int]:
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    return [value.step for value in history]


def test_it_goes_on_under_its_run_to_the_same_weights_and_no_metric_is_logged_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DISTILL, "--epochs", "3", "--seed", "31"]
    stopped = interrupt(argv, monkeypatch)
    assert stopped.info.status == "KILLED"
    assert made_by(argv) == []
    resumed = mlflow.get_run(stopped.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert f"resumes run {stopped.info.run_id}" in capsys.readouterr().out
    assert steps_of(resumed, "val_loss") == [1, 2, 3]
    assert len(steps_of(resumed, "test_accuracy")) == 1
    (whole,) = made_by(argv)  # what has ended is not resumed: the step runs again
    assert whole.data.tags["kdflow.weights_sha256"] == resumed.data.tags["kdflow.weights_sha256"]
    assert per_epoch(whole) == per_epoch(resumed)


def test_resume_never_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*DISTILL, "--seed", "32"]
    stopped = interrupt(argv, monkeypatch)
    (run,) = made_by([*argv, "--resume", "never"])
    assert run.info.run_id != stopped.info.run_id
    assert steps_of(run, "val_loss") == [1, 2]
    (again,) = made_by(argv)  # nor is the one that was rejected resumed later
    assert steps_of(again, "val_loss") == [1, 2]


def test_a_run_of_resume_never_can_be_resumed_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*DISTILL, "--seed", "40"]
    interrupt(argv, monkeypatch)
    stopped = interrupt([*argv, "--resume", "never"], monkeypatch)
    assert made_by(argv) == []
    assert mlflow.get_run(stopped.info.run_id).info.status == "FINISHED"


def test_a_state_of_which_nobody_knows_what_made_it_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DISTILL, "--seed", "41"]
    before = checkpoints.names()
    interrupt(argv, monkeypatch)
    (name,) = set(checkpoints.names()) - set(before)
    with checkpoints.locked(name) as checkpoint:
        assert checkpoint
        (checkpoint.folder / checkpoints.CLAIM).write_text("")  # as after a power failure
    (run,) = made_by(argv)
    shown = capsys.readouterr().out
    assert "starts again, since the record of the run that the kept state belongs to" in shown
    assert "resume: continuing" not in shown
    assert steps_of(run, "val_loss") == [1, 2]


def test_resume_never_holds_for_what_the_step_builds_on(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["export_logits", "--dataset", "digits", "--model", "pupil", "--holdout", "0.3"]
    stopped = interrupt(argv, monkeypatch)
    assert stopped.data.tags["kdflow.step"] == "teacher"
    made = made_by([*argv, "--resume", "never"])
    assert {run.data.tags["kdflow.step"] for run in made} == {"teacher", "export_logits"}
    assert mlflow.get_run(stopped.info.run_id).info.status == "KILLED"


@pytest.mark.parametrize(
    ("seed", "changes", "reason"),
    [
        ("33", "kdflow.resume.code_of", "other code made it"),
        ("42", "kdflow.results.records.logits.digest", "it builds on other results"),
    ],
)
def test_what_has_changed_since_is_not_resumed_and_says_so(
    seed: str,
    changes: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [*DISTILL, "--seed", seed]
    stopped = interrupt(argv, monkeypatch)
    monkeypatch.setattr(changes, lambda *_: "another digest")
    (run,) = made_by(argv)
    expected = f"the interrupted run {stopped.info.run_id} is not resumed, since {reason}"
    assert expected in capsys.readouterr().out
    assert steps_of(run, "val_loss") == [1, 2]


def test_a_training_is_not_resumed_with_other_threads_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DISTILL, "--seed", "38"]
    stopped = interrupt(argv, monkeypatch)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    (run,) = made_by(argv)
    assert run.info.run_id != stopped.info.run_id
    assert steps_of(run, "val_loss") == [1, 2]
    expected = "it was trained on other hardware (cpu, 1 threads; here: cpu, 7 threads)"
    assert expected in capsys.readouterr().out


def test_a_run_of_another_precision_is_not_resumed_but_kept_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["baseline", "--dataset", "digits", "--student", "pupil", "--epochs", "2"]
    rounded = [*argv, "--precision", "bfloat16"]
    stopped = interrupt(rounded, monkeypatch)
    (plain,) = made_by(argv)
    assert plain.data.params["precision"] == "float32"
    assert steps_of(plain, "val_loss") == [1, 2]
    expected = (
        f"the interrupted run {stopped.info.run_id} is not resumed, since it computed in bfloat16"
        " (here: float32)"
    )
    assert expected in capsys.readouterr().out
    assert made_by(rounded) == []
    assert f"resumes run {stopped.info.run_id}" in capsys.readouterr().out
    (again,) = made_by(argv)  # what has ended is no reason to say anything
    assert "is not resumed" not in capsys.readouterr().out
    assert again.data.tags["kdflow.weights_sha256"] == plain.data.tags["kdflow.weights_sha256"]


def test_a_deleted_run_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*DISTILL, "--seed", "34"]
    stopped = interrupt(argv, monkeypatch)
    mlflow.MlflowClient().delete_run(stopped.info.run_id)
    (run,) = made_by(argv)
    assert run.info.run_id != stopped.info.run_id


def test_a_training_that_fails_is_not_resumed() -> None:
    argv = ["baseline", "--dataset", "digits", "--learning_rate", "1e30", "--optimizer", "sgd"]
    before = checkpoints.names()
    assert main(argv) == 1
    assert checkpoints.names() == before


def test_compare_resumes_itself_and_the_training_that_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ["compare", *DISTILL[1:], "--seeds", "2", "--seed", "35"]
    before = len(runs())
    child = interrupt(argv, monkeypatch)
    parent = runs()[before]
    assert parent.data.tags["kdflow.step"] == "compare"
    made = made_by(argv)
    assert [run.data.tags["kdflow.step"] for run in made] == ["distill", "baseline", "distill"]
    ended = [mlflow.get_run(run.info.run_id) for run in (parent, child, *made)]
    assert {run.info.status for run in ended} == {"FINISHED"}
    parents = {run.data.tags.get("mlflow.parentRunId") for run in ended[1:]}
    assert parents == {parent.info.run_id}


def test_a_killed_process_is_resumed(store: Path) -> None:
    log = store / "log"
    argv = command_line("python", "-m", "kdflow", *DISTILL, "--epochs", "300", "--seed", "36")
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, cwd=store, env=environment(store), stdout=output, stderr=output
        )
    wait_for(lambda: b"epoch   5/300" in log.read_bytes() or process.poll() is not None, log)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert {run.info.status for run in runs()} == {"RUNNING", "FINISHED"}
    # another command ends the runs of the process that was killed
    other = ["baseline", "--dataset", "digits", "--student", "pupil", "--epochs", "1"]
    subprocess.run(
        command_line("python", "-m", "kdflow", *other),
        cwd=store,
        env=environment(store),
        check=True,
    )
    assert {run.info.status for run in runs()} == {"KILLED", "FINISHED"}
    done = subprocess.run(
        argv, cwd=store, env=environment(store), capture_output=True, text=True, check=True
    )
    assert "resume: continuing after" in done.stdout
    assert {run.info.status for run in runs()} == {"FINISHED"}
    (distilled,) = [run for run in runs() if run.data.tags["kdflow.step"] == "distill"]
    assert steps_of(distilled, "val_loss") == list(range(1, 301))
    assert (
        sources.code_sha256("distill", "student", "kd") == distilled.data.tags["kdflow.code_sha256"]
    )


def test_under_mlflow_run_the_new_run_continues_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [*DISTILL, "--epochs", "3", "--seed", "37"]
    stopped = interrupt(argv, monkeypatch)
    given = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)  # as `mlflow run` does
    assert main(argv) == 0
    run = mlflow.get_run(given)
    assert run.info.status == "FINISHED"
    assert run.data.tags["kdflow.resumed_from"] == stopped.info.run_id
    assert steps_of(run, "val_loss") == [1, 2, 3]
    # the interrupt came after the epoch's state was kept, and before its metrics were logged
    assert steps_of(mlflow.get_run(stopped.info.run_id), "val_loss") == []


def test_what_the_interrupted_process_could_not_deliver_is_delivered_before_its_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [*DISTILL, "--epochs", "3", "--seed", "39"]
    stopped = interrupt(argv, monkeypatch)
    left = journal.new(stopped.info.run_id, store.address(), ends_run=True)
    left.add("status", {"status": "KILLED", "timestamp": 5})
    left._lock.release()
    # as in a sweep, whose workers resume what others have left while it runs
    monkeypatch.setattr("kdflow.steps.run.deliver_left_over", lambda: [])
    made_by(argv)
    monkeypatch.undo()
    assert sync.deliver_left_over() == []
    assert mlflow.get_run(stopped.info.run_id).info.status == "FINISHED"


def test_a_full_disk_fails_the_run_and_leaves_what_is_needed_to_resume_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DISTILL, "--epochs", "3", "--seed", "47"]
    add = journal.Journal.add

    def full(self: journal.Journal, kind: str, content: dict[str, Any]) -> journal.Entry:
        if content.get("step") == 3:
            raise NoRoomError("cache: expected a folder with room to write to")
        return add(self, kind, content)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", full)
        assert main(argv) == 1
    failed = runs()[-1]
    assert failed.info.status == "FAILED"
    capsys.readouterr()
    assert made_by(argv) == []
    assert "resume: continuing after 3 epochs" in capsys.readouterr().out
    resumed = mlflow.get_run(failed.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert steps_of(resumed, "val_loss") == [1, 2, 3]
