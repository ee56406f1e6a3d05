import numpy as np
from sklearn.datasets import load_digits

from kdflow.catalogue.datasets import find_dataset
from kdflow.dataset import Dataset

DIGITS_DIGEST = "fb7c77775016715ca2416b336577c509f73be085808749f48ede14b5b9412790"


def load() -> Dataset:
    record = find_dataset("digits")
    assert record
    return record.load("digits")


def test_digits_are_scikit_learns_images_in_a_fixed_stratified_split() -> None:
    digits, bundle = load(), load_digits()
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8
    assert (np.bincount(digits.y_test) >= 34).all()
    assert np.array_equal(
        np.sort(np.concatenate([digits.x_train, digits.x_test]).reshape(1797, 64), axis=0),
        np.sort(np.rint(bundle.data * 255 / 16).astype(np.uint8), axis=0),
    )
    # the digest pins every pixel, label and position: teachers and students share this data set
    assert digits.digest == DIGITS_DIGEST == load().digest
