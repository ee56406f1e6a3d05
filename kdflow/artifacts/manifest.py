"""What a folder of logits states of itself: whose logits these are, of which images and views."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdflow.errors import UnfitError, UnreachableError
from kdflow.views import PhotoView, View

MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """What a folder of logits says of itself.

    Attributes:
        format: the version of this layout.
        teacher: who made the logits: the id of the run that holds the model, or any name.
        network: the teacher's architecture, in words.
        parameters, multiply_adds, weight_bytes: how large it is (see `kdflow.size`), where known.
        weights_sha256: of the teacher's weights, where they are known.
        dataset, dataset_digest: the images that the rows belong to.
        holdout: the share of training images that the teacher never trained on, where known.
        views: what the first axis of the training logits enumerates; that of the test logits
            enumerates as many of these or fewer.
        averaged: whether the logits of a view are the mean over it and its mirror image.
        in_order: whether the order of the rows was certain as they were written.
        dtype: of the stored logits.
        class_names: what the last axis enumerates.
        sha256: of each array's bytes.
        accuracy: of view 0 on each split, recomputed from the stored logits.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    teacher: str
    network: str
    parameters: int | None = None
    multiply_adds: int | None = None
    weight_bytes: int | None = None
    weights_sha256: str | None = None
    dataset: str
    dataset_digest: str
    holdout: float | None = None
    views: list[View | PhotoView] = Field(min_length=1)
    averaged: bool = False
    in_order: bool = False
    dtype: Literal["float16", "float32"]
    class_names: list[str]
    sha256: dict[str, str]
    accuracy: dict[str, float]


def text_of(folder: Path) -> str:
    """The manifest of a folder, as it is written there.

    Raises:
        UnfitError: there is none, or it is no text.
        UnreachableError: it cannot be read, though it may be intact.
    """
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        has_probabilities = (folder / "train_probabilities.npy").exists()
        way_out = (
            "set values=probabilities"
            if has_probabilities
            else "kdflow.artifacts.logits.write makes one"
        )
        raise UnfitError(
            f"logits in {folder}: expected a manifest.json, got none; {way_out}"
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"logits in {folder}: manifest.json cannot be read: {error}"
        ) from error
    except UnicodeDecodeError as error:
        raise UnfitError(f"logits in {folder}: expected text in manifest.json, {error}") from error


def parsed(text: str, folder: Path) -> Manifest:
    """The manifest of a folder from its text.

    Raises:
        UnfitError: it is malformed; says where.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "it"
        raise UnfitError(f"logits in {folder}: manifest.json: {where}: {problem['msg']}") from error
