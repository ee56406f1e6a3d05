"""What is refused before a training is planned."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import parameters

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, about
from kdflow.steps import distill
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


@pytest.mark.parametrize(
    ("scale", "alpha", "warns"), [(1, 0.9, False), (30_000, 0.9, True), (30_000, 0, False)]
)
def test_soft_targets_that_are_hardly_more_than_labels_are_warned_of(
    scale: float, alpha: float, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a teacher that was given pixels 0..255 and expects 0..1."""
    logits: Any = SimpleNamespace(train=scale * np.random.default_rng(0).normal(size=(1, 60, 5)))
    config = parameters(DistillConfig, dataset="digits", temp=4, alpha=alpha)
    distill._warn_if_one_hot(logits, config)
    warning = "WARNING: at temp=4 the teacher's largest probability is 1.000000"
    assert (warning in capsys.readouterr().out) == warns
