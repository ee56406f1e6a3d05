"""A teacher for people without a GPU, and a student like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdflow.catalogue.networks import initial
from kdflow.catalogue.networks.layers import pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def fast(spec: Spec) -> keras.Model:
    """1,973,944 parameters on 32x32x3 images of 10 classes.

    After Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU": a fixed whitening
    convolution, three groups of two convolutions with batch normalisation, global max-pooling, and
    logits scaled down. Unlike there, the whitening convolution is padded, so that the maps are 32,
    16 and 8 pixels wide on 32x32 images.
    """
    images, x = pixels(spec.image_shape)
    x = initial.whitening_convolution(x, spec.sample)
    return _groups(spec, images, x, (64, 256, 256), pool, "fast")


def whitened(spec: Spec) -> keras.Model:
    """262,296 parameters on images of three channels and 10 classes, whatever their size.

    `fast` with narrow groups, and with the maps of Jordan 2024: the whitening convolution is not
    padded and pools round down, so that they are 31, 15, 7 and 3 pixels wide on 32x32 images. The
    widths keep it below 270,000 parameters and 40 million multiply-adds.
    """
    images, x = pixels(spec.image_shape)
    x = initial.whitening_convolution(x, spec.sample, padding="valid")
    return _groups(spec, images, x, (64, 78, 78), _pool_rounding_down, "whitened")


def _groups(
    spec: Spec,
    images: keras.KerasTensor,
    x: keras.KerasTensor,
    widths: Sequence[int],
    pool: Callable[[keras.KerasTensor, str], keras.KerasTensor],
    name: str,
) -> keras.Model:
    """The network from its whitening convolution on, with a group of two convolutions a width."""
    x = keras.layers.Activation("gelu", name="whitened")(x)
    for group, width in enumerate(widths, start=1):
        x = pool(initial.identity_convolution(x, width, f"conv{group}_1"), f"pool{group}")
        x = _normalised(x, f"norm{group}_1")
        x = initial.identity_convolution(x, width, f"conv{group}_2")
        x = _normalised(x, f"norm{group}_2")
    x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
    x = keras.layers.Dense(spec.classes, use_bias=False, name="unscaled_logits")(x)
    return keras.Model(images, keras.layers.Rescaling(1 / 9, name="logits")(x), name=name)


def _pool_rounding_down(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """The maximum of each 2x2 block; a map that is one pixel high or wide stays so."""
    padding = "same" if 1 in x.shape[1:3] else "valid"
    return keras.layers.MaxPooling2D(2, padding=padding, name=name)(x)


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
WHITENED = Network(
    "whitened",
    "a student like `fast`, of one size for all images",
    whitened,
    Recipe("speedrun", 0.19, 512, 40, "triangular", augment=18),
    recipes=FAST.recipes,
    feature_layer="norm2_2_gelu",
    smallest_side=2,
)
