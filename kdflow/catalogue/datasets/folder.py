"""A user's own photos: a folder with a folder of images per class."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from kdflow.cache import check_room
from kdflow.catalogue.datasets.content import sha256_of
from kdflow.catalogue.datasets.photo import NoPhotoError, pixels_of, size_of
from kdflow.catalogue.datasets.record import DatasetRecord
from kdflow.catalogue.datasets.stored import NewDataset, stored
from kdflow.errors import KdflowError
from kdflow.late import late

if TYPE_CHECKING:
    import numpy as np

    from kdflow.dataset import Dataset
else:
    np = late("numpy")

T = TypeVar("T")

DEFAULT_TEST_SHARE = 0.2
TRAIN, TESTS = "train", ("test", "val")
THREADS, AT_A_TIME = 8, 256  # images that are decoded side by side, and handed out in their order


class Photo(NamedTuple):
    """A file of a class folder.

    Attributes:
        split: train or test; empty where the folder has one level, which is split here.
        label: the class, by its name.
        sha256: of the file's bytes.
    """

    split: str
    label: str
    file: Path
    sha256: str = ""


def is_folder(typed: str) -> bool:
    """Whether a user who typed this means a folder: it ends with a slash, or is one."""
    return typed.endswith(("/", os.sep)) or os.path.isdir(typed)  # noqa: PTH112 (names too long)


def load_folder(name: str, *, image_size: int, test_share: float, skip_bad: bool) -> Dataset:
    """The photos of a folder: `train/` and `test/` (or `val/`) with class folders in each, or class
    folders alone, which are split. Decoded once, and kept in the cache from then on.

    The classes are the folders' names, sorted, and so are the files of a class. Hidden files are
    ignored.

    Args:
        image_size: as of `photo.pixels_of`; 0 expects images of one size.
        test_share: the share of each class that becomes test images where there is one level.
        skip_bad: leave out what is no image, instead of refusing the folder.

    Raises:
        KdflowError: the folders are not of that kind, a file is no image, the sizes differ, or the
            cache cannot be written to.
    """
    root = Path(name)
    photos, left_out, remarks = _listed(root)
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
        _check_classes(root, [(photo.split, photo.label) for photo in photos], chosen)
        _write(new, root, chosen, image_size, test_share)
        if skipped := len(left_out) + len(photos) - len(chosen):
            new.remarks.append(f"{skipped:,} files of {root} are no images and were left out")

    described = [
        "folder 1",
        [image_size, test_share, skip_bad, len(left_out)],
        [(photo.split, photo.label, photo.file.name, photo.sha256) for photo in photos],
    ]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    for remark in remarks:
        print(f"dataset: {remark}")
    return stored(name, key, write)


def _listed(root: Path) -> tuple[list[Photo], list[str], list[str]]:
    """The photos of a folder; what is in a class folder and can be none, in words; and remarks."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing of that name"
        raise KdflowError(f"dataset: expected a folder of class folders, got {root}: {found}")
    folders, files = _entries(root)
    names = [folder.name for folder in folders]
    remarks = [f"{len(files):,} files beside the folders of {root} are not used"] if files else []
    splits = {"": root}
    if TRAIN in names and len(names) > 1 and set(names) <= {TRAIN, *TESTS}:
        test, *others = (name for name in TESTS if name in names)
        splits = {TRAIN: root / TRAIN, "test": root / test}
        remarks += [
            f"{root / other} is not used: holdout takes the validation images from {TRAIN}/"
            for other in others
        ]
    photos, left_out, folders_of = [], [], {}
    for split, folder in splits.items():
        folders_of[split] = [found.name for found in _entries(folder)[0]]
        for label in folders_of[split]:
            below, inside = _entries(folder / label)
            left_out += [
                f"expected image files alone in {folder / label}, got the folder {found.name}"
                for found in below
            ]
            for file in inside:
                if _is_regular(file):
                    photos.append(Photo(split, label, file))
                else:
                    left_out.append(f"expected image files, got {file}, which is no regular file")
    everything = [(split, label) for split, labels in folders_of.items() for label in labels]
    _check_classes(root, everything, photos)
    return photos, left_out, remarks


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder and all else, sorted by name, without what is hidden."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise KdflowError(f"dataset: {folder} cannot be read: {error.strerror}") from error
    folders = [entry for entry in entries if entry.is_dir()]
    return folders, [entry for entry in entries if not entry.is_dir()]


