"""Whether the rows of logits are in the order of the data set's images."""

import numpy as np

from kdflow.dataset import Dataset
from kdflow.errors import Unfit
from kdflow.evaluate.chance import Alignment, alignment

# Standard deviations: from here on a split shows that its teacher knows something; up to here its
# rows fit no better than in a random order.
KNOWS, BY_CHANCE = 4, 3
ENOUGH = 10  # images that a teacher in the right order would get right beyond chance
# A teacher may do worse on images that it has not seen, or where labels are wrong. With this share
# of the skill that it has on the other split, it still does far better than a random order.
OF_TRAINING, OF_TEST = 1 / 4, 1 / 20


def check_order(what: str, train: np.ndarray, test: np.ndarray, dataset: Dataset) -> None:
    """Refuse logits whose rows are shuffled or shifted in one split: they fit the labels there no
    better than a random order of the same rows, although the other split shows that their teacher
    knows the classes. A split of one class, or with few images of all classes but one, fits equally
    well in most orders, and proves nothing.

    Args:
        train, test: (images, classes).

    Raises:
        Unfit: one split's rows are in another order.
    """
    on_train = alignment(train.argmax(axis=-1), dataset.y_train)
    on_test = alignment(test.argmax(axis=-1), dataset.y_test)
    for split, suspect, other, share in (
        ("training", on_train, on_test, OF_TRAINING),
        ("test", on_test, on_train, OF_TEST),
    ):
        if other.above_chance > KNOWS and _is_out_of_order(suspect, other.skill, share):
            raise Unfit(
                f"{what}: expected rows in the order of the data set's images, got {split} rows of"
                f" which {suspect.agreeing:,} fit their labels, where {suspect.expected:,.0f} do in"
                f" a random order and {suspect.most:,} can; on the other images"
                f" {other.agreeing:,} of {other.most:,} do"
            )


def _is_out_of_order(suspect: Alignment, skill: float, share: float) -> bool:
    could_show = skill * suspect.to_gain >= ENOUGH
    return could_show and suspect.above_chance < BY_CHANCE and suspect.skill < share * skill
