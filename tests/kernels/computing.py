"""Tensors as arrays, and the gradients of a network, for the tests of kernels."""

from typing import Any

import keras
import numpy as np
import pytest

from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="these kernels are TensorFlow's"
)
TYPES = {"float32": 3e-6, "bfloat16": 2**-8}  # and the largest error, relative to max(1, |value|)


def as_array(tensor: Any) -> np.ndarray:
    return np.asarray(tensorflow.cast(tensor, "float32"), np.float64)


def weighing(shape: tuple[int, ...]) -> np.ndarray:
    """What the gradients are taken of: the sum of the outputs, weighed by these numbers."""
    return np.random.default_rng(1).normal(size=shape)


def outputs_and_gradients(
    network: keras.Model, x: np.ndarray, training: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The network's output, and the gradients of its input and its weights."""

    def step(x: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(x)
            y = network(x, training=training)
        upstream = tensorflow.cast(weighing(y.shape), y.dtype)
        return y, tape.gradient(y, [x, *network.trainable_weights], output_gradients=upstream)

    y, gradients = tensorflow.function(step)(tensorflow.constant(x, "float32"))
    return as_array(y), [as_array(each) for each in gradients]
