"""The pictures that runs log."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from kdflow.evaluate.compare import Comparison

NAMED_CLASSES, COUNTED_CLASSES = 60, 25  # more do not fit in a confusion matrix
SHEET_COLUMNS = 6


def learning_curves(history: Sequence[dict[str, float]], title: str) -> Figure:
    """The labels' cross-entropy and the accuracy per epoch, of training and validation.

    Of a distillation's loss only the hard term is drawn: the soft one has another scale.

    Args:
        history: one dict of metrics per epoch, as `training.loop.fit` yields them.
    """
    labels_loss = "train_hard_loss" if "train_hard_loss" in history[0] else "train_loss"
    panels = {
        "cross-entropy of the labels (nats)": {"training": labels_loss, "validation": "val_loss"},
        "accuracy": {"training": "train_accuracy", "validation": "val_accuracy"},
    }
    return _curves(history, title, panels)


def hint_curves(history: Sequence[dict[str, float]], title: str) -> Figure:
    """The error of the hints, and the accuracy of a classifier on the guided features, per epoch.

    Args:
        history: one dict of metrics per epoch, as `training.hint.fit_hint` yields them.
    """
    panels = {
        "mean squared error of the hints": {
            "training": "hint_loss",
            "validation": "val_hint_loss",
        },
        "accuracy of the nearest class mean": {"validation": "val_probe_accuracy"},
    }
    return _curves(history, title, panels)


def _curves(
    history: Sequence[dict[str, float]], title: str, panels: dict[str, dict[str, str]]
) -> Figure:
    """A panel per quantity, in each a line per label: the values of a metric over the epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    epochs = range(1, len(history) + 1)
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for label, metric in curves.items():
            values = [metrics[metric] for metrics in history]
            axes.plot(epochs, values, marker="." if len(values) < 50 else None, label=label)
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return _without_mathtext(figure)


def comparison(
    result: Comparison, baseline: Sequence[float], candidate: Sequence[float], title: str
) -> Figure:
    """Each seed's two results joined by a line, beside the means with their intervals.

    Args:
        baseline, candidate: one result per seed, in the same order, of which `result` is made.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    figure.suptitle(f"{title}\ndifference {result.difference}: {result.verdict}", fontsize=10)
    axes = figure.subplots()
    for pair in zip(baseline, candidate, strict=True):
        axes.plot([0, 1], pair, color="0.7", marker="o", zorder=1)
    for x, estimate in ((-0.15, result.baseline), (1.15, result.candidate)):
        reach = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
        axes.errorbar(x, estimate.mean, yerr=reach, fmt="D", capsize=5)
    axes.set_xticks([0, 1], ["labels alone", "distilled"])
    axes.set(xlim=(-0.5, 1.5), ylabel="accuracy")
    axes.grid(axis="y", alpha=0.3)
    return _without_mathtext(figure)


def ledger(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """The test accuracy of each network of a ledger, as bars in its order.

    Args:
        rows: each with its `network`, `how` it was made, and `test_accuracy`.
    """
    figure = Figure(figsize=(8, 1.5 + 0.45 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    places = range(len(rows))
    bars = axes.barh(places, [row["test_accuracy"] for row in rows])
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.set_yticks(places, [f"{row['network']}, {row['how']}" for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy", xlim=(0, 1.1))
    return _without_mathtext(figure)


def confusions(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """A confusion matrix: the share of each class's images that is predicted to be of each class,
    with the counts in it where there is room.

    Args:
        counts: (classes, classes) integers, of images of the row's class.
        names: of the classes.
    """
    classes = len(names)
    side = min(4 + 0.35 * classes, 16)
    figure = Figure(figsize=(side + 1, side))
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, label="share of the class's images", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="class")
    if classes <= NAMED_CLASSES:
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    if classes <= COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    return _without_mathtext(figure)


def sheet(images: np.ndarray, captions: Sequence[str], title: str) -> Figure:
    """Images side by side, each with a caption above it. They are drawn as one, which is fast.

    Args:
        images: uint8, (images, height, width, channels) with 1, 3 or 4 channels.
        captions: two lines each.
    """
    count, height, width, channels = images.shape
    columns = min(count, SHEET_COLUMNS)
    rows = math.ceil(count / columns)
    above, between = height // 3 + 1, width // 8 + 1
    row_height, column_width = height + above, width + between
    shape = (rows * row_height, columns * column_width - between, channels)
    canvas = np.full(shape, 255, np.uint8)
    figure = Figure(figsize=(1.6 * columns, 0.5 + 2 * rows))
    figure.suptitle(title, fontsize=10)
    axes = figure.add_axes((0, 0, 1, 0.95))
    axes.axis("off")
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top = index // columns * row_height + above
        left = index % columns * column_width
        canvas[top : top + height, left : left + width] = image
        axes.text(left + width / 2, top - 1, caption, ha="center", va="bottom", fontsize=7)
    axes.imshow(canvas.squeeze(), cmap="gray" if channels == 1 else None, vmin=0, vmax=255)
    return _without_mathtext(figure)


def _without_mathtext(figure: Figure) -> Figure:
    """The figure without mathematics in its texts: a class, a file or a folder may have a `$` in
    its name."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
