"""Networks to deploy, with random weights."""

import keras
import numpy as np
import pytest

from kdflow.dataset import Dataset, Images
from kdflow.network import build


@pytest.fixture
def pupil(train: Images) -> keras.Model:
    """The smallest network of the catalogue, for the images of `tiny`."""
    return build("pupil", train, 3, seed=0)


@pytest.fixture
def pixels(tiny: Dataset) -> np.ndarray:
    """The training images of `tiny` as float32 pixels."""
    return tiny.x_train.astype(np.float32)
