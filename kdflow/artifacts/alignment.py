"""Whether the rows of logits are in the order of the data set's images."""

import itertools

import numpy as np

from kdflow.dataset import Dataset
from kdflow.errors import UnfitError
from kdflow.evaluate.chance import Alignment, alignment

# In standard deviations: above the first, the teacher is better than chance; below the second, the
# rows predict their labels no better than in a random order.
MIN_ABOVE_CHANCE, MAX_RANDOM = 4, 3
MIN_GAIN = 10  # images that a teacher in the right order would get right beyond chance
# A teacher may do worse on images that it has not seen, or where labels are wrong. With this share
# of the skill that it has on the other split, it still does far better than a random order.
MIN_TRAIN_SKILL, MIN_TEST_SKILL = 1 / 4, 1 / 20
# Of the skill on the test split: not even wrong labels explain less on the training split.
LEAST_TRAIN_SKILL = 1 / 20
# A split whose order fits its labels is compared part by part with itself: at most so many parts,
# each so large that the split's own skill would show in it by so many standard deviations.
MOST_PARTS, SHOWN_IN_PART = 20, 6
MIN_PART_SKILL = 1 / 4


def check_order(what: str, train: np.ndarray, test: np.ndarray, dataset: Dataset) -> None:
    """Refuse logits of which the rows of a split, of a part of it or of a view are in another order
    than the images: they fit the labels there no better than a random order of the same rows,
    although the other split, the rest of the split or view 0 shows that their teacher is better
    than chance. Rows of one class, or with few images of all classes but one, fit equally well in
    most orders, and prove nothing.

    Args:
        train, test: (views, images, classes).

    Raises:
        UnfitError: says which rows are in another order.
    """
    predicted = {"training": train.argmax(axis=-1), "test": test.argmax(axis=-1)}
    labels = {"training": dataset.y_train, "test": dataset.y_test}
    whole = {split: alignment(predicted[split][0], labels[split]) for split in labels}
    on_train, on_test = whole["training"], whole["test"]
    _check(what, "training rows", on_train, on_test, MIN_TRAIN_SKILL, LEAST_TRAIN_SKILL)
    _check(what, "test rows", on_test, on_train, MIN_TEST_SKILL)
    for split, views in predicted.items():
        for number, view in enumerate(views):
            rows = f"{split} rows" + (f" of view {number}" if number else "")
            of_view = alignment(view, labels[split])
            if number:
                _check(what, rows, of_view, whole[split], MIN_TRAIN_SKILL)
            _check_parts(what, rows, view, labels[split], of_view)


def _check_parts(
    what: str, rows: str, predicted: np.ndarray, labels: np.ndarray, whole: Alignment
) -> None:
    """Compare consecutive parts of a view with all of it.

    Args:
        predicted, labels: (images,) integers.
    """
    count = min(MOST_PARTS, int((max(whole.above_chance, 0) / SHOWN_IN_PART) ** 2))
    if count < 2:
        return
    edges = np.linspace(0, len(labels), count + 1).astype(int)
    for first, end in itertools.pairwise(edges):
        part = alignment(predicted[first:end], labels[first:end])
        _check(what, f"{rows} {first:,} to {end - 1:,}", part, whole, MIN_PART_SKILL)


def _check(
    what: str,
    rows: str,
    suspect: Alignment,
    other: Alignment,
    share: float,
    least: float = 0,
) -> None:
    """Refuse rows that are no better than a random order, and have less than `share` of the skill
    of others, or that have less than `least` of it."""
    could_show = other.skill * suspect.to_gain >= MIN_GAIN
    if other.above_chance <= MIN_ABOVE_CHANCE or not could_show:
        return
    is_random = suspect.above_chance < MAX_RANDOM and suspect.skill < share * other.skill
    if is_random or suspect.skill < least * other.skill:
        raise UnfitError(
            f"{what}: expected rows in the order of the data set's images, got {rows} in another"
            f" order: {suspect.agreeing:,} predictions match their labels; a random order would"
            f" give about {suspect.expected:,.0f}, the best order {suspect.most:,} (compared with:"
            f" {other.agreeing:,} of at most {other.most:,})"
        )
