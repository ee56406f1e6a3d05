"""Fused kernels for batch normalisation and for activations such as GELU.

Keras computes each of them in several operations of TensorFlow, and each operation reads and writes
the whole batch: on a processor that takes longer than the convolutions between them. TensorFlow has
a fused kernel for batch normalisation, and its compiler XLA makes one of an activation.
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

# Those that TensorFlow computes in several operations; each element by itself.
ACTIVATIONS = (keras.activations.gelu, keras.activations.silu, keras.activations.hard_silu)


@contextlib.contextmanager
def fast_kernels(network: keras.Model) -> Iterator[None]:
    """Let what is traced inside the block compute batch normalisation and activations of `network`
    by fused kernels, if TensorFlow computes on a processor; elsewhere nothing changes. The values
    are those of Keras up to rounding. Outside the block it is the same model as before."""
    is_here = keras.backend.backend() == "tensorflow" and computes_on_processor()
    layers = [layer for layer in network._flatten_layers() if is_here and _has_types(layer)]
    activations = [
        (layer, layer.activation)
        for layer in layers
        if getattr(layer, "activation", None) in ACTIVATIONS
    ]
    normalisations = [layer for layer in layers if _is_normalisation_of_maps(layer)]
    try:
        for layer, activation in activations:
            layer.activation = fused(activation)
        for layer in normalisations:
            vars(layer)["call"] = partial(_normalise, layer)
        yield
    finally:
        for layer, activation in activations:
            layer.activation = activation
        for layer in normalisations:
            vars(layer).pop("call", None)


@cache
def fused(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of each element, computed in float32 in one pass over memory, as its
    derivative is.

    Args:
        activation: from a tensor to one of the same shape, element by element.
    """

    @tensorflow.function(jit_compile=True)
    def values(x: Any) -> Any:
        return tensorflow.cast(activation(tensorflow.cast(x, "float32")), x.dtype)

    @tensorflow.function(jit_compile=True)
    def gradient(x: Any, upstream: Any) -> Any:
        exact = tensorflow.cast(x, "float32")
        with tensorflow.GradientTape() as tape:
            tape.watch(exact)
            y = activation(exact)
        slope = tape.gradient(y, exact, tensorflow.cast(upstream, "float32"))
        return tensorflow.cast(slope, x.dtype)

    @tensorflow.custom_gradient
    def differentiable(x: Any) -> Any:
        return values(x), lambda upstream: gradient(x, upstream)

    # traced once, for tensors of any shape: TensorFlow never frees a trace of a custom gradient
    traced = tensorflow.function(differentiable, reduce_retracing=True)
    of_type = cache(
        lambda dtype: traced.get_concrete_function(tensorflow.TensorSpec(None, dtype))
    )

    def compute(x: Any) -> Any:
        y = of_type(x.dtype)(x)
        y.set_shape(x.shape)
        return y

    return compute


def _has_types(layer: keras.Layer) -> bool:
    """Whether a layer has the types that the kernels are made for."""
    return layer.compute_dtype in ("float32", "bfloat16") and layer.variable_dtype == "float32"


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
    """What `layer.call` does, with TensorFlow's fused kernel."""
    if mask is not None:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    of_batch = bool(training and layer.trainable)
    ones, zeros = tensorflow.ones_like(layer.moving_mean), tensorflow.zeros_like(layer.moving_mean)
    outputs = tensorflow.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma.value if layer.scale else ones,
        offset=layer.beta.value if layer.center else zeros,
        mean=zeros[:0] if of_batch else layer.moving_mean.value,
        variance=zeros[:0] if of_batch else layer.moving_variance.value,
        epsilon=layer.epsilon,
        is_training=of_batch,
    )
    if of_batch:
        # the kernel divides by count - 1
        count = tensorflow.cast(tensorflow.size(inputs) / inputs.shape[-1], "float32")
        variance = outputs.batch_variance * tensorflow.maximum(count - 1, 1) / count
        for moving, new in (
            (layer.moving_mean, outputs.batch_mean),
            (layer.moving_variance, variance),
        ):
            moving.assign(moving.value * layer.momentum + new * (1 - layer.momentum))
    return outputs.y
