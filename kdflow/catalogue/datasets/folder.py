"""A user's own photos: a folder with a folder of images per class."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kdflow.cache import check_room
from kdflow.catalogue.datasets.class_folders import TRAIN, Photo, check_classes, list_photos
from kdflow.catalogue.datasets.content import sha256_of
from kdflow.catalogue.datasets.photo import InvalidImageError, pixels_of, size_of
from kdflow.catalogue.datasets.record import DatasetRecord
from kdflow.catalogue.datasets.stored import NewDataset, stored
from kdflow.errors import KdflowError
from kdflow.hardware import available_cpus
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = lazy_import("numpy")

T = TypeVar("T")

DEFAULT_TEST_SHARE = 0.2
THREADS, AT_A_TIME = 8, 256  # images that are decoded side by side, and handed out in their order


def is_folder(typed: str) -> bool:
    """Whether a user who typed this means a folder: it ends with a slash, or is one."""
    return typed.endswith(("/", os.sep)) or os.path.isdir(typed)  # noqa: PTH112 (names too long)


def load_folder(
    name: str,
    *,
    image_size: int = 0,
    test_share: float = DEFAULT_TEST_SHARE,
    skip_bad: bool = False,
) -> Dataset:
    """The photos of a folder: `train/` and `test/` (or `val/`) with class folders in each, or class
    folders alone, which are split. Decoded once, and kept in the cache from then on.

    The classes are the folders' names, sorted, and so are the files of a class. Hidden files are
    ignored.

    Args:
        image_size: see `photo.pixels_of`; 0 expects images of one size.
        test_share: the share of each class that becomes test images where there is one level.
        skip_bad: leave out what is not an image, instead of refusing the folder.

    Raises:
        KdflowError: the folders are not of that kind, a file is not an image, the sizes differ, or
            the cache cannot be written to.
    """
    root = Path(name)
    photos, labels, left_out, remarks = list_photos(root)
    if left_out and not skip_bad:
        raise KdflowError(f"dataset: {left_out[0]} (skip_bad=true leaves it out)")
    if photos[0].split and test_share != DEFAULT_TEST_SHARE:
        raise KdflowError(
            f"test_share: expected no value, as {root} has {TRAIN}/ and test images of its own, got"
            f" {test_share}"
        )
    digests = sha256_of([photo.file for photo in photos], root)
    photos = [photo._replace(sha256=sha256) for photo, sha256 in zip(photos, digests, strict=True)]

    def write(new: NewDataset) -> None:
        chosen = _without_bad(photos, image_size) if skip_bad else photos
        check_classes(root, labels, chosen)
        _write(new, root, chosen, image_size, test_share)
        if skipped := len(left_out) + len(photos) - len(chosen):
            new.remarks.append(f"skipped files that are not images: {skipped:,}")

    described = [
        "folder 1",
        [image_size, test_share, skip_bad, len(left_out)],
        [(photo.split, photo.label, photo.file.name, photo.sha256) for photo in photos],
    ]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    for remark in remarks:
        print(f"dataset: {remark}")
    return stored(name, key, write)


def _without_bad(photos: list[Photo], image_size: int) -> list[Photo]:
    """The photos that can be decoded, which takes decoding them."""

    def is_good(photo: Photo) -> bool:
        try:
            pixels_of(photo.file, image_size)
        except InvalidImageError:
            return False
        return True

    good = _in_parallel(is_good, photos, "checking")
    return [photo for photo, is_kept in zip(photos, good, strict=True) if is_kept]


def _write(
    new: NewDataset, root: Path, photos: list[Photo], image_size: int, test_share: float
) -> None:
    """Decode the photos into the arrays of a data set."""
    width, height = (image_size, image_size) if image_size else _size(photos[0])
    names = sorted({photo.label for photo in photos})
    parts = _split(photos, names, test_share)
    needed = len(photos) * height * width * 3
    as_first = "" if image_size else ", the size of the first"
    words = f"{len(photos):,} images of {root} as {width}x{height} pixels{as_first}"
    print(f"dataset: decoding {words} into {needed / 1e6:,.1f} MB in {new.folder.parent}")
    check_room(new.folder, needed, words)
    label_type = np.dtype(np.uint8 if len(names) <= 256 else np.int32)
    for split, part in parts.items():
        shape = (len(part), height, width, 3)
        decoded = _in_parallel(lambda photo: _pixels(photo, image_size), part, split)
        images = (_bytes(image, shape[1:], photos) for image in decoded)
        new.write(f"x_{split}", shape, np.dtype(np.uint8), images)
        labels = np.array([names.index(photo.label) for photo in part], label_type)
        new.write(f"y_{split}", labels.shape, label_type, [labels.tobytes()])
    new.class_names = names
    trained_on = {photo.sha256 for photo in parts["train"]}
    twice = sum(photo.sha256 in trained_on for photo in parts["test"])
    if twice:
        new.remarks.append(
            f"{twice:,} of {len(parts['test']):,} test images are byte for byte the same as"
            " training images: test accuracy will be too high"
        )


def _pixels(photo: Photo, image_size: int) -> np.ndarray:
    try:
        return pixels_of(photo.file, image_size)
    except InvalidImageError as error:
        raise _image_error(photo, error) from error


def _image_error(photo: Photo, error: InvalidImageError) -> KdflowError:
    return KdflowError(
        f"dataset: expected image files, got {photo.file}: {error} (skip_bad=true leaves it out)"
    )


def _size(photo: Photo) -> tuple[int, int]:
    try:
        return size_of(photo.file)
    except InvalidImageError as error:
        raise _image_error(photo, error) from error


def _bytes(image: np.ndarray, shape: tuple[int, ...], photos: list[Photo]) -> bytes:
    """The pixels of an image.

    Raises:
        KdflowError: its size is not that of the first one; says which sizes all photos have.
    """
    if image.shape == shape:
        return image.tobytes()
    sizes = set(_in_parallel(_size, photos, "sizes"))
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    smallest, largest = (f"{width}x{height}" for width, height in (ordered[0], ordered[-1]))
    raise KdflowError(
        f"image_size: expected a number of pixels, as the images have {len(sizes):,} sizes, from"
        f" {smallest} to {largest}, got 0 (for example image_size=96)"
    )


def _split(photos: list[Photo], names: list[str], test_share: float) -> dict[str, list[Photo]]:
    """The photos for training and for testing, in the order of `photos`."""
    from sklearn.model_selection import train_test_split

    from kdflow.dataset import SPLIT_SEED

    if photos[0].split:
        return {split: [p for p in photos if p.split == split] for split in (TRAIN, "test")}
    labels = [photo.label for photo in photos]
    label, images = min(Counter(labels).items(), key=lambda each: each[1])
    if images < 2:
        raise KdflowError(
            "dataset: expected two or more images in every class folder, to train and to test on,"
            f" got {images} in {label}"
        )
    try:
        parts = train_test_split(
            np.arange(len(photos)), test_size=test_share, stratify=labels, random_state=SPLIT_SEED
        )
        for words, part in zip(("train on", "test on"), parts, strict=True):
            for name in sorted(set(names) - {labels[index] for index in part}):
                raise ValueError(f"none of {name} to {words}")
    except ValueError as error:
        raise KdflowError(
            f"test_share: expected a share that takes images of every class from {len(photos):,}"
            f" images in {len(names)} classes, got {test_share} ({error})"
        ) from error
    train, test = ([photos[index] for index in sorted(part)] for part in parts)
    return {TRAIN: train, "test": test}


def _in_parallel(work: Callable[[Photo], T], photos: list[Photo], words: str) -> Iterator[T]:
    """What `work` returns of each photo, in their order; few results wait to be taken."""
    from tqdm import tqdm

    bar = tqdm(total=len(photos), desc=words, unit="image", disable=None, leave=False)
    with bar, ThreadPoolExecutor(min(THREADS, available_cpus())) as pool:
        for start in range(0, len(photos), AT_A_TIME):
            for result in pool.map(work, photos[start : start + AT_A_TIME]):
                yield result
                bar.update()


FOLDER = DatasetRecord(
    "the path of a folder of photos",
    load_folder,
    teacher="broad",
    student="compact",
    pupil="mini",
    recognises=is_folder,
    options=("image_size", "test_share", "skip_bad"),
)
