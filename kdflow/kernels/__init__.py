"""Faster kernels for what Keras leaves to several operations of TensorFlow, or to slow ones.

Keras computes batch normalisation, and activations such as GELU, in several operations of
TensorFlow, and each operation reads and writes the whole batch: on a processor that takes longer
than the convolutions between them. The gradient of a convolution's kernel takes several times as
long as the convolution where maps are small.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

from kdflow.hardware import computes_on_processor
from kdflow.kernels import activations, convolution, normalisation

# The modules that compute what `layer.call` does, by the type of the layer: of a user's subclass
# nothing is known. `supports` says for which layers, once built; `call` takes the layer first.
CALLS = {keras.layers.BatchNormalization: normalisation, keras.layers.Conv2D: convolution}


@contextlib.contextmanager
def fast_kernels(network: keras.Model) -> Iterator[None]:
    """Let what is traced inside the block compute batch normalisation, activations and the
    gradients of kernels of `network` faster, if TensorFlow computes on a processor; elsewhere
    nothing changes. The values are those of Keras up to rounding; in bfloat16 GELU is a polynomial.

    XLA compiles an activation for each shape, which takes about a tenth of a second. After the
    block the layers are as before, but `network` keeps what `fit` and `predict` have traced. Inside
    the block it is not to be saved, nor to be used by another thread.
    """
    layers = network._flatten_layers() if _is_tensorflow_on_cpu() else []
    with contextlib.ExitStack() as restored:
        for layer in filter(_has_supported_types, layers):
            attributes = vars(layer)
            for name, value in _replacements(layer).items():
                if name in attributes:
                    restored.callback(attributes.__setitem__, name, attributes[name])
                else:
                    restored.callback(attributes.pop, name)
                attributes[name] = value
        yield


def _replacements(layer: keras.Layer) -> dict[str, Any]:
    """The attributes that a layer gets in place of its own, by name."""
    found: dict[str, Any] = {}
    activation = vars(layer).get("activation")
    if any(activation is each for each in activations.ACTIVATIONS):
        found["activation"] = activations.fused(activation)
    module = CALLS.get(type(layer))
    if module and layer.built and "call" not in vars(layer) and module.supports(layer):
        found["call"] = partial(module.call, layer)
    return found


def _is_tensorflow_on_cpu() -> bool:
    return keras.backend.backend() == "tensorflow" and computes_on_processor()


def _has_supported_types(layer: keras.Layer) -> bool:
    return layer.compute_dtype in ("float32", "bfloat16") and layer.variable_dtype == "float32"
