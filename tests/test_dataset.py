from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdflow.dataset import Dataset, Images, sha256, split
from kdflow.errors import KdflowError

# --- split --------------------------------------------------------------------------------------


def test_the_split_is_stratified_disjoint_complete_and_always_the_same() -> None:
    labels = np.repeat(np.arange(10), 100)
    train, validation = split(labels, 0.1)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert np.array_equal(np.bincount(labels[validation]), np.full(10, 10))
    np.random.seed(5)
    again = split(labels, 0.1)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])


@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=6),
    holdout=st.floats(0.05, 0.5),
    order=st.integers(0, 2**31),
)
def test_any_split_is_stratified_within_one_image_of_each_class(
    counts: list[int], holdout: float, order: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(order).permutation(labels)
    assume(holdout * len(labels) >= len(counts))  # else it is refused
    train, validation = split(labels, holdout)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    held = np.bincount(labels[validation], minlength=len(counts))
    share = len(validation) / len(labels)
    assert share == pytest.approx(holdout, abs=1 / len(labels))
    assert (abs(held - share * np.array(counts)) < 1 + 1e-9).all()
    np.random.seed(order % 2**32)  # whatever ran before, and however the labels are stored
    for same, first in zip(
        split(labels.astype(np.uint8), holdout), (train, validation), strict=True
    ):
        assert np.array_equal(same, first)


def test_without_holdout_every_image_is_trained_on() -> None:
    train, validation = split(np.arange(10), 0)
    assert np.array_equal(train, np.arange(10))
    assert len(validation) == 0


def test_a_holdout_that_misses_a_class_is_refused() -> None:
    with pytest.raises(
        KdflowError, match=r"^holdout: expected .* from 20 training images, got 0.1"
    ):
        split(np.repeat(np.arange(10), 2), 0.1)


# --- a sample -----------------------------------------------------------------------------------


def numbered(indices: np.ndarray, total: int = 1000) -> Images:
    """Images of two pixels, each of which says which one it is, sorted by class."""
    number = np.arange(total)
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8)
    return Images(images.reshape(total, 1, 2, 1), np.repeat(np.arange(10), total // 10), indices)


def numbers(sample: np.ndarray) -> np.ndarray:
    return np.asarray(sample.reshape(-1, 2).astype(int) @ [256, 1])


def test_a_sample_is_drawn_over_the_whole_set() -> None:
    drawn = numbers(numbered(np.arange(1000)).sample(200))
    of_each_class = np.bincount(drawn // 100, minlength=10)
    assert of_each_class.sum() == 200
    assert of_each_class.min() >= 10  # 20 of each class on average, 4 as their deviation
    assert of_each_class.max() <= 32


def test_a_sample_is_always_the_same() -> None:
    images = numbered(np.arange(1000))
    first = images.sample(50)
    np.random.seed(3)
    assert np.array_equal(first, images.sample(50))


@given(
    indices=st.lists(st.integers(0, 999), min_size=1, max_size=60, unique=True),
    count=st.integers(1, 100),
)
def test_a_sample_has_no_image_twice_and_only_chosen_ones(indices: list[int], count: int) -> None:
    drawn = numbers(numbered(np.array(indices)).sample(count))
    assert len(drawn) == min(count, len(indices)) == len(set(drawn))
    assert set(drawn) <= set(indices)


# --- the digest ---------------------------------------------------------------------------------


def test_the_digest_depends_on_every_array_and_not_on_the_name(tiny: Dataset) -> None:
    assert replace(tiny, name="other").digest == tiny.digest
    for name in ("x_train", "y_train", "x_test", "y_test"):
        turned = replace(tiny, **{name: getattr(tiny, name)[::-1]})
        assert turned.digest != tiny.digest, name


def test_the_hash_is_that_of_the_values_in_order_however_they_lie_in_memory() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert sha256(np.asfortranarray(array)) == sha256(array) == sha256(np.repeat(array, 2, 0)[::2])
    assert sha256(array.T) != sha256(array)
