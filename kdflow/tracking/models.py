"""A model that a user named, with the names of its classes."""

from __future__ import annotations

from typing import NamedTuple

import keras
import mlflow
import numpy as np

from kdflow.adapt import PixelRange, functional
from kdflow.errors import KdflowError
from kdflow.model_file import MODEL_FILES, MODEL_URIS, OWN_MODEL
from kdflow.raw_logits import raw_logits
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
    """The network of a model that may be the user's own."""
    loaded = load_keras(source)
    shape = getattr(loaded, "input_shape", None)  # a model that was never called has none
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise KdflowError(
            f"expected a model of images of one size in {source}, got one that takes {shape}"
        )
    model = functional(loaded, shape[1:], source)
    if len(model.output_shape) != 2:
        raise KdflowError(
            f"expected one logit per class from {source}, got outputs of shape {model.output_shape}"
        )
    tried = np.random.default_rng(0).integers(0, 256, (TRIED_IMAGES, *shape[1:]), np.uint8)
    return raw_logits(model, pixels, tried, source).network


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
