"""Whether predictions fit their labels better than chance."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from kdflow.evaluate.paired import compare_paired

SIGNIFICANT = 0.001


class AgainstChance(NamedTuple):
    """Predictions against the best that a constant can do.

    Attributes:
        accuracy: the share of predictions that are right.
        majority: the share of the most frequent label.
        p_value: the probability of at least as many right predictions by guesses that are each
            right with the probability `majority`.
    """

    accuracy: float
    majority: float
    p_value: float

    @property
    def is_better(self) -> bool:
        """Whether the predictions are better than chance."""
        return self.p_value < SIGNIFICANT


def against_chance(predicted: np.ndarray, labels: np.ndarray) -> AgainstChance:
    """A one-sided binomial test of the accuracy against the most frequent label's share.

    Args:
        predicted, labels: (images,) integers from 0.
    """
    right, images = int((predicted == labels).sum()), len(labels)
    majority = int(np.bincount(labels).max()) / images
    p_value = float(binomtest(right, images, majority, alternative="greater").pvalue)
    return AgainstChance(right / images, majority, p_value)


def is_clearly_better(other: np.ndarray, given: np.ndarray) -> bool:
    """Whether other predictions of the same images are right more often, by the exact test of
    McNemar 1947.

    Args:
        other, given: (images,) booleans, whether each prediction is right.
    """
    paired = compare_paired(other, given, margin=0)
    return paired.difference > 0 and paired.p_value < 2 * SIGNIFICANT  # it is two-sided


class OtherOrder(NamedTuple):
    """An order of the classes that fits a model's outputs better than the one given.

    Attributes:
        classes: of each output, the class that it fits, (classes,) integers.
        accuracy: the share of predictions that are right in the order given.
        other_accuracy: the same in this order.
    """

    classes: np.ndarray
    accuracy: float
    other_accuracy: float


def other_class_order(predicted: np.ndarray, labels: np.ndarray, classes: int) -> OtherOrder | None:
    """The order of the classes that fits the predictions better, None if none is shown to.

    It is found on one half of the images and tested on the other: on its own half the best order
    always looks better.

    Args:
        predicted, labels: (images,) integers from 0.
    """
    shuffled = np.random.default_rng(0).permutation(len(labels))
    found_on, tested_on = shuffled[::2], shuffled[1::2]
    counts = confusion_matrix(predicted[found_on], labels[found_on], labels=range(classes))
    _, order = linear_sum_assignment(counts, maximize=True)
    right = predicted[tested_on] == labels[tested_on]
    other = order[predicted[tested_on]] == labels[tested_on]
    if not is_clearly_better(other, right):
        return None
    return OtherOrder(order, float(right.mean()), float(other.mean()))


class Alignment(NamedTuple):
    """How often predictions and labels agree, against all orders that the predictions could have.

    Attributes:
        agreeing: how many agree in the order given.
        expected, deviation: mean and standard deviation over all orders.
        most: how many agree in the best order.
    """

    agreeing: int
    expected: float
    deviation: float
    most: int

    @property
    def above_chance(self) -> float:
        """By how many standard deviations the order given is better than a random one; 0 where all
        orders agree equally often."""
        return (self.agreeing - self.expected) / self.deviation if self.deviation else 0.0

    @property
    def to_gain(self) -> float:
        """How many more can agree than do by chance."""
        return self.most - self.expected

    @property
    def skill(self) -> float:
        """The share of `to_gain` that the order given has: 1 in the best order, 0 by chance."""
        return (self.agreeing - self.expected) / self.to_gain if self.to_gain else 0.0


def alignment(predicted: np.ndarray, labels: np.ndarray) -> Alignment:
    """How well the order of the predictions fits the labels.

    Mean and variance over all orders are those of a sum over a random permutation (Hoeffding 1951,
    "A Combinatorial Central Limit Theorem", theorem 2).

    Args:
        predicted, labels: (images,) integers from 0.
    """
    images, classes = len(labels), int(max(predicted.max(), labels.max())) + 1
    p = np.bincount(labels, minlength=classes).astype(float)
    q = np.bincount(predicted, minlength=classes).astype(float)
    expected = float(p @ q) / images
    # of 1 where label and prediction agree, less the means of its row and column
    row, column = (expected - q) / images, -p / images
    squares = p @ (q * (1 + 2 * (row + column))) + images * (p @ row**2 + q @ column**2)
    variance = float(squares + 2 * (p @ row) * (q @ column)) / max(images - 1, 1)
    agreeing, most = int((predicted == labels).sum()), int(np.minimum(p, q).sum())
    return Alignment(agreeing, expected, max(variance, 0.0) ** 0.5, most)
