"""The logit artifact: a teacher's raw logits on every image, in the data set's own order, with a
manifest that says what they belong to. Nothing is trained on logits that do not verify.

A folder holds `train_logits.npy` and `test_logits.npy`, (views, images, classes), not divided by
any temperature, and `manifest.json`. Of the test images only view 0 is used; there may be others.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdflow.artifacts.alignment import check_order
from kdflow.artifacts.manifest import MANIFEST, Manifest, parsed, text_of
from kdflow.artifacts.values import check_values
from kdflow.config.base import DATASET_OPTIONS, canonical
from kdflow.config.views import ONE_VIEW, Views
from kdflow.dataset import Dataset, sha256
from kdflow.errors import KdflowError, UnfitError, UnreachableError
from kdflow.evaluate.metrics import accuracy
from kdflow.views import VIEW_SETS

SPLITS = ("train", "test")
DTYPES = ("float16", "float32")
ARRAYS = {split: f"{split}_logits.npy" for split in SPLITS}
FILES = {MANIFEST, *ARRAYS.values()}


@dataclass(frozen=True)
class Logits:
    """Verified logits, memory-mapped.

    Attributes:
        train, test: (views, images, classes) float16 or float32.
    """

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    train: np.ndarray
    test: np.ndarray


def is_folder(name: str) -> bool:
    """Whether there is a folder called `name`, which may be no path at all."""
    return os.path.isdir(name)  # noqa: PTH112 (Path.is_dir raises at a name that is too long)


def write(
    folder: Path | str,
    train: np.ndarray,
    test: np.ndarray,
    dataset: Dataset,
    *,
    teacher: str,
    network: str,
    parameters: int | None = None,
    multiply_adds: int | None = None,
    weight_bytes: int | None = None,
    weights_sha256: str | None = None,
    holdout: float | None = None,
    in_order: bool = False,
    view_set: str = "shifts",
    averaged: bool = False,
) -> Manifest:
    """Write logits and their manifest into `folder`, which is made. Logits that it holds already
    are replaced.

    Args:
        train, test: (views, images, classes) raw logits, float16 or float32; the views are the
            first ones of their set, the images in the data set's own order. `test` needs view 0
            alone.
        in_order: whether the order is certain, so that it is not checked, here and in `read`.
        view_set: a key of `views.VIEW_SETS`.
        averaged: whether those of a view are the mean over it and its mirror image.

    Raises:
        KdflowError: the arrays' shape or type is another one, there are more views than exist, a
            logit is not finite, they are probabilities, their rows are in another order, or the
            folder holds other files; nothing is written.
    """
    folder, arrays = Path(folder), {"train": train, "test": test}
    for split, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise KdflowError(
                f"logits: expected a NumPy array on the {split} images, got a"
                f" {type(array).__name__}"
            )
        rows = (len(_labels(dataset, split)), dataset.classes)
        if array.shape[1:] != rows or array.dtype.name not in DTYPES:
            raise KdflowError(
                f"logits: expected {' or '.join(DTYPES)} (views, {rows[0]}, {rows[1]}) on the"
                f" {split} images, got {array.dtype} {array.shape}"
            )
        most = len(VIEW_SETS[view_set]) if split == "train" else len(train)
        if not 1 <= len(array) <= most:
            raise KdflowError(
                f"logits: expected 1 to {most} views of the {split} images, got {len(array)}"
            )
        check_values("logits", array, f"the {split} logits")
    if train.dtype != test.dtype:
        raise KdflowError(
            f"logits: expected one type for both splits, got {train.dtype} and {test.dtype}"
        )
    if holdout is not None and not 0 <= holdout < 1:
        raise KdflowError(
            f"logits: expected a holdout from 0 to below 1, a share of the training images, got"
            f" {holdout}"
        )
    if others := sorted({path.name for path in folder.glob("*")} - FILES):
        raise KdflowError(
            f"logits: expected a new folder, or one of logits, got {folder}, which holds"
            f" {others[0]}; name another folder"
        )
    if not in_order:
        check_order("logits", train, test, dataset)
    manifest = Manifest(
        teacher=teacher,
        network=network,
        parameters=parameters,
        multiply_adds=multiply_adds,
        weight_bytes=weight_bytes,
        weights_sha256=weights_sha256,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        holdout=holdout,
        views=list(VIEW_SETS[view_set][: len(train)]),
        averaged=averaged,
        in_order=in_order,
        dtype=train.dtype.name,  # type: ignore[arg-type]
        class_names=list(dataset.class_names),
        sha256={split: sha256(array) for split, array in arrays.items()},
        accuracy={
            split: accuracy(array[0], _labels(dataset, split)) for split, array in arrays.items()
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    for split, array in arrays.items():
        np.save(folder / ARRAYS[split], array, allow_pickle=False)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def read(
    folder: Path,
    dataset: Dataset,
    *,
    views: Views = ONE_VIEW,
    averaged: bool = False,
    in_order: bool = False,
) -> Logits:
    """The logits in `folder`, once they are shown to belong to `dataset`.

    Args:
        views: those that are needed; the folder may hold more.
        averaged: whether those of a view have to be the mean over it and its mirror image.
        in_order: whether the order is certain, since kdflow made them.

    Raises:
        UnfitError: the manifest is missing or malformed, or names another data set; the logits are
            of other views, or averaged where they should not be, or the reverse; an array is
            missing, has another shape or type, a changed byte, a value that is not finite, or
            probabilities; the accuracy recomputed from it is not the recorded one; or its rows are
            in another order.
        UnreachableError: a file cannot be read, though it may be intact.
    """
    manifest_text = text_of(folder)
    manifest = parsed(manifest_text, folder)
    if manifest.dataset_digest != dataset.digest:
        raise UnfitError(
            f"logits in {folder}: expected those of {dataset.name} (data set digest"
            f" {dataset.digest}), got those of {manifest.dataset} ({manifest.dataset_digest}):"
            f" other images, or read with another {', '.join(sorted(DATASET_OPTIONS))}"
        )
    _expect(folder, "class names", list(dataset.class_names), manifest.class_names)
    count, view_set = views.count, views.view_set
    needed = list(VIEW_SETS[view_set][:count])
    if manifest.views[:count] != needed:
        others = "" if manifest.views[0] == needed[0] else " of another set"
        raise UnfitError(
            f"logits in {folder}: expected the first {count} views of view_set={view_set}, got"
            f" {len(manifest.views)}{others} (export them with views={count} view_set={view_set})"
        )
    if manifest.averaged != averaged:
        asked, found = canonical(averaged), canonical(manifest.averaged)
        raise UnfitError(
            f"logits in {folder}: expected averaged={asked}, as in this run, got averaged={found}"
            f" (export them with averaged={asked})"
        )
    train, test = (_read_array(folder, manifest, dataset, split) for split in SPLITS)
    if not (in_order or manifest.in_order):
        check_order(f"logits in {folder}", train, test, dataset)
    manifest_sha256 = hashlib.sha256(manifest_text.encode()).hexdigest()
    return Logits(folder, manifest, manifest_sha256, train, test)


def _read_array(folder: Path, manifest: Manifest, dataset: Dataset, split: str) -> np.ndarray:
    name, labels = ARRAYS[split], _labels(dataset, split)
    try:
        array = np.lib.format.open_memmap(folder / name, mode="r")  # which refuses pickles
    except (FileNotFoundError, ValueError) as error:
        raise UnfitError(f"logits in {folder}: expected an array in {name}, got {error}") from error
    except OSError as error:
        raise UnreachableError(f"logits in {folder}: {name} cannot be read: {error}") from error
    views = len(manifest.views)
    if split == "test" and array.ndim:
        views = min(max(1, len(array)), views)
    shape = (views, len(labels), dataset.classes)
    _expect(folder, f"shape of {name}", shape, array.shape)
    _expect(folder, f"dtype of {name}", manifest.dtype, array.dtype.name)
    _expect(folder, f"SHA-256 of {name}", manifest.sha256.get(split), sha256(array))
    check_values(f"logits in {folder}", array, name)
    recorded, recomputed = manifest.accuracy.get(split), accuracy(array[0], labels)
    if recorded is None or not math.isclose(recorded, recomputed, abs_tol=1e-9):
        _expect(folder, f"accuracy of {name}", recorded, recomputed)
    return array


def digest(logits: Logits, views: int) -> str:
    """The SHA-256 of what a student learns from in these logits: the first views of the training
    images, and view 0 of the test images, with which its predictions are compared."""
    described = [logits.manifest.dtype, sha256(logits.train[:views]), sha256(logits.test[0])]
    return hashlib.sha256(repr(described).encode()).hexdigest()


def _expect(folder: Path, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise UnfitError(f"logits in {folder}: {what}: expected {expected}, got {found}")


def _labels(dataset: Dataset, split: str) -> np.ndarray:
    labels: np.ndarray = getattr(dataset, f"y_{split}")
    return labels
