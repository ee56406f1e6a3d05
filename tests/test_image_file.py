import pickle
from pathlib import Path

import numpy as np
import pytest

from kdflow.dataset import Images, sha256
from kdflow.image_file import PART_BYTES, ImageFile, batches, batches_in_part
from kdflow.views import apply

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), np.uint8)


@pytest.fixture
def stored(tmp_path: Path) -> ImageFile:
    np.save(tmp_path / "images.npy", IMAGES)
    return ImageFile(tmp_path / "images.npy", sha256(IMAGES))


def test_it_has_shape_type_and_digest_of_the_array(stored: ImageFile) -> None:
    assert (stored.shape, len(stored)) == (IMAGES.shape, 20)
    assert (stored.dtype, stored.nbytes) == (IMAGES.dtype, IMAGES.nbytes)
    assert sha256(stored) == sha256(IMAGES)


@pytest.mark.parametrize(
    "chosen",
    [
        slice(None),
        slice(3, 7),
        slice(-4, 100),
        slice(7, 3),
        slice(None, None, -1),
        np.array([5, 0, 5, -1]),
        np.array([], int),
        np.arange(20) % 3 == 0,
        3,
        -1,
    ],
    ids=str,
)
def test_what_is_indexed_is_what_the_array_gives(stored: ImageFile, chosen: slice) -> None:
    found = stored[chosen]
    assert type(found) is np.ndarray
    assert found.shape == IMAGES[chosen].shape
    assert np.array_equal(found, IMAGES[chosen])


def test_an_index_that_there_is_not_is_refused(stored: ImageFile) -> None:
    with pytest.raises(IndexError):
        stored[np.array([20])]


def test_it_is_read_after_its_file_was_deleted_and_in_another_process(stored: ImageFile) -> None:
    again = pickle.loads(pickle.dumps(stored))
    stored.path.unlink()
    assert np.array_equal(stored[:], IMAGES)
    assert np.array_equal(again[:], IMAGES)


def test_a_file_that_was_cut_off_is_no_image(stored: ImageFile) -> None:
    stored.path.write_bytes(stored.path.read_bytes()[:-1])
    assert np.array_equal(stored[:19], IMAGES[:19])
    with pytest.raises(OSError, match="ends before its last image"):
        stored[19]


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 3, 1)), np.zeros((2, 3), np.uint8), np.asfortranarray(IMAGES)]
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "other.npy", array)
    with pytest.raises(ValueError, match="expected uint8 images in C order"):
        ImageFile(tmp_path / "other.npy", "")


def test_views_and_samples_are_those_of_the_array(stored: ImageFile) -> None:
    views, order = np.arange(10) % 4, np.arange(19, 9, -1)
    assert np.array_equal(apply(stored, views, order), apply(IMAGES, views, order))
    one, other = (Images(images, np.zeros(20, int), order) for images in (stored, IMAGES))
    assert np.array_equal(one.sample(5), other.sample(5))


def test_a_part_is_as_many_batches_as_fit_and_at_least_one() -> None:
    assert batches_in_part(PART_BYTES // 3) == 3
    assert batches_in_part(PART_BYTES // 3 + 1) == 2
    assert batches_in_part(PART_BYTES + 1) == 1


def test_batches_keep_the_order_and_leave_nothing_out() -> None:
    found = [batch.tolist() for batch in batches(np.array([5, 3, 1, 4, 2]), 2)]
    assert found == [[5, 3], [1, 4], [2]]
