"""A file's answers beside the network's own."""

import numpy as np
import pytest

from kdflow.deploy.judge import judge
from kdflow.evaluate.metrics import class_accuracies

LABELS = np.array([0, 0, 1, 1, 1])
NETWORK = np.array([[2.0, 0], [2, 0], [0, 2], [0, 2], [2, 0]])  # 4 of 5
FILE = np.array([[2.0, 0.5], [0, 2], [0, 2], [0, 2], [0, 1]])  # loses image 1, gains image 4


def test_every_figure_by_hand() -> None:
    judged = judge(FILE, NETWORK, LABELS, margin=0.01)
    assert judged.accuracy == 0.8
    assert judged.agreement == 0.6
    assert judged.largest_difference == 2.0
    assert judged.confusions.tolist() == [[1, 1], [0, 3]]
    assert judged.class_accuracy.tolist() == [0.5, 1.0]
    assert (judged.paired.lost, judged.paired.gained, judged.paired.difference) == (1, 1, 0)
    # -log of softmax(2, .5), (0, 2), (2, 0), (2, 0) and (1, 0) at the label
    gaps = np.array([-1.5, 2, -2, -2, -1])
    assert judged.nll == pytest.approx(np.log1p(np.exp(gaps)).mean())


def test_the_teacher_is_another_reference() -> None:
    assert judge(FILE, NETWORK, LABELS, margin=0.01).against_teacher is None
    right = np.eye(2)[LABELS]
    judged = judge(FILE, NETWORK, LABELS, 0.01, of_teacher=right)
    assert judged.against_teacher is not None
    assert (judged.against_teacher.lost, judged.against_teacher.gained) == (1, 0)
    assert judged.against_teacher.difference == pytest.approx(-0.2)
    assert judged.paired.difference == 0


def test_a_class_without_test_images_has_no_accuracy() -> None:
    low, middle, high = class_accuracies(np.eye(3)[[0, 0, 2]], np.array([0, 2, 2]))
    assert (low, high) == (1.0, 0.5)
    assert np.isnan(middle)
