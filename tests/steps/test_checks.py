"""What is refused before a training is planned."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import parameters

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, about
from kdflow.steps.checks import check_network
from kdflow.steps.distill import DistillConfig


@pytest.mark.parametrize(
    ("given", "is_refused"),
    [
        ({"loss": "ls"}, True),
        ({"loss": "dist", "dist_gamma": 0}, True),
        ({"loss": "dist"}, False),
        ({"loss": "kd"}, False),
    ],
)
def test_a_loss_that_teaches_nothing_about_two_classes_is_refused(
    given: dict[str, Any], is_refused: bool, tiny: Dataset
) -> None:
    labels = {name: np.minimum(getattr(tiny, name), 1) for name in ("y_train", "y_test")}
    two = replace(tiny, class_names=("no", "yes"), **labels)
    config = parameters(DistillConfig, dataset="digits", student="pupil", **given)
    check_network(config, tiny, {})
    if not is_refused:
        check_network(config, two, {})
        return
    loss = given["loss"]
    expected = f"^loss: expected 3 classes or more with {loss}, .*got 2"
    with pytest.raises(KdflowError, match=expected), about("student"):
        check_network(config, two, {})
