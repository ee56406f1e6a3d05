"""The labels' part of what a training minimises."""

import numpy as np
import pytest
from helpers import parameters

from kdflow.dataset import Dataset, split
from kdflow.steps.baseline import BaselineConfig
from kdflow.steps.training import labels_term


def test_balanced_weights_make_every_class_count_the_same_in_the_images_that_train() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    images = np.zeros((100, 8, 8, 1), np.uint8)
    names = ("frequent", "middle", "rare")
    dataset = Dataset("uneven", images, labels, images, labels, names)
    balanced = parameters(BaselineConfig, dataset="digits", class_weight="balanced", holdout=0.25)
    counts = np.bincount(labels[split(labels, 0.25)[0]])
    assert counts.sum() == 75
    found = np.array(labels_term(balanced, dataset).class_weights)
    assert found * counts == pytest.approx([25, 25, 25])
    plain = parameters(BaselineConfig, dataset="digits", holdout=0.25)
    assert labels_term(plain, dataset).class_weights == ()
