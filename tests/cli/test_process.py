"""What a command's process does around its work."""

import importlib.util
import os

import pytest

from kdflow.__main__ import main
from kdflow.cli.process import check_backend, exit_status, loading_quietly
from kdflow.errors import KdflowError


def test_what_libraries_say_as_they_load_is_shown_only_if_loading_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def load(said: bytes, error: type[BaseException] | None = None) -> None:
        with loading_quietly():
            os.write(2, said)
            if error:
                raise error

    load(b"a greeting")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError):
        load(b"a reason", ImportError)
    assert capfd.readouterr().err == "a reason"


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (KdflowError("expected a, got b"), 1, "kdflow step: expected a, got b\n"),
        (KeyboardInterrupt(), 130, "kdflow step: interrupted\n"),
        (None, 0, ""),
    ],
)
def test_a_command_ends_with_one_line_and_a_status(
    error: BaseException | None, status: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        if error:
            raise error

    assert exit_status("kdflow step", work) == status
    assert capsys.readouterr() == ("", shown)


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
