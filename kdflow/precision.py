"""Compute in bfloat16 for a while, with the weights in float32 (Micikevicius et al. 2018, "Mixed
Precision Training", section 3.1). bfloat16 has the range of float32, so that no loss is scaled."""

import contextlib
from collections.abc import Iterator

import keras

from kdflow.hardware import Precision
from kdflow.kernels import fast_kernels

# Keras computes in a layer's policy as it traces the layer, and casts what the layer is given.
MIXED = "mixed_bfloat16"
PREPROCESSING = "keras.src.layers.preprocessing."  # of pixels, such as Rescaling or RandomRotation


@contextlib.contextmanager
def computing_in(precision: Precision, network: keras.Model) -> Iterator[None]:
    """Let what is traced inside the block compute `network` in this type; in float32 nothing
    changes. Outside the block it is the same model as before.

    In bfloat16 these still compute in float32: the layer that makes the output (the logits) and
    what follows it, and the layers of `_keeps_dtype`. Batch normalisation takes its statistics in
    float32 by itself.

    Args:
        network: functional or sequential.
    """
    layers = _in_bfloat16(network) if precision == "bfloat16" else []
    kept = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = MIXED
        yield
    finally:
        for layer, policy in zip(layers, kept, strict=True):
            layer.dtype_policy = policy


@contextlib.contextmanager
def predicting_in(precision: Precision, network: keras.Model) -> Iterator[keras.Model]:
    """The same network, whose `predict` computes in this type, with fast kernels, inside the
    block."""
    # `predict` keeps what it has traced: that of the network itself is to stay as it was
    again = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    with computing_in(precision, network), fast_kernels(network):
        yield again


def _in_bfloat16(network: keras.Model) -> list[keras.Layer]:
    """The layers that compute in bfloat16, and those that they consist of."""
    last = {id(layer) for layer in _making_output(network)}
    return [it for it in _all_layers(network) if id(it) not in last and not _keeps_dtype(it)]


def _all_layers(network: keras.Model) -> Iterator[keras.Layer]:
    """The layers in their order, those of networks within, and those that layers consist of."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield from layer._flatten_layers()


def _keeps_dtype(layer: keras.Layer) -> bool:
    """Whether a layer keeps its type: a user's file sets another one than float32; it is
    a preprocessing layer, or its outputs are regularised, neither of which TensorFlow can always do
    in bfloat16; or it is dropout, whose masks would be others there."""
    return bool(
        layer.dtype_policy.name != "float32"
        or PREPROCESSING in type(layer).__module__
        or layer.activity_regularizer
        or isinstance(layer, (keras.layers.Dropout, keras.layers.InputLayer))
    )


def _making_output(network: keras.Model) -> list[keras.Layer]:
    """The last layers with weights and those that follow them, with those that they consist of."""
    found: list[keras.Layer] = []
    tensors, seen = list(network.outputs), set()
    while tensors:
        operation, call, _ = tensors.pop()._keras_history
        if (operation, call) in seen:
            continue
        seen.add((operation, call))
        if isinstance(operation, keras.Model):
            found += _making_output(operation)
        elif isinstance(operation, keras.Layer):
            found += operation._flatten_layers()
        if not getattr(operation, "weights", ()):
            tensors += operation._inbound_nodes[call].input_tensors
    return found
