"""A model that a user named, with the names of its classes."""

from __future__ import annotations

from typing import NamedTuple

import keras
import mlflow
import numpy as np

from kdflow.adapt import (
    PixelRange,
    ends_in_sigmoid,
    from_pixels,
    functional,
    with_two_logits,
    without_softmax,
)
from kdflow.artifacts.values import are_probabilities
from kdflow.errors import KdflowError
from kdflow.evaluate.metrics import predict_logits
from kdflow.model_file import MODEL_FILES, MODEL_URIS, OWN_MODEL
from kdflow.tracking.artifacts import load_keras, load_model
from kdflow.tracking.find import FoundRun, get_run
from kdflow.tracking.run import MODEL_NAME
from kdflow.tracking.store import with_retries

TRIED_IMAGES = 8
CLASSIFIES = ("teacher", "baseline", "distill")  # steps
SOURCES = f"a run's id, {OWN_MODEL}"


class NamedModel(NamedTuple):
    """A model, from uint8 pixels to logits.

    Attributes:
        class_names: in the order of the logits; empty where the model has none.
        run: that logged it; None where no run was named.
    """

    network: keras.Model
    class_names: tuple[str, ...]
    run: FoundRun | None


def find_model(source: str, pixels: PixelRange = "0..255") -> NamedModel:
    """The model that a user named.

    Args:
        source: the id of a run that logged one, `runs:/...`, `models:/...`, or a `.keras` or `.h5`
            file.
        pixels: what a model of the user's own expects.

    Raises:
        KdflowError: there is none, or it cannot be loaded.
        UnreachableError: the store does not answer.
    """
    if source.endswith(MODEL_FILES):
        return NamedModel(_giving_logits(source, pixels), (), None)
    if source.startswith(MODEL_URIS):
        return NamedModel(_giving_logits(source, pixels), class_names(source), None)
    run = get_run(source, SOURCES)
    check_classifies(run)
    return NamedModel(load_model(run), class_names_of(run), run)


def check_classifies(run: FoundRun) -> None:
    """Refuse a run without a model that classifies: a hint run's upper layers are untrained."""
    if run.step not in CLASSIFIES:
        raise KdflowError(
            f"expected a run that logged a model that classifies, got the {run.step} run"
            f" {run.run_id}"
        )


def _giving_logits(source: str, pixels: PixelRange) -> keras.Model:
    """A model that may be the user's own, without the softmax that it may end in; with one output,
    which is that of the second of two classes, it gives two logits."""
    loaded = load_keras(source)
    shape = getattr(loaded, "input_shape", None)  # a model that was never called has none
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise KdflowError(
            f"expected a model of images of one size in {source}, got one that takes {shape}"
        )
    model, _ = without_softmax(functional(loaded, shape[1:], source))
    if model.output_shape[1:] == (1,):
        model = with_two_logits(model)
    if len(model.output_shape) != 2 or model.output_shape[1] < 2:
        raise KdflowError(
            f"expected one logit per class, of two classes or more, from {source}, got outputs of"
            f" shape {model.output_shape}"
        )
    if ends_in_sigmoid(model):
        raise KdflowError(f"expected logits or a softmax from {source}, got one sigmoid per class")
    plain = from_pixels(model, pixels)
    tried = np.random.default_rng(0).integers(0, 256, (TRIED_IMAGES, *shape[1:]), np.uint8)
    if are_probabilities(predict_logits(plain, tried)):
        raise KdflowError(
            f"expected a model that gives logits or ends in a softmax from {source}, got one that"
            " gives probabilities in another way"
        )
    return plain


def class_names_of(run: FoundRun) -> tuple[str, ...]:
    """Those of the model that a run logged, in the order of its logits.

    Raises:
        UnfitError: it has logged none.
        UnreachableError: the store does not answer.
    """
    what = f"run {run.run_id} ({run.step}): its {MODEL_NAME}"
    return with_retries(what, lambda: class_names(f"runs:/{run.run_id}/{MODEL_NAME}"))


def class_names(uri: str) -> tuple[str, ...]:
    """Those that a logged or registered model has in its metadata; empty if it has none."""
    metadata = mlflow.models.get_model_info(uri).metadata or {}
    return tuple(metadata.get("class_names", ()))
