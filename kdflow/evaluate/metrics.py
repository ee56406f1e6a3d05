"""The metrics of a network, computed from its logits or its features with NumPy."""

import contextlib
import math

import keras
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax
from sklearn.metrics import recall_score

from kdflow import interrupts, views
from kdflow.errors import KdflowError
from kdflow.image_file import Pixels, batches, batches_in_part
from kdflow.kernels import fast_kernels
from kdflow.pipeline import in_batches
from kdflow.views import PhotoView, View

PREDICT_BATCH = 250
FAST_FROM = 1_000  # images; for fewer, compiling the kernels takes longer than they save
ECE_BINS = 15
TEMPERATURES = (0.05, 20)  # the lowest and the highest that calibrate
TOP_5_FROM = 20  # classes


def predict_logits(
    model: keras.Model,
    images: Pixels,
    indices: np.ndarray | None = None,
    view: View | PhotoView = views.SHIFTS[0],
) -> np.ndarray:
    """The model's logits, (m, classes) float32. Only a part of the images is copied at a time.

    Args:
        images: uint8, (n, height, width, channels).
        indices: (m,), the chosen images; all of them, in their order, if not given.
        view: in which the model sees them; without one, the images themselves.
    """
    indices = np.arange(len(images)) if indices is None else indices
    at_once = PREDICT_BATCH * batches_in_part(PREDICT_BATCH * math.prod(images.shape[1:]))
    kernels = fast_kernels if len(indices) >= FAST_FROM else contextlib.nullcontext
    parts = []
    for part in batches(indices, at_once):
        shown = images[part]
        if view not in views.UNCHANGED:
            shown = views.apply(images, np.zeros(len(part), int), part, [view])
        with interrupts.delayed(), kernels(model):
            logits = model.predict(
                **in_batches(shown, batch_size=PREDICT_BATCH),
                verbose=0,
                callbacks=[_Interruptible()],
            )
        parts.append(logits)
    return np.concatenate(parts).astype(np.float32, copy=False)


class _Interruptible(keras.callbacks.Callback):
    """Lets an interrupt take effect between two batches."""

    def on_predict_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        interrupts.raise_if_due()


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose largest logit is the label's, 0 to 1."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean negative log-likelihood of the labels, in nats; NaN if a logit is infinite."""
    with np.errstate(invalid="ignore"):
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


def fitting_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T at which logits / T have the smallest negative log-likelihood (temperature
    scaling, Guo et al. 2017, section 4.2).

    Args:
        logits: (images, classes).
        labels: (images,) integers.

    Raises:
        KdflowError: there is none from 0.05 to 20. Where every image is classified correctly, the
            likelihood rises for as long as T falls.
    """
    found = minimize_scalar(
        lambda log_t: nll(logits / np.exp(log_t), labels),
        bounds=np.log(TEMPERATURES),
        method="bounded",
    )
    temperature = float(np.exp(found.x))
    if np.isclose(temperature, TEMPERATURES, rtol=0.01).any():
        raise KdflowError(
            f"expected images that determine a temperature from {TEMPERATURES[0]} to"
            f" {TEMPERATURES[1]}, got {len(labels)} that do not (accuracy"
            f" {accuracy(logits, labels):.4f})"
        )
    return temperature


def confidence(logits: np.ndarray, temperature: float) -> float:
    """The mean of each example's largest probability at a temperature, 0 to 1."""
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=-1)
    return float(probabilities.max(axis=-1).mean())


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """The share of examples on which student and teacher predict the same class, 0 to 1."""
    return float(np.mean(logits.argmax(axis=-1) == teacher_logits.argmax(axis=-1)))


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes that occur of the accuracy on the images of each, 0 to 1."""
    return float(np.nanmean(class_accuracies(logits, labels)))


def class_accuracies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of each class's images whose largest logit is the label's, (classes,); NaN where a
    class has no images."""
    shares: np.ndarray = recall_score(
        labels,
        logits.argmax(axis=-1),
        labels=range(logits.shape[-1]),
        average=None,
        zero_division=np.nan,
    )
    return shares


def top_5_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples of which the label's logit is among the five largest, 0 to 1. Of equal
    logits, the lower class comes first, as for `accuracy`; scikit-learn's
    `top_k_accuracy_score` takes the higher one first."""
    largest = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
    return float(np.mean((largest == labels[:, np.newaxis]).any(axis=-1)))


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
        "test_balanced_accuracy": balanced_accuracy(logits, labels),
    }
    if logits.shape[-1] >= TOP_5_FROM:
        metrics["test_top5_accuracy"] = top_5_accuracy(logits, labels)
    if teacher_logits is not None:
        metrics["teacher_agreement"] = agreement(logits, teacher_logits)
    return metrics


def class_means(
    model: keras.Model, images: Pixels, labels: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """The mean of the model's output over the images of each class, (classes, values) float64.

    The outputs of one batch are held at a time: all of them may not fit in memory.

    Args:
        images: uint8, (n, height, width, channels).
        labels: (n,) integers from 0.
        indices: the chosen images, some of every class.
    """
    counts = np.bincount(labels[indices])
    sums: np.ndarray = np.zeros(())
    with fast_kernels(model):
        for batch in batches(indices, PREDICT_BATCH):
            with interrupts.delayed_to_the_end():
                outputs = model.predict_on_batch(images[batch]).reshape(len(batch), -1)
            sums = sums + np.eye(len(counts))[labels[batch]].T @ outputs
    return sums / counts[:, np.newaxis]


def nearest_class(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The class whose mean is nearest, (images,) integers: a classifier with nothing to train.

    Args:
        features: (images, ...), any shape per image.
        means: (classes, values).
    """
    nearest: np.ndarray = cdist(features.reshape(len(features), -1), means).argmin(axis=1)
    return nearest
