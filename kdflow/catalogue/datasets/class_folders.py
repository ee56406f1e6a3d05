"""Which photos a folder of class folders holds: what is there, without opening any."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdflow.errors import KdflowError

TRAIN, TESTS = "train", ("test", "val")


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


def list_photos(root: Path) -> tuple[list[Photo], dict[str, list[str]], list[str], list[str]]:
    """The photos of a folder; the class folders of each split; what is in these and can be no
    photo, in words; and remarks."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing of that name"
        raise KdflowError(f"dataset: expected a folder of class folders, got {root}: {found}")
    folders, files = _entries(root)
    names = [folder.name for folder in folders]
    remarks = [f"files beside the folders of {root}, not used: {len(files):,}"] if files else []
    splits = {"": root}
    if TRAIN in names and len(names) > 1 and set(names) <= {TRAIN, *TESTS}:
        test, *others = (name for name in TESTS if name in names)
        splits = {TRAIN: root / TRAIN, "test": root / test}
        remarks += [
            f"{root / other} is not used: holdout takes the validation images from {TRAIN}/"
            for other in others
        ]
    photos, left_out = [], []
    labels = {split: [found.name for found in _entries(it)[0]] for split, it in splits.items()}
    for split, folder in splits.items():
        for label in labels[split]:
            below, inside = _entries(folder / label)
            left_out += [
                f"expected only image files in {folder / label}, got the folder {found.name}"
                for found in below
            ]
            for file in inside:
                if _is_regular(file):
                    photos.append(Photo(split, label, file))
                else:
                    left_out.append(
                        f"expected image files, got {file}, which is not a regular file"
                    )
    check_classes(root, labels, photos)
    return photos, labels, left_out, remarks


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder and all else, sorted by name, without what is hidden."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise KdflowError(f"dataset: {folder} cannot be read: {error.strerror}") from error
    folders = [entry for entry in entries if entry.is_dir()]
    for found in folders:
        try:
            found.name.encode()
        except UnicodeEncodeError:
            raise KdflowError(
                f"dataset: expected folders whose names are UTF-8 in {folder}, got"
                f" {os.fsencode(found.name)!r}; rename it"
            ) from None
    return folders, [entry for entry in entries if not entry.is_dir()]


def _is_regular(file: Path) -> bool:
    """Whether it is a file that can be read to its end, or a link to one."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def check_classes(root: Path, labels: Mapping[str, list[str]], photos: list[Photo]) -> None:
    """Refuse fewer than two classes, other classes in one split, and a class without photos.

    Args:
        labels: the class folders of each split.
    """
    first, *others = ({*names} for names in labels.values())
    if len(first) < 2:
        found = f"one, {min(first)!r}" if first else "none"
        beside = " (beside train/, a test/ or val/ is needed)" if first == {TRAIN} else ""
        raise KdflowError(
            f"dataset: expected two or more class folders in {root}, got {found}{beside}"
        )
    for split, other in zip([*labels][1:], others, strict=True):
        for label in sorted(first ^ other):
            only_in = next(iter(labels)) if label in first else split
            raise KdflowError(
                f"dataset: expected the same class folders for training and testing in {root}, got"
                f" {label!r} in {only_in} alone"
            )
    filled = {(photo.split, photo.label) for photo in photos}
    for split, names in labels.items():
        for label in names:
            if (split, label) not in filled:
                raise KdflowError(
                    "dataset: expected images in every class folder, got none in"
                    f" {root / split / label}{_why_none(root / split / label, names)}"
                )


def _why_none(folder: Path, names: list[str]) -> str:
    """What may be wrong with a class folder without images, as the end of a sentence."""
    below = [found.name for found in _entries(folder)[0]]
    if any(name.lower().startswith((TRAIN, *TESTS)) for name in names):
        return "; only folders called train beside test or val are read as splits: rename yours"
    if below:
        return f", only the folder {below[0]}: move its images up"
    return ""
