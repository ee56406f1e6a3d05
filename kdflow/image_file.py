"""Images in a file, of which only those that are asked for are held in memory."""

from __future__ import annotations

import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

PART_BYTES = 64 * 2**20  # of images, with their targets, that are held in memory at a time
READ_BYTES = 2**20  # at a time, from a file

ImageShape = tuple[int, int, int]
"""(height, width, channels) of an image, or of a layer's maps."""


class ImageFile:
    """A `.npy` file of uint8 images that is read where it is indexed, like an array.

    The file is read, not mapped: pages of a mapped file count as memory of the process once they
    have been touched, and a training touches all.

    Args:
        path: in C order. Kept open, so that the images stay readable where the file is deleted.
        sha256: of the images' bytes.

    Attributes:
        shape: (images, height, width, channels).
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self.sha256 = path, sha256
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        with open(self._file, "rb", closefd=False) as file:
            np.lib.format.read_magic(file)
            self.shape, fortran_order, self.dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        if fortran_order or self.dtype != np.uint8 or len(self.shape) != 4:
            raise ValueError(f"expected uint8 images in C order, got {self.dtype} {self.shape}")

    def __reduce__(self) -> tuple[type[ImageFile], tuple[Path, str]]:
        return ImageFile, (self.path, self.sha256)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: int | slice | np.ndarray) -> np.ndarray:
        """A new array of one image, or of the chosen ones in their order."""
        if isinstance(chosen, slice):
            first, stop, step = chosen.indices(len(self))
            if step == 1:
                images = np.empty((max(stop - first, 0), *self.shape[1:]), np.uint8)
                self._read(first, images)
                return images
        indices = np.arange(len(self))[chosen]  # as NumPy understands and checks them
        images = np.empty((*indices.shape, *self.shape[1:]), np.uint8)
        rows = images.reshape(-1, *self.shape[1:])
        for row, index in zip(rows, np.ravel(indices), strict=True):
            self._read(int(index), row)
        return images

    def _read(self, first: int, into: np.ndarray) -> None:
        unread = into.reshape(-1).data
        position = self._start + first * math.prod(self.shape[1:])
        while unread:
            read = os.pread(self._file, min(len(unread), READ_BYTES), position)
            if not read:
                raise OSError(f"{self.path} ends before its last image")
            unread[: len(read)] = read
            unread, position = unread[len(read) :], position + len(read)


Pixels = Any
"""uint8 (images, height, width, channels): an array, or an `ImageFile` where all of it may not fit
in memory. Index it by a slice or an array of integers to get an array."""


def batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """`indices` in order, `size` at a time; the last batch may be smaller."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def batch_count(images: int, size: int) -> int:
    """How many batches of `size` so many images make; the last batch may be smaller."""
    return math.ceil(images / size)


def batches_in_part(batch_bytes: int) -> int:
    """How many batches are held in memory at a time: `PART_BYTES` of them, at least one."""
    return max(1, PART_BYTES // batch_bytes)
