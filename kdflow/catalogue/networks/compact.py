"""Three networks whose number of parameters does not depend on the images' size: the defaults on a
user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import classifier, pixels, pool
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")

LARGE_SIDE = 64  # pixels; from here on the first convolution halves the maps


def broad(spec: Spec) -> keras.Model:
    """1,168,362 parameters on images of three channels and 10 classes, whatever their size."""
    return _stages(spec, [(32,), (64, 64), (128, 128), (256, 256)], "broad")


def compact(spec: Spec) -> keras.Model:
    """191,994 parameters on images of three channels and 10 classes, whatever their size."""
    return _stages(spec, [(16, 32), (64,), (96,), (128,)], "compact")


def mini(spec: Spec) -> keras.Model:
    """48,770 parameters on images of three channels and 10 classes, whatever their size."""
    return _stages(spec, [(8, 16), (32,), (48,), (64,)], "mini")


def _stages(spec: Spec, stages: Sequence[Sequence[int]], name: str) -> keras.Model:
    """Convolutions with batch normalisation, a pool after each stage but the last, and the mean of
    each map."""
    images, x = pixels(spec.image_shape)
    halved = min(spec.image_shape[:2]) >= LARGE_SIDE
    for stage, widths in enumerate(stages, start=1):
        for layer, width in enumerate(widths, start=1):
            strides = 2 if halved and stage == layer == 1 else 1
            x = _normalised_convolution(x, width, f"conv{stage}_{layer}", strides)
        if stage < len(stages):
            x = pool(x, f"pool{stage}")
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(images, x, spec.classes, name)


def _normalised_convolution(
    x: keras.KerasTensor, width: int, name: str, strides: int
) -> keras.KerasTensor:
    layer = keras.layers.Conv2D(
        width,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(layer(x))
    return keras.layers.ReLU(name=f"{name}_relu")(x)


RECIPE = Recipe("adam", 0.001, 64, 30, "cosine")

BROAD = Network(
    "broad",
    "a teacher of one size for all images",
    broad,
    RECIPE,
    feature_layer="conv3_2_relu",
)
COMPACT = Network(
    "compact",
    "a student of one size for all images",
    compact,
    RECIPE,
    feature_layer="conv3_1_relu",
)
MINI = Network(
    "mini",
    "a smaller student of one size for all images",
    mini,
    RECIPE,
    feature_layer="conv3_1_relu",
)
