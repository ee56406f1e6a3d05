"""The augmentations, as a finite list: each view mirrors and shifts the whole image.

Because there are finitely many, a teacher's logits can be cached for every view, and the student is
taught exactly the logits of the pixels it sees.
"""

from typing import NamedTuple

import numpy as np

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


def apply(images: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Each image in the view chosen for it.

    Args:
        images: (n, height, width, channels), any dtype. Not modified.
        views: (n,) integers, indices into `VIEWS`.

    Returns:
        A new array of the same shape and dtype. What a shift uncovers is filled by reflection.
    """
    height, width = images.shape[1:3]
    shown = np.empty_like(images)
    reach = max((max(abs(VIEWS[v].dy), abs(VIEWS[v].dx)) for v in np.unique(views)), default=0)
    margin = (reach, reach)
    for v in np.unique(views):
        flip, dy, dx = VIEWS[v]
        chosen = np.flatnonzero(views == v)
        content = images[chosen]
        if flip:
            content = content[:, :, ::-1]
        if dy or dx:
            content = np.pad(content, ((0, 0), margin, margin, (0, 0)), mode="reflect")
            content = content[:, reach - dy : reach - dy + height, reach - dx : reach - dx + width]
        shown[chosen] = content
    return shown
