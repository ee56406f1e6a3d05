from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from kdflow.evaluate.compare import compare
from kdflow.evaluate.plots import (
    comparison,
    confusions,
    hint_curves,
    learning_curves,
    ledger,
    sheet,
)

LABELS_ONLY = [
    {"train_loss": 2.0, "val_loss": 2.5, "train_accuracy": 0.3, "val_accuracy": 0.2},
    {"train_loss": 1.0, "val_loss": 1.5, "train_accuracy": 0.6, "val_accuracy": 0.5},
]
HINTS = [
    {"hint_loss": 2.0, "val_hint_loss": 2.5, "val_probe_accuracy": 0.3},
    {"hint_loss": 1.0, "val_hint_loss": 1.5, "val_probe_accuracy": 0.4},
]


def curves(history: list[dict[str, float]]) -> list[dict[str, list[float]]]:
    """Per panel, the label and the values of each line drawn."""
    return [
        {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
        for axes in learning_curves(history, "a run").axes
    ]


def test_loss_and_accuracy_are_drawn_per_epoch() -> None:
    loss, accuracy = curves(LABELS_ONLY)
    assert loss == {"training": [2.0, 1.0], "validation": [2.5, 1.5]}
    assert accuracy == {"training": [0.3, 0.6], "validation": [0.2, 0.5]}
    figure = learning_curves(LABELS_ONLY, "a run")
    assert np.array_equal(figure.axes[0].lines[0].get_xdata(), [1, 2])
    assert figure.get_suptitle() == "a run"


def test_of_a_distillation_the_hard_term_is_drawn_which_compares_with_validation() -> None:
    distilled = [epoch | {"train_hard_loss": 1.25, "train_loss": 130.0} for epoch in LABELS_ONLY]
    assert curves(distilled)[0]["training"] == [1.25, 1.25]


def test_a_comparison_shows_every_pair_and_the_verdict() -> None:
    baseline, candidate = [0.5, 0.6, 0.7], [0.6, 0.7, 0.81]
    figure = comparison(compare(candidate, baseline), baseline, candidate, "a comparison")
    drawn = [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines]
    assert [pair for pair in drawn if len(pair) == 2] == [[0.5, 0.6], [0.6, 0.7], [0.7, 0.81]]
    assert "BEATS" in figure.get_suptitle()


def test_of_a_hint_run_the_error_and_what_the_features_are_worth_are_drawn() -> None:
    error, probe = hint_curves(HINTS, "a run").axes
    assert [np.asarray(line.get_ydata()).tolist() for line in error.lines] == [
        [2.0, 1.0],
        [2.5, 1.5],
    ]
    assert [np.asarray(line.get_ydata()).tolist() for line in probe.lines] == [[0.3, 0.4]]


def test_a_ledger_has_a_bar_for_each_network_in_order() -> None:
    rows = [
        {"network": "vgg", "how": "teacher", "test_accuracy": 0.9},
        {"network": "pupil", "how": "control: labels alone", "test_accuracy": 0.625},
    ]
    axes = ledger(rows, "a chain").axes[0]
    assert axes.containers[0].datavalues.tolist() == [0.9, 0.625]  # type: ignore[attr-defined]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["vgg, teacher", "pupil, control: labels alone"]
    assert axes.yaxis_inverted()


def shown_in(axes: Axes) -> list[Any]:
    """The values of the image that is drawn."""
    return list(np.asarray(axes.images[0].get_array()).tolist())


def test_a_confusion_matrix_shows_shares_of_rows_and_counts() -> None:
    counts = np.array([[3, 1], [0, 0]])
    (axes, _) = confusions(counts, ["cat", "dog"], "a title").axes
    assert shown_in(axes) == [[0.75, 0.25], [0, 0]]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_the_names_and_counts_of_many_classes_are_left_out() -> None:
    axes = confusions(np.eye(61, dtype=int), [str(each) for each in range(61)], "a title").axes[0]
    assert len(axes.texts) == 0
    assert len(axes.get_yticks()) < 61


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_each_image_with_its_caption(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (7, 4, 4, channels), np.uint8)
    (axes,) = sheet(images, list("abcdefg"), "a title").axes
    assert [text.get_text() for text in axes.texts] == list("abcdefg")
    canvas = np.asarray(axes.images[0].get_array()).reshape(2 * 6, 6 * 5 - 1, channels)
    for index, image in enumerate(images):  # six in a row, a third of their height above each
        top, left = index // 6 * 6 + 2, index % 6 * 5
        assert np.array_equal(canvas[top : top + 4, left : left + 4], image)
    assert (canvas[:2] == 255).all()


@pytest.mark.parametrize(
    "figure",
    [
        learning_curves(LABELS_ONLY, "a run"),
        hint_curves(HINTS, "a run"),
        comparison(compare([0.6, 0.7], [0.5, 0.61]), [0.5, 0.61], [0.6, 0.7], "a comparison"),
        ledger([{"network": "vgg", "how": "teacher", "test_accuracy": 0.9}], "a chain"),
        confusions(np.eye(3, dtype=int), ["cat", "dog", "a long name of a class"], "a title"),
        confusions(np.eye(2, dtype=int), ["$5_bill", r"$10\bill$"], r"$a\title$"),
        sheet(np.zeros((2, 4, 4, 3), np.uint8), ["first", "second"], "a title"),
    ],
    ids=["curves", "hints", "comparison", "ledger", "confusions", "dollars", "sheet"],
)
def test_every_picture_can_be_drawn(
    figure: Figure, savefig: Callable[..., None], tmp_path: Path
) -> None:
    savefig(figure, tmp_path / "picture.png", bbox_inches="tight")
    grey = np.asarray(Image.open(tmp_path / "picture.png").convert("L"))
    assert min(grey.shape) > 100
    assert 0.005 < np.mean(grey < 128) < 0.9
