"""A model that was not trained by kdflow: load it, and make sure that it can teach."""

import numpy as np

from kdflow import logits, models, tracking
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate import predict_logits
from kdflow.steps.record import TrainedModel

TRIED_IMAGES = 100


def is_brought(source: str) -> bool:
    """Whether `source` names a model by where it is kept: a `.keras` file, or what MLflow calls
    `runs:/...` and `models:/...`."""
    return source.endswith(".keras") or source.startswith(("runs:/", "models:/"))


def load(source: str, data: Dataset) -> TrainedModel:
    """The model that is kept at `source`.

    Raises:
        KdflowError: it cannot be loaded without running code that it carries, does not take the
            data's images, or does not give one logit per class.
    """
    network = tracking.load_keras(source)
    try:
        outputs = predict_logits(network, data.x_test[:TRIED_IMAGES])
    except Exception as error:  # a foreign network can fail in any way
        reason = " ".join(str(error).split())
        raise KdflowError(
            f"expected a network that takes images of shape {data.image_shape}, got {source}:"
            f" {reason}"
        ) from error
    images = min(TRIED_IMAGES, len(data.x_test))
    if outputs.shape != (images, data.classes):
        raise KdflowError(
            f"expected a network that gives {data.classes} logits per image, got {source}, which"
            f" gives the shape {outputs.shape} for {images} images"
        )
    if not np.isfinite(outputs).all():
        raise KdflowError(
            f"expected a network that gives finite logits, got {source}, which does not"
        )
    if logits.are_probabilities(outputs):
        raise KdflowError(
            f"expected a network that gives logits, got {source}, which gives probabilities (take"
            " the softmax from its last layer)"
        )
    weights_sha256 = models.weights_sha256(network)
    return TrainedModel(
        f"sha256:{weights_sha256}", network, weights_sha256, holdout=None, words=source
    )
