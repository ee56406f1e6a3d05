"""Make a web page that classifies pictures in the browser with the ONNX files of a deployment."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from kdflow.commands.command import Command, CommandConfig, check_square
from kdflow.errors import KdflowError, about

if TYPE_CHECKING:
    from kdflow.commands.deployment import Deployment

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
        deployment = _onnx_files(_artifacts(config.run))
    with about("runtime"):
        runtime = browser.fetched()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".demo") as temporary:
            made = Path(temporary) / "demo"
            shutil.copytree(PAGE, made)
            browser.unpack(runtime, made)
            _copy(deployment, made)
            made.replace(output)
    except OSError as error:
        raise KdflowError(f"output: expected a folder that can be made, got {error}") from error
    names = ", ".join(deployment.paths)
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


def _onnx_files(folder: Path) -> Deployment:
    """The ONNX files of a deployment.

    Raises:
        KdflowError: there are none, one is damaged, or the page cannot make their pixels.
    """
    from kdflow.commands.deployment import read
    from kdflow.deploy.manifest import FILES

    found = read(folder, folder / FILES, lambda name: name.endswith(".onnx"))
    if not found.paths:
        why = (
            "; ".join(found.manifest.get("not_made", {}).values()) or "it was made with onnx=false"
        )
        raise KdflowError(f"expected ONNX files, which browsers run, got none: {why}")
    check_square(found.image_shape)
    return found


def _copy(deployment: Deployment, folder: Path) -> None:
    from kdflow.deploy.manifest import FILES, MANIFEST

    (folder / FILES).mkdir()
    for name, path in deployment.paths.items():
        shutil.copyfile(path, folder / FILES / name)
    written = json.dumps(deployment.manifest, indent=2)
    (folder / MANIFEST).write_text(written, encoding="utf-8")


DEMO = Command("demo", DemoConfig, run)
