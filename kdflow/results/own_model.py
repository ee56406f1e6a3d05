"""A model that kdflow did not train, of a data set's images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import keras
import numpy as np

from kdflow import adapt, network
from kdflow.adapt import PIXEL_RANGES, PixelRange
from kdflow.artifacts import values
from kdflow.config.reading import Reading
from kdflow.dataset import SPLIT_SEED, Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate.chance import (
    AgainstChance,
    against_chance,
    is_clearly_better,
    other_class_order,
)
from kdflow.evaluate.metrics import predict_logits
from kdflow.model_file import MODEL_FILES, MODEL_URIS
from kdflow.naming import MOST_NAMED, named_by_hash, scope_name
from kdflow.raw_logits import RawLogits, raw_logits
from kdflow.results.records import TrainedModel
from kdflow.tracking import artifacts

TRIED_IMAGES = 100
SAMPLED_IMAGES = 500
PIXELS_CERTAIN_FROM = 0.95  # accuracy
CONVERT = "docs/teachers.md#logits-from-another-framework says how to write its logits"


def is_own_model(source: str) -> bool:
    """Whether `source` names a model that kdflow did not train."""
    return (
        source.endswith(MODEL_FILES)
        or source.startswith(MODEL_URIS)
        or adapt.is_saved_model(source)
    )


def check_pixels(source: str, reading: Reading) -> None:
    """Refuse `pixels` for what is not a model of the user's own.

    Raises:
        KdflowError: they are not 0..255.
    """
    if reading.pixels != "0..255" and not is_own_model(source):
        raise KdflowError(
            "expected a model of your own (a file, runs:/ or models:/) with"
            f" pixels={reading.pixels}, got {source}"
        )


def read(source: str, dataset: Dataset, reading: Reading) -> TrainedModel:
    """A user's model, from the data set's pixels to logits.

    Raises:
        KdflowError: it cannot be loaded without running code that it carries, does not take the
            data set's images, does not give one logit per class, or is no better than chance.
    """
    if adapt.is_saved_model(source):
        raise KdflowError(
            f"expected a .keras or .h5 file, got {source}, a SavedModel, which can carry code that"
            f" is not checked; {CONVERT}"
        )
    loaded = adapt.functional(artifacts.load_keras(source), dataset.image_shape, source)
    _check_classes(loaded, source, dataset)
    made = raw_logits(loaded, reading.pixels, dataset.x_test[:TRIED_IMAGES], source)
    if values.are_within_0_and_1(made.tried):
        raise KdflowError(
            f"expected a network that gives logits, got {source}, {values.WITHIN_0_AND_1}"
        )
    _say_changes(made, source, dataset)
    if reading.allow_weak:
        sampled = _sampled(dataset, SAMPLED_IMAGES)
        predicted = _predicted(made.network, dataset, sampled)
        warn_of_other_order(source, predicted, dataset.y_train[sampled], dataset)
    else:
        _check_accuracy(made, source, dataset, reading.pixels)
    plain = made.network
    weights_sha256 = network.weights_sha256(plain)
    # another network with these weights is another teacher
    described = f"{weights_sha256} {network.architecture_sha256(plain)}"
    digest = hashlib.sha256(described.encode()).hexdigest()
    if adapt.is_unnamed(plain) and source.endswith(MODEL_FILES):
        plain.name = scope_name(Path(source).stem)
    return TrainedModel(named_by_hash(digest), plain, weights_sha256, None, source)


def _check_classes(model: keras.Model, source: str, dataset: Dataset) -> None:
    given = model.output_shape[1:]
    if given != (dataset.classes,) and not (given == (1,) and dataset.classes == 2):
        raise KdflowError(
            f"expected a network that gives {dataset.classes} logits per image, got {source}, which"
            f" gives the shape {given}"
        )


def _say_changes(made: RawLogits, source: str, dataset: Dataset) -> None:
    if made.had_one_output:
        first, second = dataset.class_names
        print(
            f"{source}: its one output, before its sigmoid if it ends in one, is the logit of"
            f" {second}; that of {first} is 0"
        )
    if made.had_softmax:
        print(
            f"{source}: its final softmax is removed; the softmax of the logits is its original"
            " output"
        )


def _check_accuracy(made: RawLogits, source: str, dataset: Dataset, pixels: PixelRange) -> None:
    """Refuse a model that is no better than chance on the training images, or clearly better with
    other pixels: on a sample, and if that does not show it better than chance, on all of them."""
    sampled = _sampled(dataset, SAMPLED_IMAGES)
    labels = dataset.y_train[sampled]
    predicted = _predicted(made.network, dataset, sampled)
    right = predicted == labels
    result = against_chance(predicted, labels)
    if result.is_better and result.accuracy > PIXELS_CERTAIN_FROM:
        return
    ranges = [it for it in PIXEL_RANGES if it != "imagenet" or dataset.image_shape[-1] == 3]
    others = {
        other: _predicted(adapt.from_pixels(made.of_expected_pixels, other), dataset, sampled)
        for other in ranges
        if other != pixels
    }
    accuracies = {other: float((it == labels).mean()) for other, it in others.items()}
    best = max(accuracies, key=lambda other: accuracies[other])
    if against_chance(others[best], labels).is_better and is_clearly_better(
        others[best] == labels, right
    ):
        raise KdflowError(
            f"expected a model of pixels {pixels}, got {source}, whose accuracy on {len(sampled)}"
            f" training images is {result.accuracy:.4f} with these and {accuracies[best]:.4f}"
            f" with {best}; set pixels={best} (allow_weak_teacher=true accepts it as it is)"
        )
    if not result.is_better:
        labels = dataset.y_train
        predicted = _predicted(made.network, dataset, np.arange(len(labels)))
        result = against_chance(predicted, labels)
    if not result.is_better:
        found = ", ".join(f"{it:.4f} with {other}" for other, it in accuracies.items())
        order = described_order(predicted, labels, dataset)
        raise chance_level_error(
            result,
            source,
            order
            or "the pixels that it expects (on a sample of the images its accuracy is"
            f" {found}; set the parameter pixels), classes in another order, or other images than"
            " it was trained on",
        )
    warn_of_other_order(source, predicted, labels, dataset)


def warn_of_other_order(
    source: str, predicted: np.ndarray, labels: np.ndarray, dataset: Dataset
) -> None:
    """Say so if another order of the classes fits the predictions better.

    Args:
        source: whose they are, for the message.
        predicted, labels: (images,) integers.
    """
    if order := described_order(predicted, labels, dataset):
        print(f"{source}: {order}")


def described_order(predicted: np.ndarray, labels: np.ndarray, dataset: Dataset) -> str:
    """The order of the classes that fits the predictions better, in words; empty if none is shown
    to.

    Args:
        predicted, labels: (images,) integers.
    """
    other = other_class_order(predicted, labels, dataset.classes)
    if other is None:
        return ""
    moved = [
        f"output {index} fits {dataset.class_names[label]}"
        for index, label in enumerate(other.classes)
        if index != label
    ]
    return (
        "its outputs seem to be in another order than the classes"
        f" ({', '.join(dataset.class_names[:MOST_NAMED])}): {', '.join(moved[:MOST_NAMED])}. In"
        f" that order its accuracy is {other.other_accuracy:.4f}, as given {other.accuracy:.4f};"
        " reorder its outputs if that is so"
    )


def _sampled(dataset: Dataset, count: int) -> np.ndarray:
    """So many of the training images, always the same ones: ascending indices."""
    images = len(dataset.y_train)
    rng = np.random.default_rng(SPLIT_SEED)
    return np.sort(rng.choice(images, min(count, images), replace=False))


def _predicted(model: keras.Model, dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    predicted: np.ndarray = predict_logits(model, dataset.x_train, indices).argmax(axis=-1)
    return predicted


def chance_level_error(result: AgainstChance, source: str, cause: str) -> KdflowError:
    """The refusal of a model that is no better than chance."""
    return KdflowError(
        f"expected a model that is better than chance, got {source} with an accuracy of"
        f" {result.accuracy:.4f} on the training images, where the most frequent class alone gives"
        f" {result.majority:.4f} (p = {result.p_value:.2g}); likely cause: {cause};"
        " allow_weak_teacher=true accepts it"
    )
