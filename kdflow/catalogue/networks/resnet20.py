"""The smallest residual network for CIFAR-10."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.networks.layers import classifier, pixels
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")


def resnet20(spec: Spec) -> keras.Model:
    """271,098 parameters on images of three channels and 10 classes, whatever their size; but for
    the moving means and variances they are the 269,722 of He et al.

    He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2, n = 3: a
    convolution, nine blocks of two, and the mean of each map. Shortcuts have no parameters (option
    A): where a block halves the maps they take every second pixel, and new channels are zero.
    """
    images, x = pixels(spec.image_shape)
    x = keras.layers.ReLU(name="conv1_relu")(_normalised_convolution(x, 16, "conv1"))
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in (1, 2, 3):
            halves = stage > 1 and block == 1
            x = _block(x, width, f"block{stage}_{block}", halves=halves)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(images, x, spec.classes, "resnet20")


def _block(x: keras.KerasTensor, width: int, name: str, *, halves: bool) -> keras.KerasTensor:
    shortcut = _shortcut(x, width, name) if halves else x
    x = _normalised_convolution(x, width, f"{name}_conv1", halves=halves)
    x = keras.layers.ReLU(name=f"{name}_conv1_relu")(x)
    x = _normalised_convolution(x, width, f"{name}_conv2")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _shortcut(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """Every second pixel, and zeros after the channels that there are."""
    x = keras.layers.MaxPooling2D(1, strides=2, padding="same", name=f"{name}_every_second")(x)
    # Keras pads height and width: with channels first, it takes the last axis for the width
    padding = ((0, 0), (0, width - x.shape[-1]))
    return keras.layers.ZeroPadding2D(padding, data_format="channels_first", name=f"{name}_zeros")(
        x
    )


def _normalised_convolution(
    x: keras.KerasTensor, width: int, name: str, *, halves: bool = False
) -> keras.KerasTensor:
    if halves:  # "same" would centre the kernels on the pixels that the shortcut leaves out
        x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        width,
        3,
        strides=2 if halves else 1,
        padding="valid" if halves else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


RESNET20 = Network(
    "resnet20",
    "a residual student of one size for all images, He et al. 2016",
    resnet20,
    Recipe("adam", 0.001, 64, 30, "cosine"),
    recipes={"digits": {"schedule": "cosine"}},
    feature_layer="block3_1_relu",
)
