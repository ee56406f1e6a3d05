"""The notebook's smallest network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import DROPOUT_LAYER, classifier, convolution, pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def pupil(spec: Spec) -> keras.Model:
    """131,882 parameters on 32x32x3 images of 10 classes."""
    images, x = pixels(spec.image_shape)
    x = pool(convolution(x, 16, "conv1", first=True), "pool1")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(32, activation="relu", name="dense32")(x)
    x = keras.layers.Dropout(spec.dropout, name=DROPOUT_LAYER)(x)
    return classifier(images, x, spec.classes, "pupil")


PUPIL = Network(
    "pupil",
    "the notebook's smallest network",
    pupil,
    # most of its few units die at the notebook's constant rate (EXPERIMENTS.md)
    Recipe("adam", 0.001, 64, 20, "triangular"),
    feature_layer="pool1",
    dropout=0.2,
)
