"""The augmentations, as finite lists of views of an image.

Because there are finitely many, a teacher's logits can be cached for every view, and the student is
taught exactly the logits of the pixels it sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdflow.errors import ParameterError
from kdflow.image_file import Pixels
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    from PIL import Image, ImageEnhance
else:
    Image, ImageEnhance = lazy_import("PIL.Image"), lazy_import("PIL.ImageEnhance")

MAX_SHIFT = 4


class View(NamedTuple):
    """A mirror image or not, then a shift of the content by (dy, dx) pixels, down and right."""

    flip: bool
    dy: int
    dx: int

    @property
    def mirrored(self) -> View:
        """The view that shows the mirror image of what this one shows: a shift to the left becomes
        one to the right."""
        return self._replace(flip=not self.flip, dx=-self.dx)


class PhotoView(NamedTuple):
    """A mirror image or not, of a crop that is resized to the whole image, in other colours.

    Attributes:
        area: the crop's share of the image's area; its sides are in the image's proportions.
        down, right: where the crop lies: 0 is the upper or left edge, 1 the lower or right one.
        colours: a key of `COLOURS`.
    """

    flip: bool
    area: float
    down: int
    right: int
    colours: str

    @property
    def mirrored(self) -> PhotoView:
        """The view that shows the mirror image of what this one shows: a crop at the left becomes
        one at the right."""
        right = 1 - self.right if self.area < 1 else self.right
        return self._replace(flip=not self.flip, right=right)


# Factors of brightness, contrast, saturation and warmth. The last multiplies red and divides blue.
COLOURS = {
    "own": (1, 1, 1, 1),
    "darker": (0.8, 1, 1, 1),
    "brighter": (1.2, 1, 1, 1),
    "flatter": (1, 0.8, 1, 1),
    "harder": (1, 1.25, 1, 1),
    "paler": (1, 1, 0.7, 1),
    "richer": (1, 1, 1.3, 1),
    "colder": (1, 1, 1, 0.92),
    "warmer": (1, 1, 1, 1.08),
}


def _shifts() -> tuple[View, ...]:
    reach = range(-MAX_SHIFT, MAX_SHIFT + 1)
    shifts = sorted(
        ((dy, dx) for dy in reach for dx in reach),
        key=lambda shift: (max(map(abs, shift)), abs(shift[0]) + abs(shift[1]), shift),
    )
    return tuple(View(flip, dy, dx) for dy, dx in shifts for flip in (False, True))


def _photos() -> tuple[PhotoView, ...]:
    crops = ((1.0, 0, 0), *product((0.9, 0.8), (0, 1), (0, 1)))
    names = list(COLOURS)
    return tuple(
        PhotoView(flip, area, down, right, names[(number + turn) % len(names)])
        for turn in range(len(names))
        for number, (area, down, right) in enumerate(crops)
        for flip in (False, True)
    )


SHIFTS = _shifts()
"""162 views, smallest shifts first: 0 is the image itself, 1 its mirror image."""

VIEW_SETS: dict[str, tuple[View, ...] | tuple[PhotoView, ...]] = {
    "shifts": SHIFTS,
    "photos": _photos(),
}
"""By the name that users choose. Views of odd numbers are mirror images of those before them. Of
`photos`, 162 too, the first 18 show each crop and each change of colours once."""

UNCHANGED = {each[0] for each in VIEW_SETS.values()}
"""The first view of each set: the image itself."""


def with_flip(views: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The views that differ from these in their mirroring alone: they mirror the image where `flip`
    is 1, and don't where it is 0."""
    flipped: np.ndarray = views - views % 2 + flip
    return flipped


def apply(
    images: Pixels,
    shown: np.ndarray,
    indices: np.ndarray | None = None,
    views: Sequence[View | PhotoView] = SHIFTS,
) -> np.ndarray:
    """Each of the chosen images in the view chosen for it.

    Args:
        images: (n, height, width, channels), uint8; of shifts any dtype. Not modified.
        shown: (m,) integers, indices into `views`.
        indices: (m,), the chosen images; all of them, in their order, if not given.
        views: a set of `VIEW_SETS`, or some of it.

    Returns:
        A new array (m, height, width, channels) of the same dtype. What a shift uncovers is filled
        by reflection.
    """
    indices = np.arange(len(images)) if indices is None else indices
    seen = np.empty((len(indices), *images.shape[1:]), images.dtype)
    for number in np.unique(shown):
        chosen, view = np.flatnonzero(shown == number), views[number]
        if isinstance(view, View):
            flat = images[indices[chosen]].reshape(len(chosen), -1)
            pixels = flat.take(_sources(view, images.shape[1:]), axis=1)
            seen[chosen] = pixels.reshape(len(chosen), *images.shape[1:])
        else:
            for position in chosen:
                seen[position] = _photo(images[indices[position]], view)
    return seen


def check_fit(view_set: str, image_shape: tuple[int, ...]) -> None:
    """Refuse images that have no colours, for views that change them.

    Args:
        image_shape: (height, width, channels).

    Raises:
        ParameterError: they have other than 1 or 3 channels.
    """
    if view_set == "photos" and image_shape[2] not in (1, 3):
        raise ParameterError(
            "view_set: expected shifts with images that are neither grey nor RGB, got photos with"
            f" {image_shape[2]} channels"
        )


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


def _photo(image: np.ndarray, view: PhotoView) -> np.ndarray:
    """An image, (height, width, channels) uint8 with 1 or 3 channels, in a view."""
    height, width, channels = image.shape
    mirrored = image[:, ::-1] if view.flip else image
    seen = Image.fromarray(mirrored if channels == 3 else mirrored[..., 0])
    if view.area < 1:
        side = math.sqrt(view.area)
        left, top = (1 - side) * width * view.right, (1 - side) * height * view.down
        box = (left, top, left + side * width, top + side * height)
        seen = seen.resize((width, height), Image.Resampling.BILINEAR, box)
    brightness, contrast, saturation, warmth = COLOURS[view.colours]
    if brightness != 1:
        seen = ImageEnhance.Brightness(seen).enhance(brightness)
    if contrast != 1:
        seen = ImageEnhance.Contrast(seen).enhance(contrast)
    if channels == 3 and saturation != 1:
        seen = ImageEnhance.Color(seen).enhance(saturation)
    if channels == 3 and warmth != 1:
        seen = seen.point([*_scaled(warmth), *range(256), *_scaled(1 / warmth)])
    return np.asarray(seen).reshape(image.shape)


def _scaled(factor: float) -> list[int]:
    """What each value of a channel becomes."""
    return [min(255, round(value * factor)) for value in range(256)]
