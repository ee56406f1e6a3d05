"""The notebook's student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import DROPOUT_LAYER, classifier, convolution, pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def student(spec: Spec) -> keras.Model:
    """268,650 parameters on 32x32x3 images of 10 classes."""
    images, x = pixels(spec.image_shape)
    x = pool(convolution(x, 16, "conv1", first=True), "pool1")
    x = pool(convolution(x, 32, "conv2"), "pool2")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense128")(x)
    x = keras.layers.Dropout(spec.dropout, name=DROPOUT_LAYER)(x)
    return classifier(images, x, spec.classes, "student")


STUDENT = Network(
    "student",
    "the notebook's student",
    student,
    Recipe("adam", 0.001, 64, 30),
    feature_layer="pool2",
    dropout=0.3,
)
