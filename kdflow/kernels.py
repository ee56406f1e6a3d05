"""Kernels of TensorFlow that pass over memory once where Keras' own operations pass many times.

On a processor, batch normalisation and GELU take longer than the convolutions between them: Keras
computes each in a dozen operations, and each of these reads and writes the whole batch. TensorFlow
has a fused kernel for the first, and its compiler XLA makes one of the second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import keras

from kdflow.hardware import computes_on_processor
from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")  # stands here because Keras has neither XLA's scope nor these

# Activations that TensorFlow computes in several operations, each element by itself.
SLOW_ACTIVATIONS = (keras.activations.gelu, keras.activations.silu, keras.activations.hard_silu)
FAST_TYPES = ("float32", "bfloat16")


@contextlib.contextmanager
def fast_kernels(network: keras.Model) -> Iterator[None]:
    """Let what is traced inside the block compute the batch normalisation and the activations of
    `network` with fewer passes over memory, on TensorFlow and a processor; elsewhere nothing
    changes. Values differ from Keras' in the last bits: statistics, and what lies between the
    passes, are float32 in either. Outside the block it is the same model as before."""
    with contextlib.ExitStack() as changed:
        if keras.backend.backend() == "tensorflow" and computes_on_processor():
            for layer in network._flatten_layers():
                if layer.compute_dtype not in FAST_TYPES:
                    continue
                if getattr(layer, "activation", None) in SLOW_ACTIVATIONS:
                    changed.enter_context(_with(layer, "activation", fused(layer.activation)))
                elif _has_fused_kernel(layer):
                    changed.enter_context(_with(layer, "call", partial(_normalise, layer)))
        yield


@contextlib.contextmanager
def _with(layer: keras.Layer, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Let `layer` have this attribute inside the block. Keras' own ways to set and delete
    attributes, which track variables, are left out."""
    before = vars(layer).get(name)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(layer, name)
        else:
            object.__setattr__(layer, name, before)


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

    # traced once for tensors of any shape: TensorFlow keeps each trace of a custom gradient for ever
    traced = tensorflow.function(differentiable, reduce_retracing=True)
    of_type = cache(
        lambda dtype: traced.get_concrete_function(tensorflow.TensorSpec(None, dtype))
    )

    def compute(x: Any) -> Any:
        y = of_type(x.dtype)(x)
        y.set_shape(x.shape)
        return y

    return compute


def _has_fused_kernel(layer: keras.Layer) -> bool:
    """Whether a layer is batch normalisation of the last axis of maps, as the kernel defines it."""
    return (
        type(layer) is keras.layers.BatchNormalization
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
        # the kernel's variance is that of the population that the batch is a sample of
        count = tensorflow.cast(tensorflow.size(inputs) / inputs.shape[-1], "float32")
        variance = outputs.batch_variance * tensorflow.maximum(count - 1, 1) / count
        for moving, new in (
            (layer.moving_mean, outputs.batch_mean),
            (layer.moving_variance, variance),
        ):
            moving.assign(moving.value * layer.momentum + new * (1 - layer.momentum))
    return outputs.y
