"""Rows in order are accepted however odd the labels; shuffled and shifted ones are refused."""

import numpy as np
import pytest

from kdflow.artifacts.alignment import check_order
from kdflow.dataset import Dataset
from kdflow.errors import UnfitError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def labelled(y_train: np.ndarray, y_test: np.ndarray) -> Dataset:
    """A data set of these labels; its images are not looked at."""
    images = {
        f"x_{s}": np.zeros((len(y), 1, 1, 1), np.uint8)
        for s, y in (("train", y_train), ("test", y_test))
    }
    classes = int(max(y_train.max(), y_test.max())) + 1
    names = tuple(map(str, range(classes)))
    return Dataset("labels", images["x_train"], y_train, images["x_test"], y_test, names)


def logits(labels: np.ndarray, right: float, classes: int) -> np.ndarray:
    """Of a teacher that is right with this probability, and else guesses."""
    rng = np.random.default_rng((8, len(labels)))
    guessed = rng.integers(classes, size=len(labels))
    predicted = np.where(rng.random(len(labels)) < right, labels, guessed)
    return 9 * np.eye(classes, dtype=np.float32)[predicted]


def test_rows_in_order_are_accepted_where_training_labels_are_noise_to_60_percent(
    rng: np.random.Generator,
) -> None:
    true, y_test = rng.integers(10, size=5000), rng.integers(10, size=1000)
    noisy = np.where(rng.random(5000) < 0.6, rng.integers(10, size=5000), true)
    check_order("logits", logits(true, 0.95, 10), logits(y_test, 0.95, 10), labelled(noisy, y_test))


def test_rows_in_order_are_accepted_where_the_test_split_has_one_class(
    rng: np.random.Generator,
) -> None:
    y_train, y_test = rng.integers(3, size=600), np.full(200, 1)
    train, test = logits(y_train, 0.9, 3), logits(y_test, 0.5, 3)
    check_order("logits", train, test, labelled(y_train, y_test))


@pytest.mark.parametrize("found", [0, 1], ids=["a miss", "a hit"])
def test_rows_in_order_are_accepted_where_a_thousandth_of_the_test_split_is_positive(
    rng: np.random.Generator, found: int
) -> None:
    y_train, y_test = rng.integers(2, size=2000), np.eye(1000, dtype=int)[400]
    predicted = np.eye(1000, dtype=int)[400 if found else 7]
    test = 9 * np.eye(2, dtype=np.float32)[predicted]
    check_order("logits", logits(y_train, 0.95, 2), test, labelled(y_train, y_test))


def test_rows_in_order_are_accepted_of_a_teacher_that_has_learnt_its_images_by_heart(
    rng: np.random.Generator,
) -> None:
    y_train, y_test = rng.integers(10, size=2000), rng.integers(10, size=2000)
    train, test = logits(y_train, 1, 10), logits(y_test, 0.1, 10)
    check_order("logits", train, test, labelled(y_train, y_test))


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("split", ["training", "test"])
@pytest.mark.parametrize("how", ["shuffled", "shifted"])
def test_rows_in_another_order_are_refused(
    rng: np.random.Generator, how: str, split: str, classes: int
) -> None:
    labels = {name: rng.integers(classes, size=3000) for name in ("training", "test")}
    rows = {name: logits(y, 0.6, classes) for name, y in labels.items()}
    dataset = labelled(labels["training"], labels["test"])
    check_order("logits", rows["training"], rows["test"], dataset)
    other = rng.permutation(rows[split]) if how == "shuffled" else np.roll(rows[split], 1, axis=0)
    with pytest.raises(
        UnfitError, match=f"^logits: expected rows in the order .* got {split} rows in another"
    ):
        check_order(
            "logits",
            **{"train": rows["training"], "test": rows["test"]}
            | {"train" if split == "training" else "test": other},
            dataset=dataset,
        )


def test_rows_of_sorted_images_that_are_shuffled_are_refused(rng: np.random.Generator) -> None:
    # a folder of class folders is read class by class, a loader shuffles it
    labels = np.repeat(np.arange(12), 100)
    rows = logits(labels, 0.8, 12)
    with pytest.raises(UnfitError, match="got training rows in another order"):
        check_order("logits", rng.permutation(rows), rows, labelled(labels, labels))
