"""Whole commands as processes of their own, and as `mlflow run` starts them."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, command_line, environment, made_by, runs, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-m", "kdflow", "distill", "--dataset", "digits"],
        [
            "mlflow",
            "run",
            str(ROOT),
            "-e",
            "distill",
            "-P",
            "dataset=digits",
            "--env-manager=local",
        ],
    ],
    ids=["python", "mlflow run"],
)
def test_ctrl_c_ends_every_open_run_as_killed(store: Path, command: list[str]) -> None:
    log = store / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_line(*command),
            cwd=store,
            env=environment(store),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: b"epoch  2/" in log.read_bytes() or process.poll() is not None, log)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.wait(60) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # `mlflow run` itself first writes FAILED
    wait_for(lambda: [run.info.status for run in runs()] == ["KILLED"] * 3, log)
    assert "kdflow distill: interrupted" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_refusal_is_one_line_whatever_libraries_say_as_they_load(store: Path) -> None:
    argv = command_line("python", "-m", "kdflow", "distill", "--dataset", "nowhere.npz")
    done = subprocess.run(
        argv, cwd=store, env=environment(store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("kdflow distill: dataset: expected an .npz file")
    assert done.stderr.count("\n") == 1


def test_mlflow_run_gives_one_finished_run_with_what_was_asked_for(store: Path) -> None:
    argv = command_line("mlflow", "run", str(ROOT), "-e", "distill", "--env-manager", "local")
    for parameter in ("temp=8", "dataset=digits", "teacher=pupil", "epochs=2"):
        argv += ["-P", parameter]
    done = subprocess.run(
        argv, cwd=store, env=environment(store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    distilled, exported, _ = runs()
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert distilled.info.run_name == "T=8 alpha=0.9 s0 distill student<-pupil"
    assert exported.data.tags["kdflow.asked_by"] == distilled.info.run_id
    assert distilled.data.params["temp"] == "8"
    assert distilled.data.params["epochs"] == "2"
    assert "test_accuracy" in distilled.data.metrics


def test_mlflow_run_with_bad_input_fails_with_the_one_line(store: Path) -> None:
    argv = command_line("mlflow", "run", str(ROOT), "-e", "distill", "--env-manager", "local")
    done = subprocess.run(
        [*argv, "-P", "temp=0"],
        cwd=store,
        env=environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    expected = "kdflow distill: temp: expected greater than or equal to 0.01, got '0'"
    assert expected in done.stderr
    assert [run.info.status for run in runs()] == ["FAILED"]


def test_a_plan_in_mlflow_run_is_labelled_and_makes_no_other_run(store: Path) -> None:
    # `mlflow run` opens its run before kdflow starts
    argv = command_line("mlflow", "run", str(ROOT), "-e", "distill", "--env-manager", "local")
    for parameter in ("dataset=digits", "teacher=pupil", "plan_only=true"):
        argv += ["-P", parameter]
    done = subprocess.run(
        argv, cwd=store, env=environment(store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = runs()
    assert run.info.run_name == "plan of T=4 alpha=0.9 s0 distill stud..."
    assert run.data.tags["kdflow.plan_only"] == "true"
    assert "kdflow.step" not in run.data.tags


def test_the_default_teacher_of_the_digits_is_a_good_one(store: Path) -> None:
    (teacher,) = made_by(["teacher", "--dataset", "digits"])
    assert teacher.data.metrics["test_accuracy"] >= 0.98
