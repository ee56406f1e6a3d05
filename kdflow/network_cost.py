"""How much work one image is for a network."""

import math

import keras

# Their kernel meets each position of the input, not of the output.
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def multiply_adds(network: keras.Model) -> int:
    """The multiply-adds of one image through the network's convolutions and dense layers, also of
    networks within it. Biases, normalisation, pooling and activations are not counted."""
    return sum(_of_layer(layer) for layer in network.layers)


def _of_layer(layer: keras.Layer) -> int:
    if isinstance(layer, keras.Model):
        return multiply_adds(layer)
    positions = _positions(layer.input if isinstance(layer, TRANSPOSED) else layer.output)
    kernels = (getattr(layer, name, None) for name in ("kernel", "depthwise_kernel"))
    per_position = sum(math.prod(kernel.shape) for kernel in kernels if kernel is not None)
    if isinstance(layer, (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)):
        per_position += math.prod(layer.pointwise_kernel.shape)
    return int(positions * per_position)


def _positions(tensor: keras.KerasTensor) -> int:
    return math.prod(tensor.shape[1:-1])
