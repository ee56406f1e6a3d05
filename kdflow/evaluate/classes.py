"""What a network gets right and wrong, class by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


def by_class(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, list[Any]]:
    """A row per class as columns: its name, precision, recall, F1 and number of images.

    Recall is the accuracy on the images of that class. What is not defined, say the precision of a
    class that is never predicted, is 0.

    Args:
        logits: (images, classes).
        labels: (images,) integers.
        names: of the classes.
    """
    precision, recall, f1, images = precision_recall_fscore_support(
        labels, logits.argmax(axis=-1), labels=range(len(names)), zero_division=0
    )
    return {
        "class": list(names),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "images": images.tolist(),
    }


def confusions(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images of each class (rows) are predicted to be of each class (columns), integers.

    Args:
        logits: (images, classes).
        labels: (images,) integers.
    """
    counts: np.ndarray = confusion_matrix(
        labels, logits.argmax(axis=-1), labels=range(logits.shape[-1])
    )
    return counts


def most_confidently_wrong(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The indices of at most `count` images that are predicted wrongly, (images,), those with the
    largest probability of the predicted class first.

    Args:
        logits: (images, classes).
        labels: (images,) integers.
    """
    confidence = softmax(logits.astype(np.float64), axis=-1).max(axis=-1)
    wrong = np.flatnonzero(logits.argmax(axis=-1) != labels)
    worst: np.ndarray = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return worst
