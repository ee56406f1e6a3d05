"""Predictions as a CSV file, and as a page with thumbnails."""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdflow.cache import replacing
from kdflow.errors import KdflowError

if TYPE_CHECKING:
    import numpy as np

THUMBNAIL, SHOWN = 96, 1000  # pixels; images of the page


class Prediction(NamedTuple):
    """What a model says of an image.

    Attributes:
        path: of the image.
        label: the name of the class.
        probability: of that class.
    """

    path: str
    label: str
    probability: float


def thumbnail(pixels: np.ndarray) -> str:
    """A small PNG, in base64."""
    from PIL import Image

    image = Image.fromarray(pixels.squeeze())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    image.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def _least_certain(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    """At most `most` of the predictions, the same number of each class, the least probable first,
    class by class."""
    ordered = sorted(predictions, key=lambda it: (it.label, it.probability))
    by_class = [list(same) for _, same in groupby(ordered, key=lambda it: it.label)]
    each = max(1, most // max(1, len(by_class)))
    return [it for same in by_class for it in same[:each]][:most]


def write(
    predictions: Sequence[Prediction],
    output: Path,
    model: str,
    temperature: float,
    thumbnail: Callable[[str], str],
) -> None:
    """Write the CSV file and the page, each whole or not at all.

    Args:
        model: as the user named it.
        thumbnail: of the image at a path, a PNG in base64.
    """
    from kdflow.page import rendered

    shown = _least_certain(predictions, SHOWN)
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["path", "class", "probability"])
    writer.writerows([it.path, it.label, f"{it.probability:.6f}"] for it in predictions)
    texts = {
        output: rows.getvalue(),
        output.with_suffix(".html"): rendered(
            Path(__file__).with_name("predictions.html"),
            predictions=shown,
            thumbnail=thumbnail,
            count=len(predictions),
            counts=Counter(it.label for it in predictions),
            model=model,
            temperature=temperature,
        ),
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with replacing(path) as new:
                new.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise KdflowError(f"output: expected a file that can be written, got {error}") from error
