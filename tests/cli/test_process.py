"""What a command's process does around its work."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from kdflow.__main__ import main
from kdflow.cli import process
from kdflow.cli.process import check_backend, exit_status
from kdflow.errors import KdflowError


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (KdflowError("expected a, got b"), 1, "kdflow step: expected a, got b\n"),
        (KeyboardInterrupt(), 130, "kdflow step: interrupted; the same command resumes it\n"),
        (None, 0, ""),
    ],
)
def test_a_command_ends_with_one_line_and_a_status(
    error: BaseException | None, status: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        if error:
            raise error

    assert exit_status("kdflow step", work, resumes=True) == status
    assert capsys.readouterr() == ("", shown)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left"),
        (ConnectionResetError("by peer"), "ConnectionResetError: by peer"),
        (OperationalError("SELECT 1", {}, Exception("disk is full")), "OperationalError: "),
        (MlflowException("no\nanswer"), "MlflowException: no answer"),
        (
            KdflowError("got http://me:pass/word@host:1/x?password=secret and \x1b[31m"),
            "got http://me:***@host:1/x?password=*** and \\x1b[31m\n",
        ),
    ],
)
def test_what_a_disk_or_a_server_causes_is_one_line_without_passwords(
    error: Exception, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert exit_status("kdflow step", work) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"kdflow step: {shown}")
    assert line.count("\n") == 1
    assert exit_status("kdflow step", work, shows_traceback=True) == 1
    traced = capsys.readouterr().err
    assert traced.startswith("Traceback")
    assert "in work" in traced
    assert traced.endswith(line)
    assert "pass/word" not in traced
    assert "secret" not in traced


def test_a_fault_of_kdflow_shows_where_it_was_raised(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ZeroDivisionError("sqlite://u:secret@h")

    assert exit_status("kdflow step", work) == 1
    shown = capsys.readouterr().err
    assert "in work" in shown
    assert shown.endswith("ZeroDivisionError: sqlite://u:***@h\n")


@pytest.mark.parametrize(
    ("output", "variables"), [("closed pipe", {}), ("file", {"PYTHONIOENCODING": "ascii"})]
)
def test_no_output_ends_a_command(output: str, variables: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kdflow.cli.process import exit_status\n"
        "def work():\n"
        "    for _ in range(3): print('\\N{PILE OF POO}' * 9999)\n"
        "    Path('done').write_text('done')\n"
        "sys.exit(exit_status('step', work))"
    )
    read, write = os.pipe()
    if output == "file":
        write = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT)
    os.close(read)
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=write, stderr=write, check=False
    )
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
    if output == "file":
        assert (tmp_path / "output").read_text().startswith("\\U0001f4a9")


def test_a_command_works_with_closed_descriptors(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from kdflow.cli.process import exit_status\n"
        "from kdflow.quiet import native_output_suppressed\n"
        "def work():\n"
        "    with native_output_suppressed(shown_if_it_fails=True): print('a line')\n"
        "    Path('done').write_text('done')\n"
        "raise SystemExit(exit_status('step', work))"
    )
    (tmp_path / "step.py").write_text(code)
    command = f"exec {sys.executable} step.py <&- >&- 2>&-"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, shell=True, cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "done").read_text() == "done"  # not what was printed


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_a_backend_that_is_not_installed_is_one_line(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec

    def missing(name: str, *rest: str) -> object:
        return None if name == backend else find_spec(name, *rest)

    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert main(["baseline", "--dataset", "digits"]) == 1
    assert capsys.readouterr() == (
        "",
        f"kdflow baseline: KERAS_BACKEND: expected an installed backend, got {backend}, which is"
        f" not installed; unset the variable for TensorFlow, or install {backend}\n",
    )


def test_a_backend_that_kdflow_does_not_run_on_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert main(["baseline", "--dataset", "digits"]) == 1
    expected = "kdflow baseline: KERAS_BACKEND: expected tensorflow or jax, got 'torch'\n"
    assert capsys.readouterr() == ("", expected)


def test_an_empty_variable_is_the_default_backend_as_it_is_to_keras(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "")
    check_backend()


@pytest.mark.parametrize(
    ("is_finished", "error", "expected"),
    [
        (True, KdflowError("a file is worse"), [("run", "FINISHED")]),
        (True, KeyboardInterrupt(), [("run", "FINISHED")]),
        (False, KdflowError("a bad input"), []),  # `mlflow run` marks it FAILED, and it has
        (False, KeyboardInterrupt(), [("run", "KILLED")]),
    ],
)
def test_a_run_that_is_finished_stays_so_if_something_after_it_fails_under_mlflow_run(
    is_finished: bool,
    error: BaseException,
    expected: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corrected: list[tuple[str, str]] = []
    monkeypatch.setattr(process, "_correct_status_later", lambda *given: corrected.append(given))
    monkeypatch.setattr("kdflow.tracking.runs.FINISHED_HERE", {"run"} if is_finished else set())
    monkeypatch.setenv("MLFLOW_RUN_ID", "run")

    def work() -> None:
        raise error

    exit_status("kdflow step", work)
    assert corrected == expected
