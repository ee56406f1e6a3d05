"""A thin and deep student, the kind that hints were invented for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import classifier, pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def fitnet(spec: Spec) -> keras.Model:
    """251,194 parameters on 32x32x3 images of 10 classes.

    FitNet 1 of Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", table 7: nine convolutions
    and a dense layer of 500, each the maximum of two linear maps (Goodfellow et al. 2013, "Maxout
    Networks"), which makes the paper's 250 K. Nothing is normalised or dropped. Unlike the paper's,
    the weights start at Keras' defaults: the maps' mean square then stays the same from layer to
    layer of equal width, and the network starts to learn without hints too.
    """
    images, x = pixels(spec.image_shape)
    for block, widths in enumerate([(16, 16, 16), (32, 32, 32), (48, 48, 64)], start=1):
        for layer, width in enumerate(widths, start=1):
            name = f"conv{block}_{layer}"
            pieces = [
                keras.layers.Conv2D(width, 3, padding="same", name=f"{name}_{piece}")(x)
                for piece in (1, 2)
            ]
            x = keras.layers.Maximum(name=name)(pieces)
        if block < 3:
            x = pool(x, f"pool{block}")
    x = keras.layers.GlobalMaxPooling2D(name="pool3")(x)
    pieces = [keras.layers.Dense(500, name=f"dense500_{piece}")(x) for piece in (1, 2)]
    x = keras.layers.Maximum(name="dense500")(pieces)
    return classifier(images, x, spec.classes, "fitnet")


FITNET = Network(
    "fitnet",
    "a thin and deep student, FitNet 1 of Romero et al. 2015",
    fitnet,
    Recipe("adam", 0.001, 64, 30, "cosine"),
    recipes={"digits": {"schedule": "cosine"}},
    feature_layer="pool2",
)
