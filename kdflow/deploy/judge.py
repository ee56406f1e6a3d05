"""The accuracy of a file on the test set, compared with the network's own."""

from typing import NamedTuple

import numpy as np

from kdflow.evaluate import classes, metrics
from kdflow.evaluate.paired import Paired, compare_paired


class Judged(NamedTuple):
    """A file's answers on the test set.

    Attributes:
        accuracy, nll, ece: see `metrics`.
        agreement: the share of images on which it predicts the network's class.
        largest_difference: of any logit from the network's.
        class_accuracy: of each class, (classes,); NaN where it has no images.
        confusions: how many images of each class (rows) it takes for each class (columns).
        paired: its accuracy against the network's.
        against_teacher: its accuracy against that of the network's teacher, if it is known.
    """

    accuracy: float
    nll: float
    ece: float
    agreement: float
    largest_difference: float
    class_accuracy: np.ndarray
    confusions: np.ndarray
    paired: Paired
    against_teacher: Paired | None = None


def judge(
    logits: np.ndarray,
    of_network: np.ndarray,
    labels: np.ndarray,
    margin: float,
    of_teacher: np.ndarray | None = None,
) -> Judged:
    """Compare a file's logits with those of the network that it was made of, and of its teacher.

    Args:
        logits, of_network, of_teacher: (images, classes).
        labels: (images,) integers.
        margin: the largest loss of accuracy that counts as none, 0 to 1.
    """

    def against(others: np.ndarray) -> Paired:
        right, others_right = (each.argmax(axis=1) == labels for each in (logits, others))
        return compare_paired(right, others_right, margin)

    return Judged(
        metrics.accuracy(logits, labels),
        metrics.nll(logits, labels),
        metrics.expected_calibration_error(logits, labels),
        metrics.agreement(logits, of_network),
        float(np.abs(logits - of_network).max()),
        metrics.class_accuracies(logits, labels),
        classes.confusions(logits, labels),
        against(of_network),
        None if of_teacher is None else against(of_teacher),
    )
