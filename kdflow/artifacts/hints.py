"""A teacher's hints: the output of its hint layer for each image. They are computed once, kept on
disk in half precision while a student learns from them, and deleted afterwards.
"""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import keras
import numpy as np
from tqdm import tqdm

from kdflow import cache
from kdflow.errors import KdflowError
from kdflow.image_file import Pixels

TEACHER_BATCH = 100

MapShape = tuple[int, int, int]


@dataclass(frozen=True)
class Hints:
    """The hints of an array of images, in its order.

    Attributes:
        file: float16 numbers.
        shape: (images, height, width, channels).
    """

    file: IO[bytes]
    shape: tuple[int, int, int, int]

    def of(self, indices: np.ndarray) -> np.ndarray:
        """The hints of the chosen images, (m, height, width, channels) float16."""
        # mapped anew each time: what stays mapped counts as this process's memory
        mapped = np.memmap(self.file, np.float16, "r", shape=self.shape)
        chosen: np.ndarray = mapped[indices]
        return chosen


def bytes_needed(images: int, shape: MapShape) -> int:
    """The room on disk that the hints of so many images take."""
    return images * math.prod(shape) * np.dtype(np.float16).itemsize


def check_room(folder: Path, images: int, shape: MapShape) -> None:
    """Make `folder` if need be, and see that the hints will fit in it.

    Args:
        shape: of one image's hints, (height, width, channels).

    Raises:
        KdflowError: it cannot be made or written to, or its disk has too little room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise KdflowError(_no_room(folder, images, shape, str(error))) from error
    cache.check_room(folder, bytes_needed(images, shape), f"the hints of {images:,} images")


@contextlib.contextmanager
def cached(teacher: keras.Model, arrays: Sequence[Pixels], folder: Path) -> Iterator[list[Hints]]:
    """The hints of each array of images, on disk until the block ends.

    The files have no name, so that their room is free again however the process ends.

    Args:
        teacher: from uint8 images to the output of the hint layer.
        arrays: uint8, (images, height, width, channels) each.
        folder: where there is room for them.

    Raises:
        KdflowError: a hint is not finite in half precision, or the disk is full.
    """
    with contextlib.ExitStack() as files:
        try:
            made = [
                _computed(
                    teacher,
                    images,
                    files.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0)),
                )
                for images in arrays
            ]
        except OSError as error:
            count = sum(map(len, arrays))
            reason = _no_room(folder, count, teacher.output_shape[1:], str(error))
            raise KdflowError(reason) from error
        yield made


def _computed(teacher: keras.Model, images: Pixels, file: IO[bytes]) -> Hints:
    with tqdm(total=len(images), desc="hints", unit="image", disable=None, leave=False) as bar:
        for start in range(0, len(images), TEACHER_BATCH):
            maps = teacher.predict_on_batch(images[start : start + TEACHER_BATCH])
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                halves = maps.astype(np.float16)
            if not np.isfinite(halves).all():
                raise KdflowError(
                    "hint_layer: expected a layer whose output half precision holds, finite and up"
                    f" to 65,504, got {maps.flat[np.argmax(~np.isfinite(halves))]}"
                )
            unwritten = memoryview(halves.tobytes())
            while unwritten:  # a disk that fills up takes a part, and raises at the next
                unwritten = unwritten[file.write(unwritten) :]
            bar.update(len(halves))
    return Hints(file, (len(images), *teacher.output_shape[1:]))


def _no_room(folder: Path, images: int, shape: MapShape, got: str) -> str:
    return (
        f"cache: expected {bytes_needed(images, shape) / 1e6:,.1f} MB of room in {folder} for the"
        f" hints of {images:,} images, got {got}; KDFLOW_CACHE names another folder"
    )
