"""The files of a deployment, read back and checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kdflow.deploy.manifest import FILES, MANIFEST, sha256
from kdflow.errors import KdflowError, reason


class Deployment(NamedTuple):
    """Files whose hashes are those of their manifest.

    Attributes:
        manifest: the content of `deploy.json`, of these files alone.
        paths: of the files, by name.
        image_shape: (height, width, channels).
        class_names: in the order of the logits.
    """

    manifest: dict[str, Any]
    paths: dict[str, Path]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]


def read(folder: Path, files: Path, is_wanted: Callable[[str], bool]) -> Deployment:
    """The wanted files of a deployment.

    Args:
        folder: has `deploy.json`.
        files: the folder of the files.
        is_wanted: of a file's name.

    Raises:
        KdflowError: there is no such manifest, or a wanted file is missing or has another hash.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wanted = {name: it for name, it in manifest["files"].items() if is_wanted(name)}
        for name, described in wanted.items():
            if (found := sha256(files / name)) != described["sha256"]:
                raise KdflowError(
                    f"expected {name} with SHA-256 {described['sha256']}, got {found}"
                )
        _, height, width, channels = manifest["pixels"]["shape"]
        class_names = tuple(manifest["class_names"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KdflowError(
            f"expected {MANIFEST} and {FILES} in {folder}, got {type(error).__name__}:"
            f" {reason(error)}"
        ) from error
    paths = {name: files / name for name in wanted}
    return Deployment(manifest | {"files": wanted}, paths, (height, width, channels), class_names)
