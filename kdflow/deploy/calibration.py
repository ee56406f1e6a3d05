"""The images that the ranges of an int8 file's activations are measured on."""

import numpy as np
from sklearn.model_selection import train_test_split

from kdflow.dataset import Dataset, split
from kdflow.errors import KdflowError


def calibration_images(dataset: Dataset, holdout: float, count: int, seed: int) -> np.ndarray:
    """A stratified random sample of the training images, in the data set's order: never validation
    or test images.

    Args:
        holdout: the share of the training images that are validation images.
        count: how many; all of them if there are fewer, or hardly more.
        seed: the sample follows from it.

    Returns:
        float32 pixels 0 to 255, (count, height, width, channels).

    Raises:
        KdflowError: the sample cannot hold images of every class.
    """
    indices, _ = split(dataset.y_train, holdout)
    if count < min(dataset.classes, len(indices)):
        raise KdflowError(
            f"calibration_images: expected {dataset.classes} or more, so that every class is among"
            f" them, or all {len(indices)} training images, got {count}"
        )
    if count <= len(indices) - dataset.classes:  # every class is among those left out, too
        labels = dataset.y_train[indices]
        try:
            drawn, _ = train_test_split(
                indices, train_size=count, stratify=labels, random_state=seed
            )
        except ValueError as error:  # a class of one image
            raise KdflowError(
                f"calibration_images: expected all {len(indices)} training images, since no sample"
                f" can be drawn from each class ({error}), got {count}"
            ) from error
        indices = np.sort(drawn)
    return np.asarray(dataset.x_train[indices], dtype=np.float32)
