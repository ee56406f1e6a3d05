"""A teacher's hints: the output of its hint layer for each image, in half precision. They are
computed once, kept on disk while a student learns from them, and deleted afterwards; or computed
again for each batch, where the disk has no room.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import keras
import numpy as np
from tqdm import tqdm

from kdflow import cache, interrupts
from kdflow.artifacts import checkpoints
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.errors import KdflowError
from kdflow.image_file import ImageShape, Pixels

TEACHER_BATCH = 100
FILE_PREFIX = "hints-"  # in the checkpoint of a step, with the number of the array
OR_RECOMPUTED = (
    ", or run `hint` with hint_values=recomputed, which needs no disk (`init` takes its run's id)"
)


class Hints(Protocol):
    """The hints of an array of images.

    Attributes:
        shape: of one image's hints, (height, width, channels).
    """

    @property
    def shape(self) -> ImageShape: ...

    def of(self, indices: np.ndarray) -> np.ndarray:
        """The hints of the chosen images, (m, height, width, channels) float16."""


@dataclass(frozen=True)
class Recomputed:
    """Hints that are computed whenever they are asked for.

    Attributes:
        teacher: from uint8 images to the output of the hint layer.
        images: uint8, (images, height, width, channels).
    """

    teacher: keras.Model
    images: Pixels

    @property
    def shape(self) -> ImageShape:
        shape: ImageShape = self.teacher.output_shape[1:]
        return shape

    def of(self, indices: np.ndarray) -> np.ndarray:
        return _computed(self.teacher, self.images[indices])


@dataclass(frozen=True)
class Cached:
    """Hints on disk.

    Attributes:
        file: float16 numbers, in the order of the images.
        images: how many.
        shape: of one image's hints.
    """

    file: IO[bytes]
    images: int
    shape: ImageShape

    def of(self, indices: np.ndarray) -> np.ndarray:
        # mapped anew each time: what stays mapped counts as this process's memory
        mapped = np.memmap(self.file, np.float16, "r", shape=(self.images, *self.shape))
        chosen: np.ndarray = mapped[indices]
        return chosen


def bytes_needed(images: int, shape: ImageShape) -> int:
    """The room on disk that the hints of so many images take."""
    return images * math.prod(shape) * np.dtype(np.float16).itemsize


def check_room(folder: Path, images: int, shape: ImageShape) -> None:
    """Make `folder` if need be, and see that the hints will fit in it.

    Args:
        shape: of one image's hints, (height, width, channels).

    Raises:
        KdflowError: it cannot be made or written to, or its disk has too little room.
    """
    with cache.writing_to(folder, OR_RECOMPUTED):
        tempfile.TemporaryFile(dir=folder).close()
    # of interrupted steps, of which this may be one; `cached` looks again
    _check_room(folder, images, shape, checkpoints.bytes_kept(f"{FILE_PREFIX}*"))


def _check_room(folder: Path, images: int, shape: ImageShape, kept: int) -> None:
    needed = bytes_needed(images, shape) - kept
    cache.check_room(folder, needed, f"the hints of {images:,} images", OR_RECOMPUTED)


@contextlib.contextmanager
def cached(
    teacher: keras.Model,
    arrays: Sequence[Pixels],
    folder: Path,
    checkpoint: Checkpoint | None = None,
) -> Iterator[list[Cached]]:
    """The hints of each array of images, on disk until the block ends.

    Args:
        teacher: from uint8 images to the output of the hint layer.
        arrays: uint8, (images, height, width, channels) each.
        folder: where there is room for them. The files have no name, so that their room is free
            again however the process ends.
        checkpoint: where they are kept instead if the step can be resumed: the hints that are there
            are not computed again.

    Raises:
        KdflowError: a hint is not finite in half precision, or the disk is full.
    """
    with contextlib.ExitStack() as files:
        made: list[Cached] = []
        images = sum(map(len, arrays))
        kept = checkpoint.bytes_kept(f"{FILE_PREFIX}*") if checkpoint else 0
        with cache.writing_to(folder, OR_RECOMPUTED):
            _check_room(folder, images, teacher.output_shape[1:], kept)
            for index, array in enumerate(arrays):
                file = (
                    checkpoint.open(f"{FILE_PREFIX}{index}")
                    if checkpoint
                    else tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `files` closes it
                )
                made.append(_cached(teacher, array, files.enter_context(file)))
        yield made


def _cached(teacher: keras.Model, images: Pixels, file: IO[bytes]) -> Cached:
    shape = teacher.output_shape[1:]
    batch = bytes_needed(TEACHER_BATCH, shape)
    whole = file.seek(0, os.SEEK_END) // batch  # a process may have been killed within a write
    file.truncate(whole * batch)
    file.seek(whole * batch)
    done = whole * TEACHER_BATCH
    with tqdm(
        total=len(images), initial=done, desc="hints", unit="image", disable=None, leave=False
    ) as bar:
        for start in range(done, len(images), TEACHER_BATCH):
            halves = _computed(teacher, images[start : start + TEACHER_BATCH])
            unwritten = memoryview(halves.tobytes())
            while unwritten:  # a nearly full disk writes a part; the next write raises
                unwritten = unwritten[file.write(unwritten) :]
            bar.update(len(halves))
    return Cached(file, len(images), shape)


def _computed(teacher: keras.Model, images: np.ndarray) -> np.ndarray:
    with interrupts.delayed_to_the_end():
        maps = teacher.predict_on_batch(images)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        halves: np.ndarray = maps.astype(np.float16)
    if not np.isfinite(halves).all():
        raise KdflowError(
            "hint_layer: expected a layer whose output fits in half precision, finite and up to"
            f" 65,504, got {maps.flat[np.argmax(~np.isfinite(halves))]}"
        )
    return halves
