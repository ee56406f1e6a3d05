"""Rows in order are accepted however odd the labels; shuffled and shifted ones are refused."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from kdflow.artifacts.alignment import check_order
from kdflow.dataset import Dataset
from kdflow.errors import UnfitError

SIZES = {"train": 5000, "test": 1000}


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
    """Of a teacher that is right with this probability, and else guesses, (1, images, classes)."""
    rng = np.random.default_rng((8, len(labels)))
    guessed = rng.integers(classes, size=len(labels))
    predicted = np.where(rng.random(len(labels)) < right, labels, guessed)
    return 9 * np.eye(classes, dtype=np.float32)[np.newaxis, predicted]


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
    test = 9 * np.eye(2, dtype=np.float32)[np.newaxis, predicted]
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
    rearranged = rng.permutation if how == "shuffled" else partial(np.roll, shift=1)
    other = rearranged(rows[split], axis=1)
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
        check_order("logits", rng.permutation(rows, axis=1), rows, labelled(labels, labels))


def slipped(rows: np.ndarray, after: int) -> np.ndarray:
    """The rows of a loader that skips one."""
    return np.concatenate([rows[:, :after], np.roll(rows[:, after:], -1, axis=1)], axis=1)


def as_by_file_name(rows: np.ndarray) -> np.ndarray:
    """The rows of 100 equal files that were read in the order of their names: 0, 1, 10, 11, ... A
    tenth of them is where it was."""
    by_name = sorted(range(100), key=str)
    return np.concatenate([np.split(rows, 100, axis=1)[number] for number in by_name], axis=1)


@pytest.mark.parametrize(
    ("rearranged", "refused"),
    [
        (as_by_file_name, r"[\d,]+ to [\d,]+ in another"),
        (partial(slipped, after=7300), r"[\d,]+ to [\d,]+ in another"),
    ],
    ids=["files by name", "a slip after 7,300"],
)
@pytest.mark.parametrize("right", [0.9, 0.5])
def test_rows_of_which_a_part_is_in_another_order_are_refused(
    rng: np.random.Generator, rearranged: Any, refused: str, right: float
) -> None:
    y_train, y_test = rng.integers(10, size=20_000), rng.integers(10, size=4000)
    train, test = logits(y_train, right, 10), logits(y_test, right, 10)
    dataset = labelled(y_train, y_test)
    check_order("logits", train, test, dataset)
    with pytest.raises(UnfitError, match=f"got training rows .*{refused}"):
        check_order("logits", rearranged(train), test, dataset)


def test_a_view_in_another_order_is_refused(rng: np.random.Generator) -> None:
    labels = rng.integers(10, size=3000)
    dataset, rows = labelled(labels, labels), logits(labels, 0.6, 10)
    views = np.concatenate([rows, rows, rows])
    check_order("logits", views, rows, dataset)
    views[2] = rng.permutation(rows[0])
    with pytest.raises(UnfitError, match="got training rows of view 2 in another order"):
        check_order("logits", views, rows, dataset)


@pytest.mark.parametrize("seed", range(10))
def test_rows_at_the_end_that_the_teacher_has_not_learnt_by_heart_are_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y_train, y_test = rng.integers(2, size=1000), rng.integers(2, size=300)
    learnt, seen_first = logits(y_train, 1, 2), logits(y_train, 0.3, 2)
    train = np.where(np.arange(1000)[:, np.newaxis] < 800, learnt, seen_first)
    check_order("logits", train, logits(y_test, 0.3, 2), labelled(y_train, y_test))


@pytest.mark.parametrize("seed", range(10))
def test_rows_sorted_by_class_are_accepted_where_two_classes_are_confused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.dirichlet(np.full(10, 5.0))
    labels = {split: np.sort(rng.choice(10, n, p=sizes)) for split, n in SIZES.items()}
    rows = {}
    for split, y in labels.items():
        confused = np.where(np.isin(y, (4, 5)), rng.integers(4, 6, len(y)), y)
        rows[split] = logits(confused, 0.95, 10)
    check_order("logits", rows["train"], rows["test"], labelled(labels["train"], labels["test"]))


@pytest.mark.parametrize("classes", [2, 10])
def test_a_mirrored_view_that_is_of_another_class_is_accepted(
    rng: np.random.Generator, classes: int
) -> None:
    labels = np.sort(rng.integers(classes, size=4000))
    mirrored = np.where(labels < 2, 1 - labels, labels)  # as left and right on a traffic sign
    rows = logits(labels, 0.95, classes)
    views = np.concatenate([rows, logits(mirrored, 0.95, classes)])
    check_order("logits", views, rows, labelled(labels, labels))


@pytest.mark.parametrize("seed", range(20))
def test_rows_in_order_of_a_weak_teacher_are_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y_train, y_test = rng.integers(10, size=20_000), rng.integers(10, size=4000)
    right = rng.uniform(0.05, 0.3)
    predicted = np.where(rng.random(20_000) < right, y_train, rng.integers(10, size=20_000))
    train = 9 * np.eye(10, dtype=np.float32)[np.newaxis, predicted]
    check_order("logits", train, logits(y_test, right, 10), labelled(y_train, y_test))
