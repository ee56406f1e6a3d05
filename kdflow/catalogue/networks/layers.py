"""The layers that several networks share. Pools round up (`padding="same"`), so that any image size
fits; on 32x32 each map has the notebook's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras

    from kdflow.image_file import ImageShape
else:
    keras = lazy_import("keras")

DROPOUT_LAYER = "dropout"  # before the last layer


def pixels(image_shape: ImageShape) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input, raw uint8 pixels, and the same scaled to 0..1."""
    images = keras.Input(image_shape, dtype="uint8", name="images")
    return images, keras.layers.Rescaling(1 / 255, name="rescaling")(images)


def convolution(
    x: keras.KerasTensor, width: int, name: str, *, first: bool = False
) -> keras.KerasTensor:
    """A 3x3 convolution with ReLU; the network's first one starts as He et al. 2015 have it."""
    initializer = "he_normal" if first else "glorot_uniform"
    return keras.layers.Conv2D(
        width, 3, padding="same", activation="relu", kernel_initializer=initializer, name=name
    )(x)


def pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """The maximum of each 2x2 block."""
    return keras.layers.MaxPooling2D(2, padding="same", name=name)(x)


def classifier(
    images: keras.KerasTensor, features: keras.KerasTensor, classes: int, name: str
) -> keras.Model:
    """The network that ends in one dense layer of logits."""
    return keras.Model(images, keras.layers.Dense(classes, name="logits")(features), name=name)
