"""The augmentations, as a finite list: each view mirrors and shifts the whole image.

Because there are finitely many, a teacher's logits can be cached for every view, and the student is
taught exactly the logits of the pixels it sees.
"""

import math
from typing import NamedTuple

import numpy as np

from kdflow.image_file import Pixels

MAX_SHIFT = 4


class View(NamedTuple):
    """A mirror image or not, then a shift of the content by (dy, dx) pixels, down and right."""

    flip: bool
    dy: int
    dx: int


def _enumerate() -> tuple[View, ...]:
    reach = range(-MAX_SHIFT, MAX_SHIFT + 1)
    shifts = sorted(
        ((dy, dx) for dy in reach for dx in reach),
        key=lambda shift: (max(map(abs, shift)), abs(shift[0]) + abs(shift[1]), shift),
    )
    return tuple(View(flip, dy, dx) for dy, dx in shifts for flip in (False, True))


VIEWS = _enumerate()
"""All 162 views, smallest shifts first: 0 is the image itself, 1 its mirror image."""


def with_flip(views: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The views with the same shifts that mirror the image where `flip` is 1, and don't where it
    is 0."""
    flipped: np.ndarray = views - views % 2 + flip
    return flipped


def apply(images: Pixels, views: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray:
    """Each of the chosen images in the view chosen for it.

    Args:
        images: (n, height, width, channels), any dtype. Not modified.
        views: (m,) integers, indices into `VIEWS`.
        indices: (m,), the chosen images; all of them, in their order, if not given.

    Returns:
        A new array (m, height, width, channels) of the same dtype. What a shift uncovers is filled
        by reflection.
    """
    shape = images.shape[1:]
    indices = np.arange(len(images)) if indices is None else indices
    shown = np.empty((len(indices), math.prod(shape)), images.dtype)
    for v in np.unique(views):
        chosen = np.flatnonzero(views == v)
        flat = images[indices[chosen]].reshape(len(chosen), -1)
        shown[chosen] = flat.take(_sources(VIEWS[v], shape), axis=1)
    return shown.reshape(-1, *shape)


def _sources(view: View, shape: tuple[int, ...]) -> np.ndarray:
    """Where each number of a flattened image in `view` comes from in the flattened image.

    Args:
        shape: (height, width, channels).

    Returns:
        (height * width * channels,) positions.
    """
    height, width, _ = shape
    positions = np.arange(math.prod(shape)).reshape(shape)
    if view.flip:
        positions = positions[:, ::-1]
    margin = (MAX_SHIFT, MAX_SHIFT)
    positions = np.pad(positions, (margin, margin, (0, 0)), mode="reflect")
    top, left = MAX_SHIFT - view.dy, MAX_SHIFT - view.dx
    return positions[top : top + height, left : left + width].ravel()
