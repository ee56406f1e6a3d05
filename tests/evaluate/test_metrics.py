import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neighbors import NearestCentroid

from kdflow.dataset import Images
from kdflow.evaluate.metrics import (
    accuracy,
    agreement,
    class_means,
    expected_calibration_error,
    final_metrics,
    nearest_class,
    nll,
    predict_logits,
)
from kdflow.features import features
from kdflow.network import build


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (400, 5)), rng.integers(5, size=400)


def test_nll_of_an_infinite_logit_is_no_number() -> None:
    assert math.isnan(nll(np.array([[np.inf, 0.0], [1.0, 0.0]]), np.array([0, 0])))


def test_accuracy_and_nll_are_scikit_learns(scored: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = scored
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert accuracy(logits, labels) == accuracy_score(labels, logits.argmax(axis=1))
    assert nll(logits, labels) == pytest.approx(log_loss(labels, probabilities))


def test_calibration_error_of_a_worked_case() -> None:
    # confidence 0.9, right in 1 of 2: a gap of 0.4; confidence 0.6, right in 2 of 2: again 0.4
    def logits_of(confidence: float) -> list[float]:
        return [np.log(confidence), np.log(1 - confidence)]

    logits = np.array([logits_of(0.9), logits_of(0.9), logits_of(0.6), logits_of(0.6)])
    assert expected_calibration_error(logits, np.array([0, 1, 0, 0])) == pytest.approx(0.4)


def test_calibration_error_agrees_with_a_loop_over_bins(
    scored: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, labels = scored
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert expected_calibration_error(logits, labels) == pytest.approx(error)


def test_a_certain_prediction_falls_into_the_last_bin() -> None:
    assert expected_calibration_error(np.array([[1e3, 0.0]]), np.array([0])) == 0


def test_agreement_counts_equal_predictions_whatever_the_label() -> None:
    mine = np.array([[2.0, 1], [0, 1], [3, 0], [0, 3]])
    theirs = np.array([[5.0, 0], [1, 0], [1, 0], [0, 1]])
    assert agreement(mine, theirs) == 0.75


def test_final_metrics_name_the_agreement_only_with_a_teacher(
    scored: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, labels = scored
    alone = final_metrics(logits, labels)
    assert set(alone) == {"test_accuracy", "test_nll", "test_ece", "test_balanced_accuracy"}
    assert final_metrics(logits, labels, logits) == alone | {"teacher_agreement": 1.0}


def test_predicted_logits_come_from_the_network_without_dropout() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    network = build("pupil", Images(images, np.arange(7) % 4, np.arange(7)), 4, seed=0)
    logits = predict_logits(network, images)
    assert logits.shape == (7, 4)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, network(images, training=False), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # of ReLUs that never fire
def test_the_nearest_class_mean_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 8, 8, 1), np.uint8)
    labels = rng.integers(4, size=600).astype(np.uint8)
    chosen = rng.permutation(600)[:550]  # more than one batch, the last a smaller one
    part = features(build("pupil", Images(images, labels, chosen), 4, seed=0), "pool1")
    means = class_means(part, images, labels, chosen)
    maps = np.asarray(part(images), np.float64).reshape(600, -1)
    reference = NearestCentroid().fit(maps[chosen], labels[chosen])
    np.testing.assert_allclose(means, reference.centroids_, rtol=1e-5)
    found = nearest_class(np.asarray(part(images)), means)
    assert np.array_equal(found, reference.predict(maps))
