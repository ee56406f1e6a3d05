"""`report.html`: what a deployment made, in one page for people."""

import base64
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from kdflow.dataset import Dataset
from kdflow.deploy import browser
from kdflow.deploy.table import KERAS, Row, against_teacher
from kdflow.evaluate import plots
from kdflow.evaluate.compare import WORSE
from kdflow.evaluate.paired import SAME, Paired
from kdflow.page import rendered

TEMPLATE = Path(__file__).with_name("report.html")
DOTS_PER_INCH = 160


class Picture(NamedTuple):
    """A picture within a page.

    Attributes:
        png: in base64.
        alt: what it shows, in words.
    """

    png: str
    alt: str


class OfClass(NamedTuple):
    """What the network and the served file get right of a class, 0 to 1."""

    name: str
    images: int
    file: float
    keras: float


def page(
    rows: Sequence[Row],
    manifest: Mapping[str, Any],
    dataset: Dataset,
    origin: Mapping[str, str],
    served: str,
    picture: Figure,
    threads: int,
) -> str:
    """The page, which needs no other file.

    Args:
        rows: of the table.
        manifest: the content of `deploy.json`.
        origin: how the network was trained and what taught it, in words, by name.
        served: the name of the file that is served.
        picture: accuracy over size and over time.
        threads: of the files, as they were timed.
    """
    own = {row.what: row for row in rows if row.role == "student"}
    verdicts = list(_verdicts(own, served, manifest["margin_points"]))
    return rendered(
        TEMPLATE,
        manifest=manifest,
        dataset=dataset,
        origin=origin,
        served=served,
        threads=threads,
        networks=[list(group) for _, group in itertools.groupby(rows, lambda row: row.role)],
        verdicts=verdicts,
        against_teacher=against_teacher(rows, served),
        is_refused=any(verdict == WORSE for verdict, _ in verdicts),
        picture=_picture(picture, "Test accuracy of each file over its size and over its time"),
        confusions=_confusions(own[served], dataset),
        classes=_classes(own, dataset, served),
        alike=_alike(manifest["files"]),
        runtime=browser,
    )


def _verdicts(own: Mapping[str, Row], served: str, margin: float) -> Iterator[tuple[str, str]]:
    """The verdict of each file, and what it means; that of the served file first."""
    for name in sorted(own, key=lambda name: name != served):
        if own[name].is_file:
            paired = own[name].judged.paired
            chosen = " It was chosen to be served." if name == served else ""
            yield paired.verdict, in_words(name, paired, margin) + chosen


def in_words(name: str, paired: Paired, margin: float) -> str:
    """A verdict as a sentence.

    Args:
        margin: in percentage points.
    """
    points = f"{margin:g} percentage point" + "s" * (margin != 1)
    measured = f"the difference is {paired} on {paired.images:,} test images"
    if paired.verdict == SAME:
        return f"{name} is as good as the Keras model: it loses at most {points}; {measured}."
    if paired.verdict == WORSE:
        return f"{name} is worse than the Keras model: it loses more than {points}; {measured}."
    return (
        f"The test set is too small to tell whether {name} loses more than {points}; {measured}."
        " Use more test images or a larger margin."
    )


def _picture(figure: Figure, alt: str) -> Picture:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return Picture(base64.b64encode(written.getvalue()).decode(), alt)


def _confusions(row: Row, dataset: Dataset) -> Picture:
    """The confusion matrix of a file; in words, the classes that it confuses most."""
    counts, names = row.judged.confusions, dataset.class_names
    alt = f"Confusion matrix of {row.what}: {counts.trace():,} of {counts.sum():,} images are right"
    wrong = counts - np.diag(counts.diagonal())
    if wrong.any():
        label, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
        alt += (
            f"; the most frequent mistake is {names[label]} taken for {names[predicted]},"
            f" {wrong.max()} times"
        )
    return _picture(plots.confusions(counts, names, f"{row.what}, test images"), alt)


def _classes(own: Mapping[str, Row], dataset: Dataset, served: str) -> list[OfClass]:
    """The classes, those with the lowest accuracy first; those without test images last."""
    file, before = (own[name].judged for name in (served, KERAS))
    images = file.confusions.sum(axis=1)
    columns = (images.tolist(), file.class_accuracy.tolist(), before.class_accuracy.tolist())
    classes = map(OfClass, dataset.class_names, *columns)
    return sorted(classes, key=lambda each: (each.images == 0, each.file))


def _alike(files: Mapping[str, Any]) -> list[tuple[list[str], Any]]:
    """The files that are run in the same way, and the description of the first of them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, described in files.items():
        groups.setdefault((described["format"], described["input"]["dtype"]), []).append(name)
    return [(names, files[names[0]]) for names in groups.values()]
