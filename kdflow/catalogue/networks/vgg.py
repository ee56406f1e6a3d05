"""The notebook's teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import DROPOUT_LAYER, classifier, convolution, pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def vgg(spec: Spec) -> keras.Model:
    """After VGG (Simonyan and Zisserman 2015): 12,372,746 parameters on 32x32x3 images of 10
    classes."""
    images, x = pixels(spec.image_shape)
    for block, widths in enumerate([(64,) * 2, (128,) * 2, (256,) * 3, (512,) * 4], start=1):
        for layer, width in enumerate(widths, start=1):
            x = convolution(x, width, f"conv{block}_{layer}", first=block == layer == 1)
        x = pool(x, f"pool{block}")
        if block >= 3:
            x = keras.layers.Dropout(0.4, name=f"dropout{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for width in (1024, 256, 64):
        x = keras.layers.Dense(width, activation="relu", name=f"dense{width}")(x)
    x = keras.layers.Dropout(spec.dropout, name=DROPOUT_LAYER)(x)
    return classifier(images, x, spec.classes, "vgg")


VGG = Network(
    "vgg",
    "the notebook's teacher, after VGG",
    vgg,
    Recipe("sgd", 0.01, 128, 40),
    # eleven convolutions without normalisation do not start to learn 8x8 digits with this SGD
    # (EXPERIMENTS.md)
    recipes={"digits": {"learning_rate": 0.0005, "epochs": 40}},
    feature_layer="conv3_3",
    dropout=0.3,
)
