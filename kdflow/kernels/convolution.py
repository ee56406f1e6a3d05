"""The gradient of a convolution's kernel as products of matrices.

In bfloat16 with AMX, oneDNN computes it row by row of the maps, and a row of a few pixels is a
small part of the 32 that AMX multiplies at once. The sum over all pixels of all images, as a
product of two matrices for each position of the kernel, takes a fifth to nine tenths of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import keras

from kdflow.hardware import multiplies_by_amx
from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")  # stands here because Keras has no such gradient

WIDEST, FEWEST_CHANNELS = 8, 256  # of the maps for which it is faster


def supports(layer: keras.layers.Conv2D) -> bool:
    """Whether the gradient is computed here, where the maps are small."""
    return (
        layer.compute_dtype == "bfloat16"
        and layer.data_format == "channels_last"
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and max(layer.kernel_size) > 1
        and min(layer.kernel.shape[2:]) >= FEWEST_CHANNELS
        and multiplies_by_amx()
    )


def call(layer: keras.layers.Conv2D, inputs: Any) -> Any:
    """What `layer.call` does."""
    width = inputs.shape[2]
    if width is None or width > WIDEST or inputs.dtype != layer.compute_dtype:
        return type(layer).call(layer, inputs)
    bias = layer.bias if layer.use_bias else keras.ops.zeros(layer.filters, layer.compute_dtype)
    weights = (keras.ops.convert_to_tensor(each) for each in (layer.kernel, bias))
    outputs = _convolution(layer.padding.upper(), layer.kernel_size)(inputs, *weights)
    outputs.set_shape(layer.compute_output_shape(inputs.shape))
    return outputs if layer.activation is None else layer.activation(outputs)


@cache
def _convolution(padding: str, size: tuple[int, int]) -> Callable[[Any, Any, Any], Any]:
    """A convolution in bfloat16 with the gradient of this module.

    Args:
        padding: VALID or SAME.
        size: of the kernel, (height, width).

    Returns:
        From maps (images, height, width, channels), a kernel (height, width, channels, filters) and
        a bias (filters,) to maps. It is traced once, since TensorFlow never frees a trace of a
        custom gradient.
    """

    def convolve(x: Any, kernel: Any, bias: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        def gradients(upstream: Any) -> tuple[Any, ...]:
            of_x = tensorflow.raw_ops.Conv2DBackpropInput(
                input_sizes=tensorflow.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding=padding,
            )
            # in float32, since TensorFlow would round the sum of every two numbers
            of_bias = tensorflow.reduce_sum(tensorflow.cast(upstream, "float32"), (0, 1, 2))
            of_kernel = kernel_gradient(x, upstream, size, padding)
            return of_x, of_kernel, tensorflow.cast(of_bias, bias.dtype)

        return tensorflow.nn.bias_add(tensorflow.nn.conv2d(x, kernel, 1, padding), bias), gradients

    traced = tensorflow.function(tensorflow.custom_gradient(convolve), autograph=False)
    shapes = (None, None, None, None), (*size, None, None), (None,)
    given = (tensorflow.TensorSpec(shape, "bfloat16") for shape in shapes)
    concrete: Callable[[Any, Any, Any], Any] = traced.get_concrete_function(*given)
    return concrete


def kernel_gradient(x: Any, upstream: Any, size: tuple[int, int], padding: str) -> Any:
    """The gradient of the kernel of a convolution with strides of 1.

    For each position (i, j) of the kernel it is the sum over images and pixels (r, c) of the outer
    product of x[r + i, c + j] and upstream[r, c].

    Args:
        x: the convolution's input, (images, height, width, channels).
        upstream: the gradient of its output, (images, rows, columns, filters).
        size: of the kernel, (height, width).
        padding: VALID, or SAME: zeros are added around `x`, one more at the end if their number is
            odd.

    Returns:
        (height, width, channels, filters) of `size`, in the type of `x`.
    """
    if padding == "SAME":
        around = [((each - 1) // 2, each // 2) for each in size]
        x = tensorflow.pad(x, [(0, 0), *around, (0, 0)])
    rows, columns = tensorflow.unstack(tensorflow.shape(upstream)[1:3])
    channels, filters = tensorflow.shape(x)[-1], tensorflow.shape(upstream)[-1]
    flat = tensorflow.reshape(upstream, (-1, filters))
    products = [
        tensorflow.matmul(
            tensorflow.reshape(x[:, i : i + rows, j : j + columns], (-1, channels)),
            flat,
            transpose_a=True,
        )
        for i, j in product(*map(range, size))
    ]
    return tensorflow.reshape(tensorflow.stack(products), (*size, channels, filters))