def _is_regular(file: Path) -> bool:
    """Whether it is a file that can be read to its end, or a link to one."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def _check_classes(root: Path, folders: Sequence[tuple[str, str]], photos: list[Photo]) -> None:
    """Refuse fewer than two classes, other classes in one split, and a class without images.

    Args:
        folders: of each class folder, split and label.
    """
    of_split = {split: {label for of, label in folders if of == split} for split, _ in folders}
    labels = of_split.get("", of_split.get(TRAIN, set()))
    if len(labels) < 2:
        found = f"one, {min(labels)!r}" if labels else "none"
        beside = " (beside train/, a test/ or val/ is needed)" if labels == {TRAIN} else ""
        raise KdflowError(
            f"dataset: expected two or more class folders in {root}, got {found}{beside}"
        )
    different = sorted(labels.symmetric_difference(of_split.get("test", labels)))
    if different:
        raise KdflowError(
            f"dataset: expected the same class folders for training and testing in {root}, got"
            f" {different[0]!r} in one of them"
        )
    filled = {(photo.split, photo.label) for photo in photos}
    for split, label in folders:
        if (split, label) not in filled:
            where = root / split / label
            raise KdflowError(
                f"dataset: expected images in every class folder, got none in {where}"
            )


def _without_bad(photos: list[Photo], image_size: int) -> list[Photo]:
    """The photos that can be decoded, which takes decoding them."""

    def is_good(photo: Photo) -> bool:
        try:
            pixels_of(photo.file, image_size)
        except NoPhotoError:
            return False
        return True

    good = _in_parallel(is_good, photos, "checking")
    return [photo for photo, is_kept in zip(photos, good, strict=True) if is_kept]


def _write(
    new: NewDataset, root: Path, photos: list[Photo], image_size: int, test_share: float
) -> None:
    """Decode the photos into the arrays of a data set."""
    height, width = (image_size, image_size) if image_size else _common_size(photos)
    names = sorted({photo.label for photo in photos})
    parts = _split(photos, names, test_share)
    needed = len(photos) * height * width * 3
    words = f"{len(photos):,} images of {root} as {width}x{height} pixels"
    print(f"dataset: decoding {words} into {needed / 1e6:,.1f} MB in {new.folder.parent}")
    check_room(new.folder, needed, words)
    label_type = np.dtype(np.uint8 if len(names) <= 256 else np.int32)
    for split, part in parts.items():
        shape = (len(part), height, width, 3)
        decoded = _in_parallel(lambda photo: _pixels(photo, image_size), part, split)
        new.write(f"x_{split}", shape, np.dtype(np.uint8), (image.tobytes() for image in decoded))
        labels = np.array([names.index(photo.label) for photo in part], label_type)
        new.write(f"y_{split}", labels.shape, label_type, [labels.tobytes()])
    new.class_names = names
    trained_on = {photo.sha256 for photo in parts["train"]}
    twice = sum(photo.sha256 in trained_on for photo in parts["test"])
    if twice:
        new.remarks.append(
            f"{twice:,} of {len(parts['test']):,} test images are training images too, byte for"
            " byte: test accuracy will be too high"
        )


def _pixels(photo: Photo, image_size: int) -> np.ndarray:
    try:
        return pixels_of(photo.file, image_size)
    except NoPhotoError as error:
        raise _no_photo(photo, error) from error


def _no_photo(photo: Photo, error: NoPhotoError) -> KdflowError:
    return KdflowError(
        f"dataset: expected image files, got {photo.file}: {error} (skip_bad=true leaves it out)"
    )


def _common_size(photos: list[Photo]) -> tuple[int, int]:
    """Height and width of all photos.

    Raises:
        KdflowError: they differ.
    """

    def size(photo: Photo) -> tuple[int, int]:
        try:
            return size_of(photo.file)
        except NoPhotoError as error:
            raise _no_photo(photo, error) from error

    sizes = Counter(_in_parallel(size, photos, "sizes"))
    if len(sizes) > 1:
        ordered = sorted(sizes, key=lambda size: size[0] * size[1])
        smallest, largest = (f"{width}x{height}" for width, height in (ordered[0], ordered[-1]))
        raise KdflowError(
            f"image_size: expected a number of pixels, as the images have {len(sizes):,} sizes,"
            f" from {smallest} to {largest}, got 0 (for example image_size=96)"
        )
    ((width, height),) = sizes
    return height, width


def _split(photos: list[Photo], names: list[str], test_share: float) -> dict[str, list[Photo]]:
    """The photos for training and for testing, in the order of `photos`."""
    from sklearn.model_selection import train_test_split

    from kdflow.dataset import SPLIT_SEED

    if photos[0].split:
        return {split: [p for p in photos if p.split == split] for split in (TRAIN, "test")}
    labels = [photo.label for photo in photos]
    try:
        parts = train_test_split(
            np.arange(len(photos)), test_size=test_share, stratify=labels, random_state=SPLIT_SEED
        )
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
    with bar, ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(photos), AT_A_TIME):
            for result in pool.map(work, photos[start : start + AT_A_TIME]):
                yield result
                bar.update()


FOLDER = DatasetRecord(
    "the path of a folder of photos",
    load_folder,
    is_path=is_folder,
    options=("image_size", "test_share", "skip_bad"),
)
