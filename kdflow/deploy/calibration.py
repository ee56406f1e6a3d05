"""The images that the ranges of an int8 file's activations are measured on."""

import numpy as np
import pandas as pd

from kdflow.dataset import Dataset, split
from kdflow.errors import KdflowError

COUNT = 500


def calibration_images(dataset: Dataset, holdout: float, count: int, seed: int) -> np.ndarray:
    """A stratified random sample of the training images, in the data set's order, with one image of
    each class or more: never validation or test images.

    Args:
        holdout: the share of the training images that are validation images.
        count: how many; all of them if there are fewer; 0 is `COUNT`, or one of each class if
            there are more classes.
        seed: the sample follows from it.

    Returns:
        float32 pixels 0 to 255, (count, height, width, channels).

    Raises:
        KdflowError: the sample cannot hold images of every class.
    """
    indices, _ = split(dataset.y_train, holdout)
    count = count or max(COUNT, dataset.classes)
    if count < min(dataset.classes, len(indices)):
        raise KdflowError(
            f"calibration_images: expected {dataset.classes} or more, so that every class is among"
            f" them, or all {len(indices)} training images, got {count}"
        )
    shuffled = np.random.default_rng(seed).permutation(indices)
    by_class = pd.Series(dataset.y_train[shuffled]).groupby(dataset.y_train[shuffled])
    # 0 for the first image of each class, and so on in even steps up to 1
    place_in_class = by_class.cumcount() / by_class.transform("size")
    drawn = np.sort(shuffled[np.argsort(place_in_class, kind="stable")[:count]])
    return np.asarray(dataset.x_train[drawn], dtype=np.float32)
