"""What a network is worth, computed from its logits with NumPy."""

import keras
import numpy as np
from scipy.special import log_softmax, softmax

PREDICT_BATCH = 250
ECE_BINS = 15


def predict_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The model's logits, (images, classes) float32, for uint8 images (images, h, w, channels)."""
    logits = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
    return np.asarray(logits, dtype=np.float32)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose largest logit is the label's, 0 to 1."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean negative log-likelihood of the labels, in nats."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=-1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean gap between confidence and accuracy over 15 equal bins of confidence, weighted by
    the examples in each (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3)."""
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    confidence = probabilities.max(axis=-1)
    correct = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap_per_bin = np.bincount(bins, weights=confidence - correct, minlength=ECE_BINS)
    return float(np.abs(gap_per_bin).sum() / len(labels))


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """The share of examples on which student and teacher predict the same class, 0 to 1."""
    return float(np.mean(logits.argmax(axis=-1) == teacher_logits.argmax(axis=-1)))


def final_metrics(
    logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None
) -> dict[str, float]:
    """The final metrics of a run, under the names that every step logs.

    Args:
        logits: (images, classes).
        labels: (images,) integers.
        teacher_logits: (images, classes); adds `teacher_agreement`.
    """
    metrics = {
        "test_accuracy": accuracy(logits, labels),
        "test_nll": nll(logits, labels),
        "test_ece": expected_calibration_error(logits, labels),
    }
    if teacher_logits is not None:
        metrics["teacher_agreement"] = agreement(logits, teacher_logits)
    return metrics
