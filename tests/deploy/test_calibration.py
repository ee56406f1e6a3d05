"""Which images the ranges of int8 files are measured on."""

from dataclasses import replace

import numpy as np
import pytest

from kdflow.dataset import Dataset, split
from kdflow.deploy.calibration import calibration_images
from kdflow.errors import KdflowError


@pytest.fixture
def numbered(tiny: Dataset) -> Dataset:
    """`tiny` with images that are filled with their own number, and test images with 255."""
    x_train = np.zeros_like(tiny.x_train) + np.arange(60, dtype=np.uint8)[:, None, None, None]
    return replace(tiny, x_train=x_train, x_test=np.full_like(tiny.x_test, 255))


def numbers(images: np.ndarray) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


@pytest.mark.parametrize("seed", range(5))
def test_they_are_training_images_alone(numbered: Dataset, seed: int) -> None:
    train, validation = split(numbered.y_train, 0.2)
    drawn = numbers(calibration_images(numbered, 0.2, 12, seed))
    assert set(drawn) <= set(train.tolist())
    assert set(drawn).isdisjoint(validation.tolist())
    assert drawn == sorted(set(drawn))


def test_each_class_has_its_share(numbered: Dataset) -> None:
    drawn = numbers(calibration_images(numbered, 0.1, 15, 0))
    assert np.bincount(numbered.y_train[drawn]).tolist() == [5, 5, 5]


def test_they_follow_from_the_seed(numbered: Dataset) -> None:
    first, again, other = (numbers(calibration_images(numbered, 0.1, 15, s)) for s in (0, 0, 1))
    assert first == again != other


def test_pixels_stay_as_they_are_and_become_float32(tiny: Dataset) -> None:
    images = calibration_images(tiny, 0, 1000, 0)
    assert images.dtype == np.float32
    assert np.array_equal(images, tiny.x_train)


def test_too_few_for_all_classes_are_refused(tiny: Dataset) -> None:
    with pytest.raises(KdflowError, match="calibration_images: expected 3 or more"):
        calibration_images(tiny, 0.1, 2, 0)


@pytest.mark.parametrize("count", range(3, 70))
def test_any_number_from_one_of_each_class_on_gives_each_class_its_images(
    numbered: Dataset, count: int
) -> None:
    train, _ = split(numbered.y_train, 0.1)
    drawn = numbers(calibration_images(numbered, 0.1, count, 0))
    assert len(drawn) == min(count, len(train))
    assert set(numbered.y_train[drawn]) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_among_them(numbered: Dataset, seed: int) -> None:
    labels = np.array([0] * 29 + [1] * 29 + [2] * 2, np.uint8)
    rare = replace(numbered, y_train=labels)
    drawn = numbers(calibration_images(rare, 0, 11, seed))
    assert np.bincount(labels[drawn]).tolist() == [5, 5, 1]


def test_by_default_there_is_one_of_each_class_at_least(
    numbered: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.deploy.calibration.COUNT", 2)
    drawn = numbers(calibration_images(numbered, 0.1, 0, 0))
    assert sorted(numbered.y_train[drawn].tolist()) == [0, 1, 2]
    monkeypatch.setattr("kdflow.deploy.calibration.COUNT", 10)
    assert len(calibration_images(numbered, 0.1, 0, 0)) == 10
