"""Whether the rows of logits are in the order of the data set's images."""

import numpy as np

from kdflow.dataset import Dataset
from kdflow.errors import UnfitError
from kdflow.evaluate.chance import Alignment, alignment
from kdflow.evaluate.metrics import class_accuracies

# In standard deviations: above the first, the teacher is better than chance; below the second, the
# rows predict their labels no better than in a random order.
MIN_ABOVE_CHANCE, MAX_RANDOM = 4, 3
MIN_GAIN = 10  # images that a teacher in the right order would get right beyond chance
# A teacher may do worse on images that it has not seen, or where labels are wrong. With this share
# of the skill that it has on the other split, it still does far better than a random order.
MIN_TRAIN_SKILL, MIN_TEST_SKILL = 1 / 4, 1 / 20
# A split whose order fits its labels is examined in at most so many parts, each so large that the
# right order would show in it by so many standard deviations.
MOST_PARTS, SHOWN_IN_PART = 20, 6
MIN_PART_SHARE = 1 / 4  # of the skill of all parts, and of what the right order would give


def check_order(what: str, train: np.ndarray, test: np.ndarray, dataset: Dataset) -> None:
    """Refuse logits of which the rows of a split, of a large part of it or of a view are in another
    order than the images: they fit the labels there no better than a random order of the same rows,
    although the other split, the rest of the split or view 0 shows that their teacher is better
    than chance. Rows of one class, or with few images of all classes but one, fit equally well in
    most orders, and prove nothing. Nor do every second rows.

    Args:
        train, test: (views, images, classes).

    Raises:
        UnfitError: says which rows are in another order.
    """
    views = {"training": train, "test": test}
    labels = {"training": dataset.y_train, "test": dataset.y_test}
    whole = {split: alignment(views[split][0].argmax(axis=-1), labels[split]) for split in views}
    for split, other, share in (
        ("training", "test", MIN_TRAIN_SKILL),
        ("test", "training", MIN_TEST_SKILL),
    ):
        if _is_out_of_order(whole[split], whole[other], share):
            raise _error(what, f"{split} rows", whole[split], whole[other])
    for split, other in (("training", "test"), ("test", "training")):
        recall = class_accuracies(views[other][0], labels[other])
        for number, view in enumerate(views[split]):
            rows = f"{split} rows" + (f" of view {number}" if number else "")
            of_view = alignment(view.argmax(axis=-1), labels[split])
            # a mirror image may be of another class, and its view far worse than a random order
            if of_view.above_chance > -MAX_RANDOM and _is_out_of_order(
                of_view, whole[split], MIN_TRAIN_SKILL
            ):
                raise _error(what, rows, of_view, whole[split])
            _check_parts(what, rows, view, labels[split], of_view, recall)


def _is_out_of_order(suspect: Alignment, other: Alignment, share: float) -> bool:
    """Whether rows are no better than a random order, and have less than `share` of the skill of
    others."""
    could_show = other.skill * suspect.to_gain >= MIN_GAIN
    is_random = suspect.above_chance < MAX_RANDOM and suspect.skill < share * other.skill
    return other.above_chance > MIN_ABOVE_CHANCE and could_show and is_random


def _check_parts(
    what: str,
    rows: str,
    view: np.ndarray,
    labels: np.ndarray,
    whole: Alignment,
    recall: np.ndarray,
) -> None:
    """Refuse a view of which consecutive rows are no better than a random order, although the
    classes of these rows are known elsewhere.

    Args:
        view: (images, classes).
        recall: of each class in the other split, NaN where it has none. What counts is the smaller
            one of this and of the view's own: a class may be harder than others, a split may be
            harder, and a teacher may have learnt some images by heart.
    """
    count = min(MOST_PARTS, int((max(whole.above_chance, 0) / SHOWN_IN_PART) ** 2))
    if count < 2:
        return
    predicted, known = view.argmax(axis=-1), np.fmin(recall, class_accuracies(view, labels))
    for part in np.array_split(np.arange(len(labels)), count):
        found = alignment(predicted[part], labels[part])
        gain = known[labels[part]].sum() - found.expected
        if (
            _is_out_of_order(found, whole, MIN_PART_SHARE)
            and gain >= max(MIN_GAIN, SHOWN_IN_PART * found.deviation)
            and found.agreeing - found.expected < MIN_PART_SHARE * gain
        ):
            raise _error(what, f"{rows} {part[0]:,} to {part[-1]:,}", found, whole)


def _error(what: str, rows: str, found: Alignment, other: Alignment) -> UnfitError:
    return UnfitError(
        f"{what}: expected rows in the order of the data set's images, got {rows} in another order:"
        f" {found.agreeing:,} predictions match their labels; a random order would give about"
        f" {found.expected:,.0f}, the best order {found.most:,} (compared with:"
        f" {other.agreeing:,} of at most {other.most:,}; if their order is certain, write them with"
        " in_order=True)"
    )
