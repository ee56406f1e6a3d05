"""A model that kdflow did not train, from raw pixels to raw logits."""

from typing import NamedTuple

import keras
import numpy as np
from scipy.special import softmax

from kdflow import adapt
from kdflow.adapt import PixelRange
from kdflow.artifacts.values import are_probabilities
from kdflow.errors import KdflowError, reason
from kdflow.evaluate.metrics import predict_logits


class RawLogits(NamedTuple):
    """A model, made to give raw logits.

    Attributes:
        network: from pixels 0..255.
        of_expected_pixels: the same, from the pixels that the model expects.
        tried: (m, classes), the logits of the images on which it was tried.
        had_softmax: whether a final softmax was removed.
        had_one_output: whether its one output became the logits of two classes.
    """

    network: keras.Model
    of_expected_pixels: keras.Model
    tried: np.ndarray
    had_softmax: bool
    had_one_output: bool


def raw_logits(
    model: keras.Model, pixels: PixelRange, images: np.ndarray, source: str
) -> RawLogits:
    """The model without the softmax that it may end in; with one output, which is that of the
    second of two classes, it gives two logits.

    Args:
        model: functional, with one input and one output.
        pixels: what it expects.
        images: uint8, (m, height, width, channels), on which it is tried.
        source: where it is from, for messages.

    Raises:
        KdflowError: it cannot compute, does not give finite logits, ends in sigmoids, or gives
            probabilities in a way that cannot be undone.
    """
    had_one_output = model.output_shape[1:] == (1,)
    without = adapt.without_sigmoid if had_one_output else adapt.without_softmax
    made, was_removed = without(model)
    if adapt.ends_in_sigmoid(made):
        raise KdflowError(
            f"expected a network that gives logits, got {source}, which ends in a sigmoid; let it"
            " end in its logits, without an activation"
        )
    if had_one_output:
        made = adapt.with_two_logits(made)
    had_softmax = was_removed and not had_one_output
    network = adapt.from_pixels(made, pixels)
    logits = _outputs(network, images, source)
    if not np.isfinite(logits).all():
        raise KdflowError(
            f"expected a network that gives finite logits, got {source}, which does not"
        )
    if are_probabilities(logits):
        raise KdflowError(
            f"expected a network that gives logits, got {source}, which gives probabilities, and"
            " has no softmax at its end that could be removed (a folder of a teacher's"
            " probabilities can be read with values=probabilities)"
        )
    if had_softmax:
        given = _outputs(adapt.from_pixels(model, pixels), images, source)
        if not np.allclose(softmax(logits, axis=-1), given, atol=1e-4):
            raise KdflowError(
                f"expected a network that ends in a softmax over the classes, got {source}, which"
                " ends in one over something else"
            )
    return RawLogits(network, made, logits, had_softmax, had_one_output)


def _outputs(model: keras.Model, images: np.ndarray, source: str) -> np.ndarray:
    try:
        return predict_logits(model, images)
    except Exception as error:  # a user's network can fail in any way
        raise KdflowError(
            f"expected a network that takes images of shape {images.shape[1:]}, got {source}:"
            f" {reason(error)}"
        ) from error
