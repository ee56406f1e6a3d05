"""Fused kernels for batch normalisation and for activations such as GELU.

Keras computes each of them in several operations of TensorFlow, and each operation reads and writes
the whole batch: on a processor that takes longer than the convolutions between them. TensorFlow has
a fused kernel for batch normalisation, and its compiler, XLA, makes a single one of an activation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import keras

from kdflow.hardware import computes_on_processor
from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")  # stands here because Keras offers neither kernel

# Element-wise activations that TensorFlow computes in several operations.
ACTIVATIONS = (keras.activations.gelu, keras.activations.silu, keras.activations.hard_silu)


@contextlib.contextmanager
def fused_kernels(network: keras.Model) -> Iterator[None]:
    """Let what is traced inside the block compute batch normalisation and activations of `network`
    by fused kernels, if TensorFlow computes on a processor; elsewhere nothing changes. The values
    are those of Keras up to rounding.

    XLA compiles an activation for each shape, which takes about a tenth of a second. After the
    block the layers are as before, but `network` keeps what `fit` and `predict` have traced. Inside
    the block it is not to be saved, nor to be used by another thread.
    """
    layers = network._flatten_layers() if _is_tensorflow_on_cpu() else []
    with contextlib.ExitStack() as restored:
        for layer in filter(_has_supported_types, layers):
            activation = vars(layer).get("activation")
            if any(activation is each for each in ACTIVATIONS):
                restored.callback(setattr, layer, "activation", activation)
                layer.activation = fused(activation)
            if _is_normalisation_of_maps(layer):
                restored.callback(vars(layer).pop, "call")
                vars(layer)["call"] = partial(_normalise, layer)
        yield


def _is_tensorflow_on_cpu() -> bool:
    return keras.backend.backend() == "tensorflow" and computes_on_processor()


def _has_supported_types(layer: keras.Layer) -> bool:
    return layer.compute_dtype in ("float32", "bfloat16") and layer.variable_dtype == "float32"


@cache
def fused(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, computed in float32 by a single kernel, as is its derivative.

    Args:
        activation: from a tensor to one of the same shape, element by element.
    """

    def values(x: Any) -> Any:
        return tensorflow.cast(activation(tensorflow.cast(x, "float32")), x.dtype)

    def gradient(x: Any, upstream: Any) -> Any:
        exact = tensorflow.cast(x, "float32")
        with tensorflow.GradientTape() as tape:
            tape.watch(exact)
            y = activation(exact)
        downstream = tape.gradient(y, exact, tensorflow.cast(upstream, "float32"))
        return tensorflow.cast(downstream, x.dtype)

    compiled = [
        tensorflow.function(function, jit_compile=True, autograph=False)
        for function in (values, gradient)
    ]

    def differentiable(x: Any) -> Any:
        return compiled[0](x), partial(compiled[1], x)

    traced = tensorflow.function(tensorflow.custom_gradient(differentiable), autograph=False)

    @cache
    def of_any_shape(dtype: Any) -> Any:
        # traced once, since TensorFlow never frees a trace of a custom gradient
        return traced.get_concrete_function(tensorflow.TensorSpec(None, dtype))

    def compute(x: Any) -> Any:
        y = of_any_shape(x.dtype)(x)
        y.set_shape(x.shape)
        return y

    return compute


def _is_normalisation_of_maps(layer: keras.Layer) -> bool:
    """Whether a layer is batch normalisation as TensorFlow's fused kernel defines it."""
    return (
        type(layer) is keras.layers.BatchNormalization  # of a user's subclass nothing is known
        and "call" not in vars(layer)
        and layer.built
        and layer.input_spec.ndim == 4
        and layer.axis in (-1, 3)
        and not layer.renorm
        and not layer.synchronized
    )


def _normalise(
    layer: keras.layers.BatchNormalization, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """What `layer.call` does, by the fused kernel where it can."""
    if mask is not None or inputs.dtype != layer.compute_dtype:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    uses_batch_statistics = bool(training and layer.trainable)
    ones, zeros = tensorflow.ones_like(layer.moving_mean), tensorflow.zeros_like(layer.moving_mean)
    outputs = tensorflow.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma.value if layer.scale else ones,
        offset=layer.beta.value if layer.center else zeros,
        mean=zeros[:0] if uses_batch_statistics else layer.moving_mean.value,
        variance=zeros[:0] if uses_batch_statistics else layer.moving_variance.value,
        epsilon=layer.epsilon,
        is_training=uses_batch_statistics,
    )
    if uses_batch_statistics:
        # the kernel returns the unbiased variance; Keras averages the biased one
        count = tensorflow.cast(tensorflow.size(inputs) / layer.moving_mean.shape[0], "float32")
        variance = outputs.batch_variance * tensorflow.maximum(count - 1, 1) / count
        for moving, of_batch in (
            (layer.moving_mean, outputs.batch_mean),
            (layer.moving_variance, variance),
        ):
            moving.assign(moving.value * layer.momentum + of_batch * (1 - layer.momentum))
    return outputs.y
