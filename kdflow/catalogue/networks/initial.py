"""Convolutions whose weights start from what a network should compute, not from random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import keras
    import numpy as np
else:
    keras, np = lazy_import("keras"), lazy_import("numpy")

PATCHES = 4_805_000  # of 5,000 images of CIFAR-10; enough to determine 12 directions
EPSILON = 5e-4  # added to the variances, so that the weakest directions are not noise
IMAGES_AT_A_TIME, PATCHES_AT_A_TIME = 500, 480_500  # of 500 images of CIFAR-10


def identity_convolution(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """A 3x3 convolution without bias that starts by passing its input channels on, where it has
    enough outputs; further outputs start at random (Jordan 2024, section 3.2)."""
    random = keras.initializers.GlorotUniform()

    def identity(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        kernel = keras.ops.convert_to_numpy(random(shape, dtype)).copy()
        channels = shape[2]
        kernel[..., :channels] = 0
        kernel[1, 1, :, :channels] = np.eye(channels, min(channels, shape[3]))
        started: np.ndarray = kernel
        return started

    layer = keras.layers.Conv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer=identity, name=name
    )
    return _called(layer, x)


def whitening_convolution(
    x: keras.KerasTensor, sample: Callable[[int], np.ndarray] | None, padding: str = "same"
) -> keras.KerasTensor:
    """A fixed 2x2 convolution with the filters of `whitening`, each with both signs.

    Args:
        sample: see `Spec`; without it the weights are random.
        padding: see `keras.layers.Conv2D`.
    """
    height, width, channels = x.shape[1:]
    filters = 4 * channels
    initializers: dict[str, Any] = {}
    if sample:
        images = sample(max(1, PATCHES // ((height - 1) * (width - 1))))
        kernel, bias = whitening(images)
        initializers = {
            "kernel_initializer": lambda shape, dtype=None: np.concatenate([kernel, -kernel], -1),
            "bias_initializer": lambda shape, dtype=None: np.concatenate([bias, -bias]),
        }
    layer = keras.layers.Conv2D(
        2 * filters, 2, padding=padding, trainable=False, name="whitening", **initializers
    )
    return _called(layer, x)


def _called(layer: keras.Layer, x: keras.KerasTensor) -> keras.KerasTensor:
    """The layer's output. Its config then names Keras' own initialisers, so that a saved network
    loads where kdflow is not installed."""
    output = layer(x)
    layer.kernel_initializer = keras.initializers.get("glorot_uniform")
    layer.bias_initializer = keras.initializers.get("zeros")
    return output


def whitening(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2x2 convolution whose outputs are uncorrelated, of mean 0 and of equal variance on these
    images: its filters are the patches' principal directions, each divided by its standard
    deviation.

    Args:
        images: uint8, (n, height, width, channels).

    Returns:
        The kernel, (2, 2, channels, 4 * channels), and the bias, (4 * channels,), both float32, for
        images scaled to 0..1.
    """
    height, width, channels = images.shape[1:]
    values = 4 * channels
    of_an_image = (height - 1) * (width - 1)
    at_a_time = max(1, min(IMAGES_AT_A_TIME, PATCHES_AT_A_TIME // of_an_image))
    count, total, products = 0, np.zeros(values), np.zeros((values, values))
    for start in range(0, len(images), at_a_time):
        part = images[start : start + at_a_time]
        windows = np.lib.stride_tricks.sliding_window_view(part, (2, 2), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, values) / 255
        count += len(patches)
        total += patches.sum(axis=0)
        products += patches.T @ patches
    mean = total / count
    covariance = (products - count * np.outer(mean, mean)) / (count - 1)
    variances, directions = np.linalg.eigh(covariance)
    filters = directions / np.sqrt(variances + EPSILON)
    kernel = filters.reshape(2, 2, channels, -1)
    return kernel.astype(np.float32), (-mean @ filters).astype(np.float32)
