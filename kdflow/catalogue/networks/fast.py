"""A teacher for people without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks import initial
from kdflow.catalogue.networks.layers import pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.late import late

if TYPE_CHECKING:
    import keras
else:
    keras = late("keras")


def fast(spec: Spec) -> keras.Model:
    """1,973,944 parameters on 32x32x3 images of 10 classes.

    After Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU": a fixed whitening
    convolution, three groups of two convolutions with batch normalisation, global max-pooling, and
    logits scaled down. Unlike there, the whitening convolution is padded, so that the maps are 32,
    16 and 8 pixels wide on 32x32 images.
    """
    images, x = pixels(spec.image_shape)
    x = initial.whitening_convolution(x, spec.sample)
    x = keras.layers.Activation("gelu", name="whitened")(x)
    for group, width in enumerate((64, 256, 256), start=1):
        x = pool(initial.identity_convolution(x, width, f"conv{group}_1"), f"pool{group}")
        x = _normalised(x, f"norm{group}_1")
        x = initial.identity_convolution(x, width, f"conv{group}_2")
        x = _normalised(x, f"norm{group}_2")
    x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
    x = keras.layers.Dense(spec.classes, use_bias=False, name="unscaled_logits")(x)
    return keras.Model(images, keras.layers.Rescaling(1 / 9, name="logits")(x), name="fast")


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(momentum=0.9, scale=False, name=name)(x)
    return keras.layers.Activation("gelu", name=f"{name}_gelu")(x)


FAST = Network(
    "fast",
    "a teacher for people without a GPU, after Jordan 2024",
    fast,
    # views 0 to 49 are the mirrored and unmirrored images, shifted by up to 2 pixels
    Recipe("speedrun", 0.375, 512, 16, "triangular", augment=50),
    recipes={"digits": {"epochs": 10}},
    feature_layer="norm2_2_gelu",
    smallest_side=2,
)
