"""Make a web page that classifies pictures in the browser with the ONNX files of a deployment."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from kdflow.commands.command import Command, CommandConfig, check_square
from kdflow.errors import KdflowError, about, reason

PAGE = Path(__file__).parent / "browser"


class DemoConfig(CommandConfig):
    """Make a web page that classifies pictures in the browser with the ONNX files of a `deploy`
    run."""

    run: str = Field(
        min_length=1,
        description="the id of a deploy run, or a folder with its artifacts deploy.json and files",
    )
    output: str = Field(
        "demo", min_length=1, description="the folder to make, for any web server to serve"
    )


def run(config: DemoConfig) -> None:
    from kdflow.deploy import browser

    output = Path(config.output)
    if output.exists():
        raise KdflowError(f"output: expected a path that does not exist yet, got {output}")
    with about("run"):
        source = _artifacts(config.run)
        manifest = _manifest(source)
    with about("runtime"):
        runtime = browser.fetched()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".demo") as temporary:
            made = Path(temporary) / "demo"
            shutil.copytree(PAGE, made)
            browser.unpack(runtime, made)
            _copy(manifest, source, made)
            made.replace(output)
    except OSError as error:
        raise KdflowError(f"output: expected a folder that can be made, got {error}") from error
    names = ", ".join(manifest["files"])
    print(f"demo: {names} in {output}; serve it with: python -m http.server -d {output}")


def _artifacts(source: str) -> Path:
    """The local folder of a run's artifacts."""
    if Path(source).is_dir():
        return Path(source)
    from kdflow.tracking import store
    from kdflow.tracking.artifacts import folder
    from kdflow.tracking.find import get_run

    store.open_store()
    found = get_run(source, "the id of a deploy run, or a folder with its artifacts")
    if found.step != "deploy":
        raise KdflowError(f"expected a run of deploy, got the {found.step} run {source}")
    return folder(found)


def _manifest(source: Path) -> dict[str, Any]:
    """`deploy.json`, of the ONNX files alone.

    Raises:
        KdflowError: there are none, one is damaged, or the page cannot make their pixels.
    """
    from kdflow.deploy.manifest import FILES, MANIFEST, sha256

    try:
        manifest: dict[str, Any] = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        files = {name: it for name, it in manifest["files"].items() if name.endswith(".onnx")}
        for name, described in files.items():
            if (found := sha256(source / FILES / name)) != described["sha256"]:
                raise KdflowError(
                    f"expected {name} with SHA-256 {described['sha256']}, got {found}"
                )
        _, height, width, channels = manifest["pixels"]["shape"]
        why = "; ".join(manifest["not_made"].values()) or "it was made with onnx=false"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KdflowError(
            f"expected {MANIFEST} and {FILES} in {source}, got {type(error).__name__}:"
            f" {reason(error)}"
        ) from error
    if not files:
        raise KdflowError(f"expected ONNX files, which browsers run, got none: {why}")
    check_square((height, width, channels))
    return manifest | {"files": files}


def _copy(manifest: dict[str, Any], source: Path, folder: Path) -> None:
    from kdflow.deploy.manifest import FILES, MANIFEST

    (folder / FILES).mkdir()
    for name in manifest["files"]:
        shutil.copyfile(source / FILES / name, folder / FILES / name)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


DEMO = Command("demo", DemoConfig, run)
