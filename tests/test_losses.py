"""The pieces of the losses against NumPy references and Keras."""

import keras
import numpy as np
import pytest
import references
from keras import ops
from references import EXACT, FLOAT

from kdflow.losses import (
    cross_entropy,
    hint_loss,
    kl_divergence,
    soft_targets,
    standardised,
)


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(10, size=32), rng.normal(0, 3, (32, 10)).astype(FLOAT)


def test_cross_entropy_is_keras_own(batch: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = batch
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(cross_entropy(labels, logits), expected, rtol=1e-6)


def test_label_smoothing_is_keras_own(batch: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = batch
    expected = keras.losses.categorical_crossentropy(
        np.eye(10, dtype=FLOAT)[labels], logits, from_logits=True, label_smoothing=0.2
    )
    np.testing.assert_allclose(cross_entropy(labels, logits, 0.2), expected, rtol=1e-6)


def test_soft_targets_sum_to_one_over_each_examples_classes() -> None:
    # the notebook divided by the sum over the whole array
    logits = np.random.default_rng(1).normal(size=(500, 10))
    found = ops.convert_to_numpy(soft_targets(logits, 4))
    np.testing.assert_allclose(found.sum(axis=-1), np.ones(500), rtol=1e-6)
    np.testing.assert_allclose(found, references.softmax(logits / 4), rtol=1e-5)


def test_the_divergence_of_a_worked_case() -> None:
    # from (3/4, 1/4) to (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
    found = kl_divergence(np.array([[np.log(3), 0]]), np.zeros((1, 2)))
    assert float(found[0]) == pytest.approx(0.75 * np.log(1.5) - 0.25 * np.log(2), rel=1e-6)


def test_small_and_large_differences_of_one_example_add_up() -> None:
    # `kl_divergence` computes terms apart where log p and log q differ by less than 1, and by more
    teacher, student = np.array([[3.0, 2, 1, 0]]), np.array([[3.1, -1, 1.2, 0.7]])
    expected = references.kl(*map(references.log_softmax, (teacher[0], student[0])))
    assert float(kl_divergence(teacher, student)[0]) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("axis", [0, 1])
def test_standardised_has_mean_0_and_variance_1(axis: int) -> None:
    x = np.random.default_rng(0).normal(5, 3, (40, 30)).astype("f4")
    found = ops.convert_to_numpy(standardised(x, axis))
    np.testing.assert_allclose(found.mean(axis=axis), np.zeros(x.shape[1 - axis]), atol=1e-5)
    np.testing.assert_allclose(found.var(axis=axis), np.ones(x.shape[1 - axis]), rtol=1e-5)


def test_standardised_is_0_where_nothing_varies() -> None:
    x = np.array([[1.0, 2.0, 6.0], [2.5, 2.5, 2.5]], "f4")
    of_first = (x[0] - 3) / np.sqrt(14 / 3)
    found = ops.convert_to_numpy(standardised(x, -1))
    np.testing.assert_allclose(found, [of_first, np.zeros(3)], rtol=1e-6)


def test_hint_loss_is_the_mean_of_the_squares_of_each_example() -> None:
    rng = np.random.default_rng(0)
    hints, regressed = rng.normal(size=(2, 5, 4, 3, 6))
    loss = ops.convert_to_numpy(hint_loss(hints, regressed))
    expected = [
        sum((r - h) ** 2 for r, h in zip(a.flat, b.flat, strict=True)) / 72
        for a, b in zip(hints, regressed, strict=True)
    ]
    np.testing.assert_allclose(loss, expected, rtol=EXACT)
    # FitNets, eq. 3: half the squared norm of the difference
    paper = [0.5 * np.linalg.norm(h - r) ** 2 for h, r in zip(hints, regressed, strict=True)]
    np.testing.assert_allclose(loss * (4 * 3 * 6) / 2, paper, rtol=EXACT)
