"""Open any file that was made here, run it, and read what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from kdflow.deploy import litert, onnx_format
from kdflow.deploy.tensor import Tensor
from kdflow.image_file import Pixels, batches

BATCH = 100  # images at a time where only the logits count


class Runnable(Protocol):
    """An open file."""

    input: Tensor
    output: Tensor

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """The logits of one batch, (images, classes) float32, of pixels 0 to 255."""


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        open: from a path and a number of threads to the open file.
        operations: how often a file holds each operation, by name.
    """

    name: str
    open: Callable[[Path, int], Runnable]
    operations: Callable[[Path], dict[str, int]]


FORMATS = {
    ".tflite": Format("LiteRT", litert.LiteRTFile, litert.operations),
    ".onnx": Format("ONNX", onnx_format.OnnxFile, onnx_format.operations),
}


def open_file(path: Path, threads: int = 1) -> Runnable:
    """A file that was made here, ready to run.

    Raises:
        ValueError: it is damaged, or cannot run.
    """
    return FORMATS[path.suffix].open(path, threads)


def all_logits(file: Runnable, images: Pixels, indices: np.ndarray | None = None) -> np.ndarray:
    """The logits of any number of images, (m, classes) float32. Only a part of them is copied at a
    time.

    Args:
        images: pixels 0 to 255, (n, height, width, channels).
        indices: (m,), the chosen images; all of them, in their order, if not given.
    """
    indices = np.arange(len(images)) if indices is None else indices
    return np.concatenate([file.logits(images[part]) for part in batches(indices, BATCH)])
