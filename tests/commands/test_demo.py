"""`demo` writes a whole folder that any web server can serve, or nothing."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kdflow import npm
from kdflow.__main__ import main
from kdflow.deploy import browser
from kdflow.deploy.manifest import sha256


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    """A folder as a deployment logs it, whose files are too short to run."""
    folder = tmp_path / "deployment"
    (folder / "files").mkdir(parents=True)
    for name in ("float32.onnx", "int8.tflite"):
        (folder / "files" / name).write_bytes(b"a file")
    hashed = {"sha256": sha256(folder / "files" / "float32.onnx")}
    written = {
        "files": {"float32.onnx": hashed, "int8.tflite": hashed},
        "pixels": {"shape": ["images", 8, 8, 3]},
        "class_names": ["dark", "light"],
        "not_made": {},
    }
    (folder / "deploy.json").write_text(json.dumps(written))
    return folder


@pytest.fixture
def archive(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What npm fetches: an archive whose hash is the pinned one."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name in (*browser.NEEDED, "not_needed.js"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            package.addfile(member, io.BytesIO(name.encode()))
    monkeypatch.setattr(browser, "SHA512", browser._sha512(path))
    monkeypatch.setattr(npm, "pack", lambda *_: Path(shutil.copy(path, tmp_path / "fetched.tgz")))
    return path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["demo", *argv]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


@pytest.mark.usefixtures("archive")
def test_the_folder_has_what_the_page_loads_and_nothing_else(
    deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "demo"
    assert main(["demo", "--run", str(deployment), "--output", str(output)]) == 0
    paths = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    page = {"index.html", "demo.js", "photo.js", "deploy.json"}
    assert paths == page | {"files/float32.onnx", *browser.NEEDED}
    assert (output / browser.MODULE).read_text() == browser.MODULE
    assert list(json.loads((output / "deploy.json").read_text())["files"]) == ["float32.onnx"]
    assert f"python -m http.server -d {output}" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["demo"]


def test_the_runtime_is_fetched_once(
    deployment: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["demo", "--run", str(deployment), "--output", str(tmp_path / "one")]) == 0
    monkeypatch.setattr(npm, "pack", None)
    assert main(["demo", "--run", str(deployment), "--output", str(tmp_path / "two")]) == 0


def test_another_runtime_than_the_pinned_one_is_not_used(
    deployment: Path,
    archive: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(browser, "SHA512", "another")
    output = tmp_path / "demo"
    line = refused(capsys, "--run", str(deployment), "--output", str(output))
    assert line.startswith(f"kdflow demo: runtime: expected {browser.PACKAGE} with SHA-512 another")
    assert not output.exists()
    assert not list(cache.iterdir())


def test_without_npm_it_says_what_to_do(
    deployment: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused(capsys, "--run", str(deployment), "--output", str(tmp_path / "demo"))
    assert line == (
        f"kdflow demo: runtime: expected the npm package {browser.PACKAGE}, got none: npm is not"
        f" installed; without npm, save its archive as {cache}/onnxruntime-web-1.30.0.tgz\n"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"files": {}}, "run: expected ONNX files, which browsers run, got none: it was made with"),
        ({"files": {}, "not_made": {"float32.onnx": "no Erf"}}, "got none: no Erf"),
        ({"files": {"a.onnx": {"sha256": ""}}}, "run: expected deploy.json and files in "),
        ({"files": {"float32.onnx": {"sha256": "0"}}}, "run: expected float32.onnx with SHA-256 0"),
        ({"pixels": {"shape": ["images", 8, 6, 3]}}, "takes square images of one or three"),
        ({"pixels": {}}, "run: expected deploy.json and files in "),
        ({"class_names": None}, "run: expected deploy.json and files in "),
    ],
)
def test_what_cannot_be_shown_is_refused(
    changes: dict[str, Any],
    expected: str,
    deployment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = json.loads((deployment / "deploy.json").read_text())
    (deployment / "deploy.json").write_text(json.dumps(written | changes))
    output = tmp_path / "demo"
    assert expected in refused(capsys, "--run", str(deployment), "--output", str(output))
    assert not output.exists()


def test_an_output_that_is_there_is_left_alone(
    deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--run", str(deployment), "--output", str(tmp_path))
    assert line == f"kdflow demo: output: expected a path that does not exist yet, got {tmp_path}\n"


@pytest.mark.parametrize("written", ["[]", '{"files": null}', '{"files": {}}'])
def test_a_manifest_of_another_form_is_refused(
    written: str, deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (deployment / "deploy.json").write_text(written)
    line = refused(capsys, "--run", str(deployment), "--output", str(tmp_path / "demo"))
    assert f"expected deploy.json and files in {deployment}, got " in line
