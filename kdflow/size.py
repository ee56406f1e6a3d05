"""How large a network is: parameters, multiply-adds, bytes."""

import math
from typing import NamedTuple

import keras
import numpy as np


class Size(NamedTuple):
    """The size of a network.

    Attributes:
        parameters: how many numbers its weights are.
        multiply_adds: those of one image through its convolutions and dense layers.
        weight_bytes: what its weights take.
    """

    parameters: int
    multiply_adds: int
    weight_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters, {self.multiply_adds / 1e6:,.1f} million"
            f" multiply-adds per image, {self.weight_bytes / 1e6:,.2f} MB"
        )


def size_of(network: keras.Model) -> Size:
    """The size of a network that is built for images of a fixed shape."""
    stored = sum(
        math.prod(weight.shape) * np.dtype(weight.dtype).itemsize for weight in network.weights
    )
    return Size(network.count_params(), multiply_adds(network), stored)


def multiply_adds(network: keras.Model) -> int:
    """The multiply-adds of one image through the network's convolutions and dense layers, also
    those of the networks in it. A layer that is called several times counts once."""
    return sum(map(_of_layer, network.layers))


def _of_layer(layer: keras.Layer) -> int:
    if isinstance(layer, keras.Model):
        return multiply_adds(layer)
    if hasattr(layer, "pointwise_kernel"):  # a separable convolution: two in turn, equally large
        kernels = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
    elif hasattr(layer, "kernel"):
        kernels = math.prod(layer.kernel.shape)
    else:
        return 0
    # a transposed convolution multiplies each of its inputs by the kernel, the others each output
    is_transposed = isinstance(layer, (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose))
    positions = (layer.input if is_transposed else layer.output).shape[1:-1]
    return int(math.prod(positions) * kernels)
