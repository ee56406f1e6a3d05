"""Whether the rows of logits are in the order of the data set's images."""

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


def check_order(what: str, train: np.ndarray, test: np.ndarray, dataset: Dataset) -> None:
    """Refuse logits whose rows are shuffled or shifted in one split: they fit the labels there no
    better than a random order of the same rows, although the other split shows that their teacher
    is better than chance. A split of one class, or with few images of all classes but one, fits
    equally well in most orders, and proves nothing.

    Args:
        train, test: (images, classes).

    Raises:
        UnfitError: one split's rows are in another order.
    """
    on_train = alignment(train.argmax(axis=-1), dataset.y_train)
    on_test = alignment(test.argmax(axis=-1), dataset.y_test)
    for split, suspect, other, share in (
        ("training", on_train, on_test, MIN_TRAIN_SKILL),
        ("test", on_test, on_train, MIN_TEST_SKILL),
    ):
        if other.above_chance > MIN_ABOVE_CHANCE and _is_out_of_order(suspect, other.skill, share):
            raise UnfitError(
                f"{what}: expected rows in the order of the data set's images, got {split} rows in"
                f" another order: {suspect.agreeing:,} predictions match their labels; a random"
                f" order would give about {suspect.expected:,.0f}, the best order"
                f" {suspect.most:,} (other split: {other.agreeing:,} of at most {other.most:,})"
            )


def _is_out_of_order(suspect: Alignment, skill: float, share: float) -> bool:
    could_show = skill * suspect.to_gain >= MIN_GAIN
    return could_show and suspect.above_chance < MAX_RANDOM and suspect.skill < share * skill
