"""A student without convolutions, as in an experiment that the notebook dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import classifier, pixels
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def dense(spec: Spec) -> keras.Model:
    """253,130 parameters on 32x32x3 images of 10 classes, about as many as the other students."""
    images, x = pixels(spec.image_shape)
    x = keras.layers.Flatten(name="flatten")(x)
    for layer in (1, 2):
        x = keras.layers.Dense(80, activation="relu", name=f"dense80_{layer}")(x)
    return classifier(images, x, spec.classes, "dense")


DENSE = Network("dense", "a student without convolutions", dense, Recipe("adam", 0.001, 64, 30))
