"""What a network gets right and wrong, against cases worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from kdflow.evaluate.classes import by_class, confusions, most_confidently_wrong
from kdflow.evaluate.metrics import balanced_accuracy, final_metrics, top_5_accuracy

NAMES = ("cat", "dog", "eel")
# predicted: cat, dog, dog, cat; no eel has test images, and none is predicted
LOGITS = np.array([[3, 0, 0], [0, 9, 0], [0, 1, 0], [5, 0, 0]], np.float32)
LABELS = np.array([0, 0, 1, 1])


def test_of_each_class_precision_recall_f1_and_the_number_of_images() -> None:
    assert by_class(LOGITS, LABELS, NAMES) == {
        "class": ["cat", "dog", "eel"],
        "precision": [0.5, 0.5, 0.0],
        "recall": [0.5, 0.5, 0.0],
        "f1": [0.5, 0.5, 0.0],
        "images": [2, 2, 0],
    }


def test_confusions_have_a_row_per_class_and_a_column_per_prediction() -> None:
    assert confusions(LOGITS, LABELS).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert confusions(LOGITS[:1], np.array([1])).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_the_most_confidently_wrong_come_first() -> None:
    assert most_confidently_wrong(LOGITS, LABELS, 5).tolist() == [1, 3]  # logits 9 and 5
    assert most_confidently_wrong(LOGITS, LABELS, 1).tolist() == [1]
    assert most_confidently_wrong(LOGITS, LOGITS.argmax(axis=-1), 5).tolist() == []


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 7)), rng.choice(7, 200, p=np.arange(1, 8) / 28)
    expected = balanced_accuracy_score(labels, logits.argmax(axis=-1))
    assert balanced_accuracy(logits, labels) == pytest.approx(expected, abs=1e-12)
    # classes without test images do not count
    assert balanced_accuracy(LOGITS, LABELS) == 0.5


def test_top_5_accuracy_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(200, 30)), rng.integers(30, size=200)
    expected = top_k_accuracy_score(labels, logits, k=5, labels=range(30))
    assert top_5_accuracy(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_top_5_is_reported_from_20_classes_on() -> None:
    labels = np.zeros(3, int)
    assert "test_top5_accuracy" not in final_metrics(np.eye(3, 19), labels)
    assert final_metrics(np.eye(3, 20), labels)["test_top5_accuracy"] == 1
