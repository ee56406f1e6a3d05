"""One photo of a user's as an array of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdflow.errors import reason
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np
    import PIL
    from PIL import Image, ImageOps
else:
    np, PIL, Image, ImageOps = map(lazy_import, ("numpy", "PIL", "PIL.Image", "PIL.ImageOps"))

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
TURNED = (5, 6, 7, 8)  # the EXIF orientations that swap width and height
ORIENTATION = 0x0112  # the tag's number


class InvalidImageError(Exception):
    """A file that is not an image, is damaged, or has numbers beyond 16 bits; says why."""


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a photo as it is looked at, without decoding it.

    Raises:
        InvalidImageError: the file is not a valid image.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except Exception as error:  # a damaged file fails in many ways
        raise InvalidImageError(_reason(error, file)) from error
    return (height, width) if turned else (width, height)


def pixels_of(file: Path, side: int = 0) -> np.ndarray:
    """A photo, uint8 (height, width, 3) in RGB, turned as its EXIF orientation says.

    Grey and palette images become RGB, 16 bits are scaled to 8, and what is transparent is seen on
    white. Of an animation it is the first frame.

    Args:
        side: the shorter side is resized to this and the longer one cropped to it, centred; 0
            leaves the size as it is.

    Raises:
        InvalidImageError: the file is not a valid image.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if side:
                image.draft(None, (2 * side, 2 * side))  # a large JPEG is decoded at half its size
            turned = ImageOps.exif_transpose(image)
            rgb = _in_rgb(turned)
            if side:
                rgb = ImageOps.fit(rgb, (side, side), Image.Resampling.BICUBIC)
            return np.asarray(rgb)
    except Exception as error:  # a damaged file fails in many ways
        raise InvalidImageError(_reason(error, file)) from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # grey, 16 bits; Pillow would clip the numbers at 255
        numbers = np.asarray(image).astype(np.int64)
        if numbers.min() < 0 or numbers.max() > 0xFFFF:
            raise ValueError("expected numbers of 8 or 16 bits")
        image = Image.fromarray(np.rint(numbers / 257).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _reason(error: Exception, file: Path) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    return reason(error).replace(str(file), file.name)
